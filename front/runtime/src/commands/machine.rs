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
        // It ends right now.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(None),
        Err(error) => Err(Failure::io(
            format!("cannot reach the keeper of container {}", container.id()),
            &error,
        )
        .with_hint("a machine that docker or containerd made is theirs: use them")),
    }
}

/// The container's status: of one in a machine, what its keeper says.
pub(super) fn status(root: &Path, container: &Container) -> Outcome<Status> {
    // One that cannot be asked is as its process is.
    let keeper = keeper_of(root, container).ok().flatten();
    match keeper.map(|mut keeper| keeper.status()) {
        Some(Ok(status)) => Ok(status),
        _ => Ok(container.state()?.status),
    }
}

/// Ends what is in a machine, with its files written back, as far as its guest does that in time.
pub(super) fn end(container: &Container, keeper: &mut Keeper) -> Outcome<()> {
    let pid = container.state()?.pid;
    let Some(pidfd) = pid.and_then(|pid| open_process(pid).ok()) else {
        return Ok(());
    };
    // One that has ended meanwhile takes no signal.
    let kill = rustix::process::Signal::KILL.as_raw();
    let _ = keeper.kill("", kill.cast_unsigned(), false);
    let limit = Timespec::try_from(END).map_err(|error| Failure::io("cannot wait", &error))?;
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    // What is left after that is killed.
    let _ = poll(&mut fds, Some(&limit));
    Ok(())
}

fn open_process(pid: u32) -> Outcome<OwnedFd> {
    atoll_sys::process::open(pid)
        .map_err(|errno| Failure::io(format!("cannot watch process {pid}"), &errno))
}
