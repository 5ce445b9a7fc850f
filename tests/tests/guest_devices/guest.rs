//! A machine with the distribution's kernel on the software CPU, and what its console says.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use atoll_interpreter::Soft;
use atoll_machine::initramfs::{self, Archive, ModuleFile};
use atoll_machine::kernel::{Found, KernelStore, Protocol, find, newest};
use atoll_machine::{End, Machine, MachineConfig, Snapshot, boot};
use atoll_memory::GuestMemory;
use atoll_virtio::VirtioDevice;

/// A step may take this long on a machine that is busy with other tests.
const DEADLINE: Duration = Duration::from_secs(300);
const BUSYBOX: &str = "/bin/busybox";
/// What a program of this host needs of it, at the same place in the guest.
const LIBRARIES: [&str; 3] = [
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/lib/x86_64-linux-gnu/libgcc_s.so.1",
];

/// All the guest has said.
#[derive(Clone, Default)]
pub(crate) struct Transcript(Arc<(Mutex<String>, Condvar)>);

impl Write for Transcript {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .0
            .lock()
            .unwrap()
            .push_str(&String::from_utf8_lossy(bytes));
        self.0.1.notify_all();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transcript {
    /// All of it.
    pub(crate) fn text(&self) -> String {
        self.0.0.lock().unwrap().clone()
    }

    /// The line number `index`, when it is complete; waits for it.
    pub(crate) fn line(&self, index: usize) -> String {
        let deadline = Instant::now() + DEADLINE;
        let mut text = self.0.0.lock().unwrap();
        loop {
            let complete = text.rfind('\n').map_or("", |end| &text[..end]);
            let line = complete.split('\n').nth(index);
            if let Some(line) = line.filter(|_| !complete.is_empty()) {
                return line.trim_end().to_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the guest says no more after:\n{text}");
            text = self.0.1.wait_timeout(text, left).unwrap().0;
        }
    }
}

/// The kernel of the distribution for virtual machines.
pub(crate) fn kernel() -> Found {
    let found = find(&[PathBuf::from("/")]);
    let kernel = newest(&found).filter(|found| found.modules.is_some());
    let kernel = kernel.expect("no kernel with modules in /boot: run `cargo xtask setup`, or apt-get install linux-image-cloud-amd64");
    kernel.clone()
}

/// An initial ramdisk with busybox and `script` as its first process.
pub(crate) fn ramdisk(folder: &Path, script: &str, modules: &[&str]) -> Archive {
    let init = folder.join("init");
    fs::write(&init, script).unwrap();
    let modules: Vec<ModuleFile> =
        initramfs::modules_for(&kernel().modules.unwrap(), modules).unwrap();
    let mut archive = initramfs::build(&init, &modules).unwrap();
    let busybox = fs::read(BUSYBOX)
        .expect("no /bin/busybox: run `cargo xtask setup`, or apt-get install busybox-static");
    archive.folder("bin");
    archive.file("bin/busybox", 0o755, &busybox);
    archive
}

/// Adds a program of this host, with the libraries it needs.
pub(crate) fn add_program(archive: &mut Archive, name: &str, path: &str) {
    for folder in ["lib64", "lib", "lib/x86_64-linux-gnu"] {
        archive.folder(folder);
    }
    for library in LIBRARIES {
        archive.file(&library[1..], 0o755, &fs::read(library).unwrap());
    }
    archive.file(&format!("bin/{name}"), 0o755, &fs::read(path).unwrap());
}

/// What a machine has, besides its devices.
pub(crate) struct Shape {
    /// Virtual CPUs.
    pub cpus: u8,
    /// Memory.
    pub bytes: u64,
    /// How the kernel is entered.
    pub protocol: Protocol,
}

/// Where uncompressed kernels are kept.
pub(crate) fn store() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels")
}

/// What the kernel is told.
pub(crate) fn command_line() -> String {
    format!("{} quiet loglevel=1", boot::DEFAULT_COMMAND_LINE)
}

/// A machine that runs, and what it says.
pub(crate) fn start(
    shape: &Shape,
    devices: Vec<Box<dyn VirtioDevice>>,
    archive: Archive,
) -> (Machine, Transcript) {
    let mut kernel = KernelStore::new(store()).open(&kernel().kernel).unwrap();
    kernel.protocol = shape.protocol;
    let transcript = Transcript::default();
    let config = MachineConfig {
        cpus: shape.cpus,
        tsc_khz: None,
        spare_cards: 0,
    };
    let memory = GuestMemory::new(shape.bytes).unwrap();
    let output = Box::new(transcript.clone());
    let machine = Machine::new(config, &Soft, memory, devices, output).unwrap();
    machine
        .load(&mut kernel, Some(&archive.finish()), &command_line())
        .unwrap();
    machine.start().unwrap();
    (machine, transcript)
}

/// Saves a machine that runs into `folder`, which is fresh, and ends it.
pub(crate) fn save(machine: Machine, folder: &Path) {
    fs::create_dir(folder).unwrap();
    assert!(machine.pause());
    machine.save(File::open(folder).unwrap().as_fd()).unwrap();
    machine.stop();
    assert_eq!(machine.wait().unwrap(), End::Stopped);
}

/// The machine saved in `folder`, going on; what it says is added to `transcript`.
pub(crate) fn restore(
    folder: &Path,
    devices: Vec<Box<dyn VirtioDevice>>,
    transcript: &Transcript,
) -> Machine {
    let (snapshot, memory) = Snapshot::open(folder).unwrap();
    let output = Box::new(transcript.clone());
    let shape = snapshot.shape().unwrap();
    let machine = Machine::new(shape, &Soft, memory, devices, output).unwrap();
    machine.restore(&snapshot).unwrap();
    machine.start().unwrap();
    machine
}
