//! `exec` in a machine.
//!
//! This program stands for the guest's process as long as that runs: it passes signals on and ends with its exit code. With
//! `--detach` a second one does, a child of whoever reaps the caller's children, whose process id goes into the pid file.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::SystemTime;

use atoll_shim::keeper::{Keeper, KeeperError};
use atoll_spec::Process;
use rustix::io::FdFlags;
use rustix::termios;
use signal_hook::consts::signal;

use crate::arguments::ExecArguments;
use crate::commands::create::write_pid;
use crate::commands::exec::{EXEC_FAILED, refuse_lone_terminal};
use crate::commands::machine::{standard_streams, terminal};
use crate::foreground::{self, HostTerminal};
use crate::report::{Failure, Outcome};

/// Environment variable that makes this program the second one: the number of a descriptor to write a byte to when the
/// process runs.
const SECOND: &str = "ATOLL_EXEC_STARTED_FD";

/// Runs `process` in the machine of `keeper` and, unless detached, waits for it.
pub(super) fn exec(
    root: &Path,
    keeper: Keeper,
    process: &Process,
    arguments: &ExecArguments,
) -> Outcome<ExitCode> {
    refuse(arguments)?;
    let second = second()?;
    if second.is_some() {
        // Whoever called the first may have a terminal of its own.
        let _ = rustix::process::setsid();
    } else {
        refuse_lone_terminal(process.terminal, arguments)?;
        if arguments.detach {
            return start_second();
        }
    }
    stand_for(root, keeper, process, arguments, second)
}

fn refuse(arguments: &ExecArguments) -> Outcome<()> {
    let asked = [
        (arguments.preserve_fds > 0, "--preserve-fds"),
        (!arguments.cgroup.is_empty(), "--cgroup"),
        (arguments.ignore_paused, "--ignore-paused"),
    ];
    match asked.iter().find(|(asked, _)| *asked) {
        None => Ok(()),
        Some((_, option)) => Err(Failure::new(format!(
            "{option}: not available behind the wall of a machine"
        ))
        .with_hint("leave it out")),
    }
}

/// Runs the process, tells whoever wants to know, and ends as it does.
fn stand_for(
    root: &Path,
    mut keeper: Keeper,
    process: &Process,
    arguments: &ExecArguments,
    second: Option<OwnedFd>,
) -> Outcome<ExitCode> {
    let name = format!("exec-{}-{}", std::process::id(), since_1970());
    let pty = process.terminal.then(terminal).transpose()?;
    let pending = match &pty {
        Some(pty) => keeper.exec(&name, process, &[pty.slave.as_fd()]),
        None => keeper.exec(&name, process, &standard_streams()),
    }?;
    let (mut shown, slave) = pty.map_or((None, None), |pty| (Some(pty.master), Some(pty.slave)));
    if let (Some(socket), Some(master)) = (&arguments.console_socket, &shown) {
        foreground::send_terminal(socket, master.as_fd())?;
        shown = None;
    }
    let host = HostTerminal::raw_if(shown.is_some());
    let sized = size_of(slave.as_ref());
    if let Some((rows, columns)) = sized {
        keeper.resize(&name, rows, columns)?;
    }
    keeper.start(&name)?;
    if let Some(path) = &arguments.pid_file {
        write_pid(path, std::process::id())?;
    }
    if let Some(path) = &arguments.pidfd_socket {
        let own = atoll_sys::process::open(std::process::id())
            .map_err(|errno| Failure::io("cannot open a pidfd", &errno))?;
        foreground::send_pidfd(path, "setns", own.as_fd())?;
    }
    if let Some(second) = second {
        // Its terminal's size and end come as signals.
        let _ = slave.as_ref().map(rustix::process::ioctl_tiocsctty);
        io::PipeWriter::from(second)
            .write_all(b"s")
            .map_err(|error| Failure::io("cannot say that the process runs", &error))?;
    }
    let mut signals = Keeper::connect(root, &arguments.id)
        .map_err(|error| Failure::io("cannot reach the machine's keeper", &error))?;
    let is_shown = shown.is_some();
    let pass_on = move |number: i32| {
        // A process that has just ended takes no signal and no size.
        let _ = match number {
            signal::SIGWINCH if is_shown => told(foreground::size_of_own_terminal(), |(r, c)| {
                signals.resize(&name, r, c)
            }),
            signal::SIGWINCH => told(size_of(slave.as_ref()), |(r, c)| {
                signals.resize(&name, r, c)
            }),
            _ => signals.kill(&name, number.cast_unsigned(), false),
        };
    };
    let end = || -> Outcome<i32> {
        let code = keeper.wait(pending)?;
        Ok(i32::try_from(code).unwrap_or(i32::from(EXEC_FAILED)))
    };
    let code = foreground::while_running(pass_on, shown, end);
    drop(host);
    code
}

fn told(
    size: Option<(u16, u16)>,
    tell: impl FnOnce((u16, u16)) -> Result<(), KeeperError>,
) -> Result<(), KeeperError> {
    size.map_or(Ok(()), tell)
}

fn size_of(terminal: Option<&OwnedFd>) -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(terminal?).ok()?;
    Some((size.ws_row, size.ws_col)).filter(|(rows, columns)| *rows > 0 && *columns > 0)
}

/// Has a second one of this program do the same, and waits until it says that the process runs.
fn start_second() -> Outcome<ExitCode> {
    let failed = |error: io::Error| Failure::io("cannot leave the process to another", &error);
    let (mut started, starter) = io::pipe().map_err(failed)?;
    rustix::io::fcntl_setfd(&starter, FdFlags::empty()).map_err(|errno| failed(errno.into()))?;
    let mut own = std::env::args_os();
    let name = own.next().unwrap_or_default();
    let mut second = Command::new("/proc/self/exe")
        .arg0(name)
        .args(own)
        .env(SECOND, starter.as_raw_fd().to_string())
        .spawn()
        .map_err(failed)?;
    drop(starter);
    let mut word = Vec::new();
    started
        .by_ref()
        .take(1)
        .read_to_end(&mut word)
        .map_err(failed)?;
    if !word.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    // It has said why.
    let ended = second.wait().map_err(failed)?;
    let code = ended.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(
        code.filter(|code| *code != 0).unwrap_or(EXEC_FAILED),
    ))
}

/// The descriptor of [`SECOND`], if this is the second one.
fn second() -> Outcome<Option<OwnedFd>> {
    let Some(number) = std::env::var_os(SECOND) else {
        return Ok(None);
    };
    let wrong =
        |error: &dyn std::fmt::Display| Failure::io(format!("{SECOND} names no descriptor"), error);
    let number: i32 = number
        .to_string_lossy()
        .parse()
        .map_err(|error| wrong(&error))?;
    if number < 3 {
        return Err(wrong(&"it is a standard stream's"));
    }
    let taken = atoll_sys::inherited::take(number).map_err(|errno| wrong(&errno))?;
    Ok(Some(taken))
}

fn since_1970() -> u128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_nanos()
}
