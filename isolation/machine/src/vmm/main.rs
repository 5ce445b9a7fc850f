//! `atoll-vmm`: the process of one virtual machine, its serial console on the standard streams.
//!
//! ```text
//!   --config FILE (VmmConfig) ─► kernel, ramdisk, devices ─► Machine ─► exit code
//!   stdin ─► Keys (Ctrl-A x leaves) ─► Machine::input;  console ─► stdout;  errors ─► stderr
//! ```
//!
//! Exit codes: 0 when the guest powered off or the user left, 1 for errors of ours and for guests that died. A reset
//! begins the machine anew.
//!
//! Threads: the machine's, one that reads the standard input, one for signals: SIGTERM, SIGINT and SIGHUP end the
//! machine. When our parent dies we go on; when our terminal goes, SIGHUP ends us.

#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "a program that reports to its user")]

mod control;
mod keys;
mod terminal;

use std::error::Error;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use atoll_machine::{
    Backend, BootSource, End, Machine, MachineConfig, MachineError, Snapshot, Source, VmmConfig,
    boot, devices, kernel::KernelStore,
};
use atoll_memory::GuestMemory;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

const USAGE: &str = "usage: atoll-vmm --config FILE\n\
    \n\
    Runs the virtual machine that FILE describes, its console on the terminal; Ctrl-A x leaves.\n\
    `atoll machine boot` writes such a file and starts this program.";

/// The machine that runs at present: a reset replaces it.
type Current = Arc<Mutex<Option<Arc<Machine>>>>;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let config = match &words[..] {
        [flag, file] if flag == "--config" => file,
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(125);
        }
    };
    let ended = read_config(Path::new(config)).and_then(|config| run(&config));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn read_config(path: &Path) -> Result<VmmConfig, MachineError> {
    let action = format!("read {}", path.display());
    let text = std::fs::read(path).map_err(MachineError::io(action.clone()))?;
    serde_json::from_slice(&text).map_err(|why| MachineError::io(action)(why.into()))
}

fn run(config: &VmmConfig) -> Result<(), MachineError> {
    let current = Current::default();
    let backend = config.backend.choose();
    // Removed on every way out of this function.
    let _socket = match &config.control {
        Some(path) => {
            let (listener, file) = control::bind(path)?;
            control::serve(listener, &current, config, backend)?;
            Some(file)
        }
        None => None,
    };
    watch_signals(&current)?;
    // As it was again on every way out.
    let raw = terminal::RawMode::enter();
    let mut reads_input = false;
    loop {
        let started = Instant::now();
        let machine = Arc::new(match &config.source {
            Source::Boot(source) => boot_machine(config, source, backend)?,
            Source::Restore(folder) => restore_machine(config, folder, backend)?,
        });
        replace(&current, Some(Arc::clone(&machine)));
        if !std::mem::replace(&mut reads_input, true) {
            // Not before there is somebody to read it.
            keys::read_input(&current)?;
        }
        machine.start()?;
        let ended = machine.wait();
        replace(&current, None);
        if config.statistics {
            statistics(&machine, started, raw.is_some());
        }
        match (ended?, &config.source) {
            (End::PowerOff | End::Stopped, _) => return Ok(()),
            (End::Reset, Source::Boot(_)) => {}
            (End::Reset, Source::Restore(_)) => {
                eprintln!(
                    "atoll-vmm: the guest asked for a reset; a restored machine has no kernel to begin with"
                );
                return Ok(());
            }
        }
    }
}

fn boot_machine(
    config: &VmmConfig,
    source: &BootSource,
    backend: Backend,
) -> Result<Machine, MachineError> {
    let hypervisor = backend.open()?;
    let mut kernel = KernelStore::new(&source.kernel_store).open(&source.kernel)?;
    kernel.protocol = source.protocol.unwrap_or(kernel.protocol);
    let initrd = match &source.initrd {
        Some(path) => Some(boot::read_initrd(path)?),
        None => None,
    };
    // Each page that it touches first costs a guest of KVM an exit; the CPU in software has none.
    let memory = match hypervisor.name() {
        "kvm" => GuestMemory::in_huge_pages(source.memory_bytes)?,
        _ => GuestMemory::new(source.memory_bytes)?,
    };
    let shape = MachineConfig {
        cpus: source.cpus,
        tsc_khz: None,
    };
    let devices = devices::of_config(config)?;
    let output = Box::new(io::stdout());
    let machine = Machine::new(shape, &*hypervisor, memory, devices, output)?;
    machine.load(&mut kernel, initrd.as_deref(), &source.command_line)?;
    Ok(machine)
}

fn restore_machine(
    config: &VmmConfig,
    folder: &Path,
    backend: Backend,
) -> Result<Machine, MachineError> {
    let hypervisor = backend.open()?;
    let (snapshot, memory) = Snapshot::open(folder)?;
    let devices = devices::of_config(config)?;
    let output = Box::new(io::stdout());
    let machine = Machine::new(snapshot.shape()?, &*hypervisor, memory, devices, output)?;
    machine.restore(&snapshot)?;
    Ok(machine)
}

fn replace(current: &Current, machine: Option<Arc<Machine>>) {
    *current.lock().unwrap_or_else(PoisonError::into_inner) = machine;
}

/// Signals end the machine that runs, as if it had been switched off.
fn watch_signals(current: &Current) -> Result<(), MachineError> {
    let failed = || MachineError::io("wait for signals");
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(failed())?;
    let current = Arc::clone(current);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for _ in signals.forever() {
                if let Some(machine) = &*current.lock().unwrap_or_else(PoisonError::into_inner) {
                    machine.stop();
                }
            }
        })
        .map_err(failed())?;
    Ok(())
}

fn statistics(machine: &Machine, started: Instant, raw: bool) {
    let end = if raw { "\r\n" } else { "\n" };
    let seconds = started.elapsed().as_secs_f64();
    eprint!("atoll-vmm: {seconds:.3} s");
    if let Some(instructions) = machine.instructions() {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let rate = instructions as f64 / seconds / 1e6;
        eprint!(", {instructions} instructions, {rate:.1} MIPS");
    }
    eprint!("{end}");
}

/// What failed, because of what, and what to do.
fn report(error: &MachineError) {
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(source) = cause {
        eprintln!("  because: {source}");
        cause = source.source();
    }
    if let MachineError::Dead { console, .. } = error {
        eprintln!("its console's last lines:");
        for line in console {
            eprintln!("  {line}");
        }
    }
    if let Some(hint) = error.hint() {
        eprintln!("hint: {hint}");
    }
}
