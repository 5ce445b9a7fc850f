//! Namespaces a process must be born in: entered by a go-between, which makes the process as its own sibling.
//!
//! A PID namespace takes only children of who enters it. A user namespace takes only processes of one thread, and the
//! others a container gets must be made by someone who is in it already. The clocks of a time namespace are set between
//! its making and its first process. The runtime may have threads and must not change itself, so a short-lived child of
//! it does all that:
//!
//! ```text
//! runtime ──clone3──▶ go-between: enters, unshares, sets clocks
//!    ▲                    │ clone3(CLONE_PARENT)
//!    └── the process' pid ┘──────────▶ the container's process, a child of the runtime
//! ```

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use atoll_spec::NamespaceKind;
use atoll_sys::process::{self, Cloned};
use atoll_sys::rustix::fs::{CWD, Mode, OFlags, openat};
use atoll_sys::{Errno, namespace};

use super::child;
use super::control::{self, Go, Message};
use super::program::Program;
use crate::error::{Error, Result, kernel};
use crate::plan::{clone_flag, file_name};
use crate::state;

/// What is entered or made before the process, in order.
#[derive(Debug)]
pub(crate) enum EntryStep {
    /// Enters a namespace; a pidfd stands for that of its process.
    Enter { kind: NamespaceKind, fd: OwnedFd },
    /// Enters a namespace unless that takes a right that the process has only later.
    TryEnter { kind: NamespaceKind, fd: OwnedFd },
    /// Makes a user namespace, whose ids the runtime then maps.
    NewUser,
    /// Makes a time namespace with clocks set forward: the lines of `timens_offsets`.
    NewTime(CString),
}

impl EntryStep {
    fn describe(&self) -> String {
        match self {
            Self::Enter { kind, .. } | Self::TryEnter { kind, .. } => {
                format!("join the {} namespace", file_name(*kind))
            }
            Self::NewUser => "make a user namespace".to_owned(),
            Self::NewTime(_) => "make a time namespace with these linux.timeOffsets".to_owned(),
        }
    }

    /// Child-safe.
    fn execute(&self, control: BorrowedFd<'_>) -> atoll_sys::Result<()> {
        match self {
            Self::NewUser => {
                namespace::unshare(clone_flag(NamespaceKind::User))?;
                control::report(control, Message::Ready, None);
                control::await_go(control, Go::Mapped)
            }
            Self::Enter { kind, fd } => namespace::enter(fd.as_fd(), clone_flag(*kind)),
            Self::TryEnter { kind, fd } => match namespace::enter(fd.as_fd(), clone_flag(*kind)) {
                Err(Errno::PERM) => Ok(()),
                outcome => outcome,
            },
            Self::NewTime(offsets) => {
                namespace::unshare(clone_flag(NamespaceKind::Time))?;
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                let file = openat(CWD, c"/proc/self/timens_offsets", flags, Mode::empty())?;
                atoll_sys::rustix::io::write(&file, offsets.to_bytes()).map(|_| ())
            }
        }
    }
}

/// Clones a child that executes `program`, after `before`; its pid and pidfd.
///
/// # Errors
/// [`Error::Kernel`]; [`Error::Vanished`] when the PID namespace takes no more processes.
pub(super) fn clone(
    program: &Program,
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    before: &[EntryStep],
    map_ids: &dyn Fn(u32) -> Result<()>,
) -> Result<(u32, OwnedFd)> {
    let is_visit = |step: &EntryStep| match step {
        EntryStep::Enter { kind, .. } => *kind == NamespaceKind::Pid,
        EntryStep::TryEnter { .. } | EntryStep::NewUser | EntryStep::NewTime(_) => false,
    };
    if before.len() > 1 || !before.iter().all(is_visit) {
        return by_go_between(program, flags, cgroup, before, map_ids);
    }
    let visit = match before {
        [EntryStep::Enter { fd, .. }] => Some(PidNamespaceVisit::enter(fd.as_fd())?),
        _ => None,
    };
    // SAFETY: the child runs `child::run` only, which is child-safe throughout and never returns.
    let cloned = unsafe { process::clone_process(flags, cgroup) };
    match cloned {
        Ok(Cloned::Child) => child::run(program),
        Ok(Cloned::Parent { pid, pidfd }) => Ok((pid, pidfd)),
        // A PID namespace whose first process is gone takes no more.
        Err(Errno::NOMEM) if visit.is_some() => Err(Error::Vanished),
        Err(errno) => Err(kernel("clone the container's process", errno)),
    }
}

/// The number of the step after the last of `before`: the clone.
fn clone_step(before: &[EntryStep]) -> u32 {
    u32::try_from(before.len()).unwrap_or(u32::MAX)
}

fn by_go_between(
    program: &Program,
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    before: &[EntryStep],
    map_ids: &dyn Fn(u32) -> Result<()>,
) -> Result<(u32, OwnedFd)> {
    let (ours, theirs) = control::pair().map_err(|errno| kernel("make a control socket", errno))?;
    // SAFETY: the child runs `go_between` only, which is child-safe throughout and never returns.
    let cloned = unsafe { process::clone_process(0, None) };
    let (go_between_pid, go_between_pidfd) = match cloned {
        Ok(Cloned::Child) => go_between(program, flags, cgroup, before, &theirs),
        Ok(Cloned::Parent { pid, pidfd }) => (pid, pidfd),
        Err(errno) => return Err(kernel("clone a process to enter namespaces", errno)),
    };
    drop(theirs);
    let receive = || {
        control::receive(ours.as_fd())
            .map_err(|source| state::file("read from", "control socket".as_ref(), source))
    };
    let mut message = receive();
    if matches!(message, Ok(Some((Message::Ready, _)))) {
        message = map_ids(go_between_pid).and_then(|()| {
            control::tell(ours.as_fd(), Go::Mapped);
            receive()
        });
    }
    // Without an answer it goes no further.
    drop(ours);
    // It is a child of ours in any case and ends by itself.
    let _ = process::wait(go_between_pidfd.as_fd());
    match message? {
        Some((Message::Made { pid }, _)) => {
            // Not reaped yet, so the pid is still that process'.
            let pidfd = process::open(pid);
            Ok((
                pid,
                pidfd.map_err(|errno| kernel("open the process", errno))?,
            ))
        }
        Some((Message::Failed { step, errno }, _)) => {
            let errno = Errno::from_raw_os_error(errno);
            let at = usize::try_from(step).ok();
            match at.and_then(|at| before.get(at)) {
                Some(step) => Err(kernel(step.describe(), errno)),
                None if errno == Errno::NOMEM => Err(Error::Vanished),
                None => Err(kernel("clone the container's process", errno)),
            }
        }
        _ => Err(Error::Vanished),
    }
}

/// Never returns. Child-safe.
fn go_between(
    program: &Program,
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    before: &[EntryStep],
    control: &OwnedFd,
) -> ! {
    let fail = |step: u32, errno: Errno| -> ! {
        let errno = errno.raw_os_error();
        control::report(control.as_fd(), Message::Failed { step, errno }, None);
        process::exit_now(1)
    };
    for (step, entry) in (0_u32..).zip(before) {
        if let Err(errno) = entry.execute(control.as_fd()) {
            fail(step, errno);
        }
    }
    // SAFETY: the child runs `child::run` only, which is child-safe throughout and never returns.
    match unsafe { process::clone_sibling(flags, cgroup) } {
        Ok(Cloned::Child) => child::run(program),
        Ok(Cloned::Parent { pid, .. }) => {
            control::report(control.as_fd(), Message::Made { pid }, None);
            process::exit_now(0)
        }
        Err(errno) => fail(clone_step(before), errno),
    }
}

/// While it lives, children of the calling thread are born in another PID namespace. Other threads
/// are not affected.
struct PidNamespaceVisit {
    own: File,
}

impl PidNamespaceVisit {
    fn enter(namespace: BorrowedFd<'_>) -> Result<Self> {
        let path = "/proc/self/ns/pid";
        let own = File::open(path).map_err(|source| Error::File {
            action: "open",
            path: path.into(),
            source,
        })?;
        namespace::enter(namespace, libc::CLONE_NEWPID)
            .map_err(|errno| kernel("join the pid namespace", errno))?;
        Ok(Self { own })
    }
}

impl Drop for PidNamespaceVisit {
    fn drop(&mut self) {
        // Going back to one's own namespace needs the right that entering another needed.
        let _ = namespace::enter(self.own.as_fd(), libc::CLONE_NEWPID);
    }
}
