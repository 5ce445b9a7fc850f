//! Clones the child and talks with it until its program is executed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use atoll_spec::State;
use atoll_sys::mount::{self, Change};
use atoll_sys::{Errno, process};

use super::control::{self, Message};
use super::entry::{self, EntryStep};
use super::hooks::Failure;
use super::listener;
use super::program::{BindInside, LaunchStep, Op, Program};
use crate::error::{Error, Result, kernel};
use crate::plan::SeccompListener;

/// A child that has not executed its program yet; killed and reaped when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: u32,
    pidfd: Option<OwnedFd>,
    control: OwnedFd,
    /// For the descriptions of failures, and for what is done on the child's behalf.
    steps: Vec<Op>,
    command: String,
    cwd: String,
}

/// What the child said while it was waited for.
#[derive(Debug)]
pub(crate) enum Waited {
    /// It is ready; the terminal's master, if it has one.
    Ready(Option<OwnedFd>),
    /// Its filter leaves calls open; the descriptor's number there. It waits for [`control::Go::Heard`].
    Listener(i32),
    /// It has executed its program or is gone.
    Executed,
}

/// Clones a child that executes `program`.
///
/// * `flags`: `CLONE_NEW…` for it.
/// * `cgroup`: folder of cgroup2 to be born in.
/// * `before`: namespaces it is born in.
/// * `map_ids`: maps the ids of a user namespace made `before`, whose process it is given.
/// * `control`: our end of the control socket.
///
/// # Errors
/// [`Error::Kernel`]; [`Error::Vanished`] when the PID namespace takes no more processes.
pub(crate) fn spawn(
    program: Program,
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    before: Vec<EntryStep>,
    map_ids: &dyn Fn(u32) -> Result<()>,
    control: OwnedFd,
) -> Result<Child> {
    let (pid, pidfd) = entry::clone(&program, flags, cgroup, &before, map_ids)?;
    let command = program.launch.args.texts().first();
    Ok(Child {
        pid,
        pidfd: Some(pidfd),
        control,
        command: command
            .map(|text| text.to_string_lossy().into_owned())
            .unwrap_or_default(),
        cwd: program.launch.cwd.to_string_lossy().into_owned(),
        steps: program.steps,
    })
}

impl Child {
    /// The control socket.
    pub(crate) fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Waits until the child is ready, and hands the descriptor of its filter over; its terminal's master, or `None` when it
    /// has executed its program or is gone.
    ///
    /// # Errors
    /// As [`Self::wait`]; [`listener::hand_over`]'s.
    pub(crate) fn await_ready(
        &mut self,
        listener: Option<(&SeccompListener, &State)>,
    ) -> Result<Option<Option<OwnedFd>>> {
        loop {
            match (self.wait()?, listener, &self.pidfd) {
                (Waited::Ready(terminal), ..) => return Ok(Some(terminal)),
                (Waited::Listener(number), Some((listener, state)), Some(pidfd)) => {
                    listener::hand_over(listener, state, self.pid, pidfd.as_fd(), number)?;
                    control::tell(self.control.as_fd(), control::Go::Heard);
                }
                _ => return Ok(None),
            }
        }
    }

    /// Waits for what the child says next.
    ///
    /// # Errors
    /// What failed in the child, in the words container managers know.
    pub(crate) fn wait(&mut self) -> Result<Waited> {
        loop {
            let received =
                control::receive(self.control.as_fd()).map_err(|source| Error::File {
                    action: "read from the container's process",
                    path: "control socket".into(),
                    source,
                })?;
            return match received {
                None => Ok(Waited::Executed),
                Some((Message::Ready, extra)) => Ok(Waited::Ready(extra.fds.into_iter().next())),
                Some((Message::Failed { step, errno }, extra)) => {
                    Err(self.failure(step, errno, &extra.text))
                }
                Some((Message::Listener { number }, _)) => {
                    Ok(Waited::Listener(i32::try_from(number).unwrap_or(-1)))
                }
                Some((Message::Shift { step }, extra)) => {
                    control::answer_shift(extra.fds, |mount| self.shift(step, mount));
                    continue;
                }
                Some((Message::Made { .. }, _)) => Err(Error::Vanished),
            };
        }
    }

    /// Shifts the ids of the mount that step `step` made.
    fn shift(&self, step: u32, mount: BorrowedFd<'_>) -> atoll_sys::Result<()> {
        let op = usize::try_from(step).ok().and_then(|at| self.steps.get(at));
        let Some(Op::BindInside(BindInside {
            id_map: Some((namespace, recursive)),
            ..
        })) = op
        else {
            return Err(Errno::INVAL);
        };
        let change = Change::idmap(namespace.as_fd());
        mount::set_attributes(mount, c"", *recursive, &change)
    }

    /// The error of a failed step.
    fn failure(&self, step: u32, errno: i32, said: &str) -> Error {
        let op = usize::try_from(step)
            .ok()
            .and_then(|idx| self.steps.get(idx));
        match op {
            Some(Op::RunHooks(list)) => hook_failure(list.kind(), errno, said),
            Some(op) => {
                let errno = Errno::from_raw_os_error(errno);
                let mut step = op.describe();
                if op.wants_ordinary_folder() && matches!(errno, Errno::LOOP | Errno::NOTDIR) {
                    step.push_str(", which must be mounted on ordinary directory");
                }
                kernel(step, errno)
            }
            None => launch_failure(step, errno, said, &self.command, &self.cwd),
        }
    }

    /// Gives up the guard: the process lives on.
    pub(crate) fn release(mut self) -> Released {
        let pidfd = self.pidfd.take();
        let control = self.control.try_clone();
        Released {
            pid: self.pid,
            pidfd,
            control: control.ok(),
            command: std::mem::take(&mut self.command),
            cwd: std::mem::take(&mut self.cwd),
        }
    }
}

/// What remains of a [`Child`] that is no longer guarded.
#[derive(Debug)]
pub(crate) struct Released {
    pub(crate) pid: u32,
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) control: Option<OwnedFd>,
    pub(crate) command: String,
    pub(crate) cwd: String,
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(pidfd) = self.pidfd.take() {
            let _ = process::send_signal(pidfd.as_fd(), libc::SIGKILL);
            let _ = process::wait(pidfd.as_fd());
        }
    }
}

/// The error of a failed launch step, in the words container managers parse.
///
/// * `errno`: as in the message.
/// * `said`: what came along with it.
pub(crate) fn launch_failure(step: u32, errno: i32, said: &str, command: &str, cwd: &str) -> Error {
    let step_found = LaunchStep::from_number(step);
    if step_found == Some(LaunchStep::Hooks) {
        return hook_failure("startContainer", errno, said);
    }
    let errno = Errno::from_raw_os_error(errno);
    let command = command.to_owned();
    let text = go_words(errno);
    match step_found {
        Some(LaunchStep::Lookup) => match errno {
            Errno::NOENT | Errno::NOTDIR if command.contains('/') => {
                let reason = format!("stat {command}: {text}");
                Error::CommandNotFound { command, reason }
            }
            Errno::NOENT => Error::CommandNotFound {
                command,
                reason: "executable file not found in $PATH".to_owned(),
            },
            _ => Error::CommandNotExecutable {
                command,
                reason: text,
            },
        },
        Some(LaunchStep::Execute) => match errno {
            Errno::NOENT => Error::CommandNotFound {
                command,
                reason: text,
            },
            Errno::ACCESS | Errno::NOEXEC | Errno::ISDIR | Errno::PERM | Errno::TXTBSY => {
                Error::CommandNotExecutable {
                    command,
                    reason: text,
                }
            }
            _ => kernel(format!("exec {command}"), errno),
        },
        Some(LaunchStep::Chdir) => kernel(
            format!("chdir to cwd ({cwd:?}) set in config.json failed"),
            errno,
        ),
        Some(step) => kernel(step.describe(), errno),
        None => kernel(format!("step {step}"), errno),
    }
}

/// The error of a hook that the container's process ran.
fn hook_failure(kind: &'static str, number: i32, said: &str) -> Error {
    let failure = Failure::decode(number);
    Error::Hook {
        kind,
        at: failure.at.into(),
        reason: failure.reason(said),
    }
}

/// An errno as Go says it.
fn go_words(errno: Errno) -> String {
    match errno {
        Errno::NOENT => "no such file or directory".to_owned(),
        Errno::ACCESS => "permission denied".to_owned(),
        Errno::ISDIR => "is a directory".to_owned(),
        Errno::NOTDIR => "not a directory".to_owned(),
        Errno::NOEXEC => "exec format error".to_owned(),
        Errno::PERM => "operation not permitted".to_owned(),
        Errno::TXTBSY => "text file busy".to_owned(),
        Errno::LOOP => "too many levels of symbolic links".to_owned(),
        other => atoll_sys::describe(other),
    }
}
