//! `start`, `kill`, `pause`, `resume`, `delete`.

use std::os::fd::AsFd as _;
use std::path::Path;

use atoll_container::{Container, CreateRequest, Error, ErrorKind};
use atoll_shim::keeper::{Keeper, KeeperError};
use atoll_spec::Status;

use crate::arguments::{DeleteArguments, KillArguments};
use crate::commands::machine;
use crate::notify::{Manager, Relay};
use crate::report::{Failure, Outcome};

/// Executes the program of a created container; as a service, waits until it is ready.
pub(crate) fn start(root: &Path, container: &Container) -> Outcome<()> {
    if machine::ask(root, container, |keeper| keeper.start(""))?.is_some() {
        return Ok(());
    }
    let folder = CreateRequest::notify_folder(root, container.id());
    // Without the folder the container was made by somebody who is no service.
    let manager = Manager::of_environment().filter(|_| folder.is_dir());
    let Some(manager) = manager else {
        return Ok(container.start()?);
    };
    let pid = container.state()?.pid.unwrap_or(0);
    let pidfd = atoll_sys::process::open(pid);
    let relay = Relay::listen(manager, &folder)?;
    container.start()?;
    // One that has ended already says nothing any more.
    if let Ok(pidfd) = pidfd {
        relay.pass_on(pidfd.as_fd(), pid);
    }
    Ok(())
}

/// Freezes a container.
pub(crate) fn pause(root: &Path, container: &Container) -> Outcome<()> {
    match machine::ask(root, container, Keeper::pause)? {
        Some(()) => Ok(()),
        None => Ok(container.pause()?),
    }
}

/// Thaws a container.
pub(crate) fn resume(root: &Path, container: &Container) -> Outcome<()> {
    match machine::ask(root, container, Keeper::resume)? {
        Some(()) => Ok(()),
        None => Ok(container.resume()?),
    }
}

/// Sends a signal.
pub(crate) fn kill(root: &Path, container: &Container, arguments: &KillArguments) -> Outcome<()> {
    let signal = signal_number(&arguments.signal).ok_or_else(|| {
        Failure::new(format!("unknown signal {:?}", arguments.signal))
            .with_hint("give a name such as TERM or SIGKILL, or a number from 1 to 64")
    })?;
    // Container managers look for runc's words.
    let not_running = || Failure::new("container not running");
    let by_keeper = machine::ask(root, container, |keeper| {
        match keeper.kill("", signal.cast_unsigned(), arguments.all) {
            Err(KeeperError::Refused { is_gone: true, .. }) => Ok(Err(not_running())),
            other => other.map(Ok),
        }
    })?;
    if let Some(outcome) = by_keeper {
        return outcome;
    }
    match container.kill(signal, arguments.all) {
        Err(error) if error.kind() == ErrorKind::WrongStatus => Err(not_running()),
        other => Ok(other?),
    }
}

/// Removes a container.
pub(crate) fn delete(root: &Path, arguments: &DeleteArguments) -> Outcome<()> {
    let id = arguments.id.parse()?;
    let container = match Container::load(root, &id) {
        Err(error) if error.kind() == ErrorKind::NotFound && arguments.force => {
            return Ok(Container::delete_unrecorded(root, &id)?);
        }
        other => other?,
    };
    let Some(status) = machine::ask(root, &container, Keeper::status)? else {
        return Ok(container.delete(arguments.force)?);
    };
    if !arguments.force && !matches!(status, Status::Created | Status::Stopped) {
        return Err(Error::NotStopped { id, status }.into());
    }
    machine::end(root, &container)?;
    Ok(container.delete(true)?)
}

/// Linux' signal names on x86-64, without `SIG`, in the order of their numbers from 1.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The number of a signal given by name, with or without `SIG`, or by number.
fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        // 0 only asks whether there is a process.
        return (0..=64).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(offset) = name.strip_prefix("RTMIN+") {
        return offset
            .parse::<i32>()
            .ok()
            .filter(|offset| (0..=30).contains(offset))
            .map(|o| 34 + o);
    }
    let index = SIGNALS.iter().position(|known| *known == name)?;
    i32::try_from(index + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGKILL", 9),
            ("sigusr1", 10),
            ("9", 9),
            ("0", 0),
            ("SYS", 31),
            ("SIGRTMIN+3", 37),
        ] {
            assert_eq!(signal_number(text), Some(number), "{text}");
        }
        for text in ["", "65", "-9", "NOSUCH", "RTMIN+31"] {
            assert_eq!(signal_number(text), None, "{text}");
        }
    }
}
