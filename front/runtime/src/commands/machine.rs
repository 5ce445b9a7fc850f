//! Containers in machines: what the commands ask of their keeper.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use atoll_container::{Container, ContainerId};
use atoll_shim::keeper::{Keeper, KeeperError};
use atoll_spec::{Spec, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{self, OptionalActions};

use crate::arguments::CreateArguments;
use crate::commands::create::{Made, Starter, absolute, wants_terminal};
use crate::foreground;
use crate::report::{self, Failure, Outcome};

/// How long a machine may take to end after its container was killed.
const END: Duration = Duration::from_secs(15);

impl From<KeeperError> for Failure {
    fn from(error: KeeperError) -> Self {
        let text = error.to_string();
        // Our words put the hint at the end.
        match text
            .strip_suffix(')')
            .and_then(|text| text.split_once(" (hint: "))
        {
            Some((what, hint)) => Self::new(what).with_hint(hint),
            None => Self::new(text),
        }
    }
}

/// Makes a container in a machine, with a keeper for it.
pub(super) fn make(
    root: &Path,
    systemd_cgroup: bool,
    arguments: &CreateArguments,
    spec: &Spec,
) -> Outcome<Made> {
    refuse(systemd_cgroup, arguments)?;
    let id: ContainerId = arguments.id.parse()?;
    let bundle = absolute(&arguments.bundle)?;
    let root = std::path::absolute(root)
        .map_err(|error| Failure::io(format!("cannot use {}", root.display()), &error))?;
    report::debug(&format!("making a machine for container {id}"));
    let log = report::log_file().map_or_else(Stdio::null, Stdio::from);
    let launched = Keeper::launch(&root, id.as_str(), log)
        .map_err(|error| Failure::io("cannot start the machine's keeper", &error))?;
    let mut keeper = launched.keeper;
    let pidfd = open_process(launched.child.id())?;
    let terminal = wants_terminal(spec).then(terminal).transpose()?;
    let pid = match &terminal {
        Some(terminal) => keeper.create(&bundle, true, &[terminal.slave.as_fd()]),
        None => keeper.create(&bundle, false, &standard_streams()),
    }?;
    report::debug(&format!("its keeper is {pid}"));
    Ok(Made {
        container: Container::load(&root, &id)?,
        pid,
        pidfd,
        terminal: terminal.map(|terminal| terminal.master),
        starter: Starter::Keeper(keeper),
    })
}

fn refuse(systemd_cgroup: bool, arguments: &CreateArguments) -> Outcome<()> {
    let asked = [
        (systemd_cgroup, "--systemd-cgroup"),
        (arguments.preserve_fds > 0, "--preserve-fds"),
    ];
    match asked.iter().find(|(asked, _)| *asked) {
        None => Ok(()),
        Some((_, option)) => Err(Failure::new(format!(
            "{option}: not available behind the wall of a machine"
        ))
        .with_hint(
            "leave it out, or take the configuration's vm object and isolation annotation away",
        )),
    }
}

/// A terminal for a machine's process: the guest's own does what a terminal does, so this one only passes on.
pub(super) fn terminal() -> Outcome<atoll_sys::terminal::Terminal> {
    let failed = |errno: &dyn std::fmt::Display| Failure::io("cannot make a terminal", errno);
    let terminal = atoll_sys::terminal::open().map_err(|errno| failed(&errno))?;
    let mut modes = termios::tcgetattr(&terminal.slave).map_err(|errno| failed(&errno))?;
    modes.make_raw();
    termios::tcsetattr(&terminal.slave, OptionalActions::Now, &modes)
        .map_err(|errno| failed(&errno))?;
    if let Some((rows, columns)) = foreground::size_of_own_terminal() {
        atoll_sys::terminal::resize(&terminal.slave, rows, columns)
            .map_err(|errno| failed(&errno))?;
    }
    Ok(terminal)
}

/// What this program was started with.
pub(super) fn standard_streams() -> [BorrowedFd<'static>; 3] {
    [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ]
}

/// The keeper of a container that is in a machine and lives; none for others, and for one whose machine has ended.
pub(super) fn keeper_of(root: &Path, container: &Container) -> Outcome<Option<Keeper>> {
    if !container.is_in_machine()? || container.state()?.status == Status::Stopped {
        return Ok(None);
    }
    match Keeper::connect(root, container.id().as_str()) {
        Ok(keeper) => Ok(Some(keeper)),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            wait_for_end(container)?;
            Ok(None)
        }
        Err(error) => Err(Failure::io(
            format!("cannot reach the keeper of container {}", container.id()),
            &error,
        )
        .with_hint("a machine that docker or containerd made is theirs: use them")),
    }
}

/// Asks the keeper of a container that is in a machine; none where [`keeper_of`] has none, and where it ends meanwhile.
pub(super) fn ask<T>(
    root: &Path,
    container: &Container,
    question: impl FnOnce(&mut Keeper) -> Result<T, KeeperError>,
) -> Outcome<Option<T>> {
    let Some(mut keeper) = keeper_of(root, container)? else {
        return Ok(None);
    };
    match question(&mut keeper) {
        Err(KeeperError::Ended) => {
            wait_for_end(container)?;
            Ok(None)
        }
        other => Ok(Some(other?)),
    }
}

/// The container's status: of one in a machine, what its keeper says.
pub(super) fn status(root: &Path, container: &Container) -> Outcome<Status> {
    // One that cannot be asked is as its process is.
    match ask(root, container, Keeper::status) {
        Ok(Some(status)) => Ok(status),
        _ => Ok(container.state()?.status),
    }
}

/// Ends what is in a machine, with its files written back, as far as its guest does that in time.
pub(super) fn end(root: &Path, container: &Container) -> Outcome<()> {
    let kill = rustix::process::Signal::KILL.as_raw().cast_unsigned();
    // One that has ended meanwhile takes no signal; what is left after the wait is killed.
    let _ = ask(root, container, |keeper| keeper.kill("", kill, false))?;
    wait_for_end(container)
}

/// Waits until a keeper that is ending has ended; for [`END`] at most.
fn wait_for_end(container: &Container) -> Outcome<()> {
    let pid = container.state()?.pid;
    let Some(pidfd) = pid.and_then(|pid| open_process(pid).ok()) else {
        return Ok(());
    };
    let limit = Timespec::try_from(END).map_err(|error| Failure::io("cannot wait", &error))?;
    let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit));
    Ok(())
}

fn open_process(pid: u32) -> Outcome<OwnedFd> {
    atoll_sys::process::open(pid)
        .map_err(|errno| Failure::io(format!("cannot watch process {pid}"), &errno))
}
