//! A container in the foreground: the terminal is passed through, signals are passed on.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use atoll_shim::keeper::PASSED_ON;
use rustix::termios::{self, OptionalActions, Termios};
use signal_hook::consts::signal;
use signal_hook::iterator::Signals;

use crate::report::{Failure, Outcome};

/// Rows and columns of the terminal on standard input, if it is one and was told its size.
pub(crate) fn size_of_own_terminal() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(std::io::stdin()).ok()?;
    Some((size.ws_row, size.ws_col)).filter(|size| *size != (0, 0))
}

/// The size that a terminal begins with whatever the configuration says: none where it is handed to `console_socket`, as it
/// is then shown elsewhere than on our own.
pub(crate) fn first_size(console_socket: Option<&Path>) -> Option<(u16, u16)> {
    match console_socket {
        Some(_) => None,
        None => size_of_own_terminal(),
    }
}

/// The user's terminal in raw mode; dropping it restores the mode.
pub(crate) struct HostTerminal(Option<Termios>);

impl HostTerminal {
    /// Switches the terminal on standard input to raw mode if `wanted` and if it is one.
    pub(crate) fn raw_if(wanted: bool) -> Self {
        let stdin = std::io::stdin();
        let Some(before) = termios::tcgetattr(&stdin).ok().filter(|_| wanted) else {
            return Self(None);
        };
        let mut raw = before.clone();
        raw.make_raw();
        let is_raw = termios::tcsetattr(&stdin, OptionalActions::Now, &raw).is_ok();
        Self(is_raw.then_some(before))
    }
}

impl Drop for HostTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // At the end of the program there is nobody left to tell.
            let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Drain, before);
        }
    }
}

/// Passes signals and, if given, the terminal through until the process behind `pidfd` has ended.
///
/// Returns its exit code, 128 + signal when a signal ended it.
///
/// # Errors
/// The kernel's, when no signal can be caught or the process can't be waited for.
pub(crate) fn wait(pidfd: BorrowedFd<'_>, terminal: Option<OwnedFd>) -> Outcome<ExitCode> {
    let target = pidfd.try_clone_to_owned().map_err(|error| failed(&error))?;
    let resized = terminal.as_ref().map(OwnedFd::try_clone).transpose();
    let resized = resized.map_err(|error| failed(&error))?;
    let pass_on = move |number| {
        // A process that has just ended takes no signal, a terminal that is closed no size.
        let _ = match (&resized, number) {
            (Some(terminal), signal::SIGWINCH) => size_of_own_terminal()
                .map_or(Ok(()), |(rows, columns)| {
                    atoll_sys::terminal::resize(terminal, rows, columns)
                }),
            _ => atoll_sys::process::send_signal(target.as_fd(), number),
        };
    };
    let end = || {
        let exit = atoll_sys::process::wait(pidfd).map_err(|errno| failed(&errno))?;
        Ok(exit.shell_code())
    };
    while_running(pass_on, terminal, end)
}

/// Does `pass_on` with signals, and passes the terminal, if given, through, until `end` gives an exit code.
///
/// # Errors
/// Those of `end`, and the kernel's when no signal can be caught.
pub(crate) fn while_running(
    mut pass_on: impl FnMut(i32) + Send + 'static,
    terminal: Option<OwnedFd>,
    end: impl FnOnce() -> Outcome<i32>,
) -> Outcome<ExitCode> {
    let mut signals = Signals::new(PASSED_ON).map_err(|error| failed(&error))?;
    let is_shown = terminal.is_some();
    std::thread::spawn(move || {
        if is_shown {
            // It may have got another size before anybody listened.
            pass_on(signal::SIGWINCH);
        }
        for number in signals.forever() {
            pass_on(number);
        }
    });
    // The process may close its side and open it again, as a service manager does.
    let keeper = terminal
        .as_ref()
        .and_then(|master| atoll_sys::terminal::slave_of(master.as_fd()).ok());
    let output = terminal
        .map(|master| {
            keep_line_ends(&master);
            pass_through(File::from(master))
        })
        .transpose()
        .map_err(|error| failed(&error))?;
    let code = end()?;
    drop(keeper);
    if let Some(output) = output {
        // The master reports an end when the last process on the terminal is gone.
        let _ = output.join();
    }
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

fn failed(error: &dyn std::fmt::Display) -> Failure {
    Failure::io("cannot wait for the process", error)
}

/// Has a terminal pass line ends on as they are: whoever shows them adds the carriage return, once.
pub(crate) fn keep_line_ends(master: &OwnedFd) {
    // A terminal that keeps them only looks odd.
    let _ = atoll_sys::terminal::keep_line_ends(master);
}

/// Copies standard input to the terminal and the terminal to standard output, each in a thread;
/// the returned one ends with the terminal.
fn pass_through(mut master: File) -> std::io::Result<std::thread::JoinHandle<()>> {
    let mut keyboard = master.try_clone()?;
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut keyboard);
    });
    Ok(std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        let mut out = std::io::stdout().lock();
        while let Ok(count @ 1..) = master.read(&mut buffer) {
            if out
                .write_all(&buffer[..count])
                .and_then(|()| out.flush())
                .is_err()
            {
                break;
            }
        }
    }))
}

/// Sends a descriptor of a process over the Unix socket at `path`, as runc's pidfd socket has it.
///
/// * `name`: what runc calls the process: `standard` the first, `setns` a later one.
pub(crate) fn send_pidfd(path: &Path, name: &str, pidfd: BorrowedFd<'_>) -> Outcome<()> {
    let refused = |error: &dyn std::fmt::Display| {
        Failure::io(
            format!("cannot send the pidfd to {}", path.display()),
            error,
        )
    };
    let socket = atoll_sys::unix::connect_at(path).map_err(|error| refused(&error))?;
    atoll_sys::unix::send_fds(&socket, name.as_bytes(), &[pidfd])
        .map_err(|error| refused(&error))?;
    Ok(())
}

/// Sends a terminal's master over the Unix socket at `path`, as runc's console socket has it.
pub(crate) fn send_terminal(path: &Path, master: BorrowedFd<'_>) -> Outcome<()> {
    let refused = |error: &dyn std::fmt::Display| {
        Failure::io(
            format!("cannot send the terminal to {}", path.display()),
            error,
        )
    };
    let socket = atoll_sys::unix::connect_at(path).map_err(|error| refused(&error))?;
    atoll_sys::unix::send_fds(&socket, b"/dev/ptmx", &[master]).map_err(|error| refused(&error))?;
    Ok(())
}
