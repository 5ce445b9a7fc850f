//! A program on a terminal of its own, as a person would use it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use rustix::termios::Winsize;

use crate::waiting;

/// A running program whose controlling terminal is ours to type on.
pub struct Terminal {
    master: File,
    child: Child,
    seen: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts `program` with `arguments` on a new terminal of `rows` × `columns`.
    ///
    /// `setup` may add environment variables.
    ///
    /// # Panics
    /// When no terminal can be made or the program can't be started.
    pub fn start(
        program: &str,
        arguments: &[&str],
        (rows, columns): (u16, u16),
        setup: impl FnOnce(&mut Command),
    ) -> Self {
        let flags = rustix::pty::OpenptFlags::RDWR
            | rustix::pty::OpenptFlags::NOCTTY
            | rustix::pty::OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).expect("a terminal can be made");
        rustix::pty::grantpt(&master).expect("the terminal is ours");
        rustix::pty::unlockpt(&master).expect("the terminal is ours");
        let name = rustix::pty::ptsname(&master, Vec::new()).expect("the terminal has a name");
        let slave: OwnedFd = rustix::fs::open(
            &name,
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .expect("the terminal opens");
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&slave, size).expect("the terminal takes a size");

        let mut command = Command::new("setsid");
        command
            .args(["--ctty", "--wait", program])
            .args(arguments)
            .env("TERM", "xterm");
        setup(&mut command);
        let child = command
            .stdin(slave.try_clone().expect("a descriptor can be copied"))
            .stdout(slave.try_clone().expect("a descriptor can be copied"))
            .stderr(slave)
            .spawn()
            .expect("setsid is installed");
        drop(command);

        let master = File::from(master);
        let seen = Arc::new(Mutex::new(String::new()));
        let (mut reader, sink) = (
            master.try_clone().expect("a descriptor can be copied"),
            Arc::clone(&seen),
        );
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                sink.lock().expect("no holder panics").push_str(&text);
            }
        });
        Self {
            master,
            child,
            seen,
        }
    }

    /// Types `text`; `\r` is the return key.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn type_in(&mut self, text: &str) {
        self.master
            .write_all(text.as_bytes())
            .expect("the terminal is open");
    }

    /// Changes the window's size; the program gets SIGWINCH.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn resize(&self, (rows, columns): (u16, u16)) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&self.master, size).expect("the terminal is open");
    }

    /// All that was printed until now.
    ///
    /// # Panics
    /// Never in practice: only when the reading thread panicked.
    pub fn text(&self) -> String {
        self.seen.lock().expect("no holder panics").clone()
    }

    /// Waits until `part` was printed.
    ///
    /// # Panics
    /// When it is not printed within ten seconds.
    #[track_caller]
    pub fn expect(&self, part: &str) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !self.text().contains(part) {
            assert!(
                std::time::Instant::now() < deadline,
                "no {part:?} in {:?}",
                self.text()
            );
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Waits for the program's end and returns its exit code.
    ///
    /// # Panics
    /// When it does not end within ten seconds.
    #[track_caller]
    pub fn exit_code(&mut self) -> i32 {
        let mut code = None;
        waiting::until("the program on the terminal ended", || {
            code = self
                .child
                .try_wait()
                .expect("the child is ours")
                .map(|status| status.code());
            code.is_some()
        });
        code.flatten().unwrap_or(-1)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
