//! `atoll-vmm` with a guest of a few bytes.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(60);

/// Says x on the serial port (mov dx, 3F8h; mov al, 'x'; out dx, al), then loops (jmp $).
pub(crate) const LOOPS: &[u8] = &[0x66, 0xBA, 0xF8, 0x03, 0xB0, b'x', 0xEE, 0xEB, 0xFE];

/// Says x, then writes the reset register (mov dx, CF9h; mov al, 6; out dx, al).
pub(crate) const RESETS: &[u8] = &[
    0x66, 0xBA, 0xF8, 0x03, 0xB0, b'x', 0xEE, 0x66, 0xBA, 0xF9, 0x0C, 0xB0, 6, 0xEE, 0xEB, 0xFE,
];

/// A folder that everybody may read, with what a monitor needs.
pub(crate) struct Stage(TempDir);

impl Stage {
    pub(crate) fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self(folder)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn start(&self, code: &[u8], more: &str) -> Monitor {
        self.start_as(None, code, more)
    }

    /// A monitor whose guest is `code`; `more` is added to its configuration.
    pub(crate) fn start_as(&self, user: Option<u32>, code: &[u8], more: &str) -> Monitor {
        fs::write(self.path("kernel"), kernel(code)).unwrap();
        let path = |name: &str| self.path(name).display().to_string();
        let mut text = format!(
            r#""kernel":"{}","kernel_store":"{}","command_line":"","memory_bytes":33554432{more}"#,
            path("kernel"),
            path("store"),
        );
        for (name, value) in [("backend", r#""soft""#), ("cpus", "1")] {
            if !more.contains(name) {
                text = format!(r#""{name}":{value},{text}"#);
            }
        }
        fs::write(self.path("config"), format!("{{{text}}}")).unwrap();
        // By a descriptor: the user may not be able to reach the place where cargo put it, and a copy of ours is busy
        // while another test's child has it open for writing, until that executes.
        let program = File::open(env!("CARGO_BIN_EXE_atoll-vmm")).unwrap();
        let errors = File::create(self.path("errors")).unwrap();
        let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
        command.arg("--config").arg(self.path("config"));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(errors);
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let mut child = command.spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let (sender, said) = mpsc::channel();
        thread::spawn(move || {
            let mut byte = [0];
            while stdout.read_exact(&mut byte).is_ok() && sender.send(byte[0]).is_ok() {}
            // Whoever does not listen any more does not stop it.
            let _ = std::io::copy(&mut stdout, &mut std::io::sink());
        });
        let errors = self.path("errors");
        Monitor {
            child,
            said,
            errors,
        }
    }
}

/// A monitor; dropping it ends it.
pub(crate) struct Monitor {
    child: Child,
    said: Receiver<u8>,
    errors: PathBuf,
}

impl Monitor {
    pub(crate) fn id(&self) -> String {
        self.child.id().to_string()
    }

    /// The next `count` bytes of the guest.
    pub(crate) fn say(&self, count: usize) -> String {
        let bytes = (0..count).map(|_| {
            let byte = self.said.recv_timeout(DEADLINE);
            byte.unwrap_or_else(|_| panic!("silence: {}", self.errors()))
        });
        String::from_utf8(bytes.collect()).unwrap()
    }

    /// Asks it to end; gives its exit code, none when it was killed, and its complaints.
    pub(crate) fn end(&mut self) -> (Option<i32>, String) {
        let id = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), Signal::TERM).unwrap();
        let code = self.child.wait().unwrap().code();
        (code, self.errors())
    }

    fn errors(&self) -> String {
        fs::read_to_string(&self.errors).unwrap()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An ELF executable whose one segment, at 16 MiB, is `code`.
fn kernel(code: &[u8]) -> Vec<u8> {
    const START: usize = 0x1000;
    const ADDRESS: u64 = 16 << 20;
    let mut file = b"\x7FELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    let mut put = |value: u64, bytes: usize| file.extend_from_slice(&value.to_le_bytes()[..bytes]);
    // Type, machine, version; entry, program headers, section headers; flags and sizes.
    for (value, bytes) in [
        (2, 2),
        (62, 2),
        (1, 4),
        (ADDRESS, 8),
        (64, 8),
        (0, 8),
        (0, 4),
        (64, 2),
        (56, 2),
        (1, 2),
        (0, 6),
    ] {
        put(value, bytes);
    }
    // A segment to load: flags, offset, addresses, lengths, alignment.
    let len = code.len() as u64;
    for (value, bytes) in [
        (1, 4),
        (5, 4),
        (START as u64, 8),
        (ADDRESS, 8),
        (ADDRESS, 8),
        (len, 8),
        (len, 8),
        (0x1000, 8),
    ] {
        put(value, bytes);
    }
    file.resize(START, 0);
    file.extend_from_slice(code);
    file
}
