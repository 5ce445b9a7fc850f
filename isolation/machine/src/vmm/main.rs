//! `atoll-vmm`: the process of one virtual machine, its serial console on the standard streams.
//!
//! ```text
//!   --config FILE (VmmConfig) ─► Host: kernel, ramdisk, host ends ─► jail ─► Machine ─► exit code
//!   --ask SOCKET REQUEST ─► another monitor's control socket ─► its answer on stdout
//!   --learn FOLDER, code on stdin ─► what of it is true of the saved machine there ─► its `code`
//!   stdin ─► Keys (Ctrl-A x leaves) ─► Machine::input;  console ─► stdout;  errors ─► stderr
//! ```
//!
//! Exit codes: 0 when the guest powered off or the user left, 1 for errors of ours and for guests that died. A reset
//! begins the machine anew, of what was opened before the jail closed. With `--ask`: 0 when it was done, else 1. 125 for
//! a command line that is none.
//!
//! Threads: the machine's, one that reads the standard input, one for signals: SIGTERM, SIGINT and SIGHUP end the
//! machine. When our parent dies we go on, unless it asked for another end (`--parent`); when our terminal goes, SIGHUP ends us.

#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "a program that reports to its user")]

mod ask;
mod control;
mod host;
mod keys;
mod terminal;

use std::error::Error;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use atoll_machine::{End, Machine, MachineError, Source, VmmConfig};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use ask::Question;
use host::Host;

const USAGE: &str = "usage: atoll-vmm --config FILE [--parent PID]\n\
    \x20      atoll-vmm --ask SOCKET <status | pause | resume | stop | save FOLDER | balloon BYTES>\n\
    \x20      atoll-vmm --learn FOLDER < CODE\n\
    \n\
    Runs the virtual machine that FILE describes, its console on the terminal; Ctrl-A x leaves.\n\
    `atoll machine boot` writes such a file and starts this program. With --parent it is killed when that process, its\n\
    parent, ends.\n\
    With --ask, asks the monitor whose control socket is SOCKET, and prints its answer.\n\
    With --learn, gives the machine saved in FOLDER the code that a copy of it has executed.";

/// What fails when there can be no handlers, or no thread for them.
const AWAIT: &str = "wait for signals";

/// The machine that runs at present: a reset replaces it.
type Current = Arc<Mutex<Seat>>;

/// Its place.
#[derive(Debug, Default)]
struct Seat {
    machine: Option<Arc<Machine>>,
    /// Whether the end was asked for, maybe between two machines.
    leaves: bool,
}

impl Seat {
    /// Ends the machine, and any that would follow.
    fn leave(&mut self) {
        self.leaves = true;
        if let Some(machine) = &self.machine {
            machine.stop();
        }
    }
}

fn main() -> ExitCode {
    // A monitor lives as long as its machine, and what it needs to begin it does not need again.
    atoll_sys::allocator::keep_small();
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let ended = match &words[..] {
        [flag, file, rest @ ..] if flag == "--config" => {
            let Some(parent) = parent(rest) else {
                return usage();
            };
            VmmConfig::read(Path::new(file))
                .and_then(|config| run(&config, parent))
                .map(|()| true)
        }
        [flag, folder] if flag == "--learn" => rustix::io::dup(std::io::stdin())
            .map_err(|errno| MachineError::io("read the code")(errno.into()))
            .and_then(|code| atoll_machine::learn(Path::new(folder), code.into()))
            .map(|()| true),
        [flag, question @ ..] if flag == "--ask" => match Question::parse(question) {
            Some(question) => question.ask(),
            None => return usage(),
        },
        _ => return usage(),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(125)
}

/// The process named after `--parent`, if that is there; nothing for other words.
fn parent(words: &[OsString]) -> Option<Option<u32>> {
    match words {
        [] => Some(None),
        [flag, pid] if flag == "--parent" => pid.to_str()?.parse().ok().map(Some),
        _ => None,
    }
}

fn run(config: &VmmConfig, parent: Option<u32>) -> Result<(), MachineError> {
    let mut host = Host::open(config)?;
    // Handlers and their pipe are made outside, threads inside: they would stay outside.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(MachineError::io(AWAIT))?;
    host.shut_in(config, parent)?;
    let current = Current::default();
    if let Some(listener) = host.control()? {
        control::serve(listener, &current, config, &host)?;
    }
    watch_signals(signals, &current)?;
    // As it was again on every way out.
    let raw = terminal::RawMode::enter();
    let mut reads_input = false;
    loop {
        let started = Instant::now();
        let machine = Arc::new(host.machine()?);
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

fn replace(current: &Current, machine: Option<Arc<Machine>>) {
    let mut seat = current.lock().unwrap_or_else(PoisonError::into_inner);
    seat.machine = machine;
    if seat.leaves {
        seat.leave();
    }
}

/// Signals end the machine that runs, as if it had been switched off.
fn watch_signals(mut signals: Signals, current: &Current) -> Result<(), MachineError> {
    let current = Arc::clone(current);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for _ in signals.forever() {
                let mut seat = current.lock().unwrap_or_else(PoisonError::into_inner);
                seat.leave();
            }
        })
        .map_err(MachineError::io(AWAIT))?;
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
