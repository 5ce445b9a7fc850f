//! What can go wrong with containers.

use std::path::PathBuf;

use atoll_spec::{SpecError, Status};
use atoll_sys::Errno;

use crate::ContainerId;

/// A container operation's outcome.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a container operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is no container id.
    #[error("invalid container id {0:?}")]
    InvalidId(String),
    /// The id is taken below this state root.
    #[error("container with given ID already exists: {0}")]
    AlreadyExists(ContainerId),
    /// No container has the id.
    #[error("container does not exist: {0}")]
    NotFound(ContainerId),
    /// The container is not in a state for this.
    #[error("cannot {action} container {id} in the {status} state")]
    WrongStatus {
        /// The container.
        id: ContainerId,
        /// What was asked.
        action: &'static str,
        /// The state it is in.
        status: Status,
    },
    /// The container is paused, and a new process would be at once.
    #[error("cannot exec in a paused container {0} (use --ignore-paused to override)")]
    Paused(ContainerId),
    /// The container's first process is gone.
    #[error("container not running: {0}")]
    NotRunning(ContainerId),
    /// The container's processes are in a machine, whose shim must be asked.
    #[error("container {0} is in a machine, and cannot be entered from its host")]
    InMachine(ContainerId),
    /// The container can't be deleted while it runs.
    #[error("cannot delete container {id} that is not stopped: {status}")]
    NotStopped {
        /// The container.
        id: ContainerId,
        /// The state it is in.
        status: Status,
    },
    /// The configuration can't be used.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The configuration asks for what can't be.
    #[error("{field}: {reason}")]
    Plan {
        /// Path of the field, `mounts[3].options`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The control group can't be made or changed.
    #[error(transparent)]
    Cgroup(#[from] atoll_cgroup::Error),
    /// The share of caches and memory bandwidth can't be had or changed.
    #[error(transparent)]
    Resctrl(#[from] atoll_resctrl::Error),
    /// The program isn't there.
    #[error("exec: {command:?}: {reason}")]
    CommandNotFound {
        /// `args[0]`.
        command: String,
        /// In runc's words, which container managers parse.
        reason: String,
    },
    /// The program is there and can't be executed.
    #[error("exec: {command:?}: {reason}")]
    CommandNotExecutable {
        /// `args[0]`.
        command: String,
        /// In runc's words, which container managers parse.
        reason: String,
    },
    /// A step before the program failed.
    #[error("{step}: {}", atoll_sys::describe(*errno))]
    Kernel {
        /// What was done with which object.
        step: String,
        /// What the kernel says.
        errno: Errno,
    },
    /// A file of ours can't be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// `read`, `write`, `make`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: std::io::Error,
    },
    /// A hook failed.
    #[error("error running {kind} hook #{at}: {reason}")]
    Hook {
        /// Kind, `createRuntime`.
        kind: &'static str,
        /// Its place among those of its kind, from 0.
        at: usize,
        /// What happened.
        reason: String,
    },
    /// A network device can't be moved.
    #[error("cannot move network device {name} into the container")]
    NetDevice {
        /// Its name outside.
        name: String,
        /// The step that failed.
        source: atoll_netlink::Error,
    },
    /// Ids can't be mapped without privilege.
    #[error("{program} cannot map ids: {reason}")]
    Rootless {
        /// `newuidmap` or `newgidmap`.
        program: String,
        /// In its words.
        reason: String,
    },
    /// Containers of this kind are neither checkpointed nor restored.
    #[error("a container {what} is neither checkpointed nor restored: {reason}")]
    NotForCriu {
        /// Of which kind, `behind the wall system`.
        what: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// CRIU can't checkpoint or restore the container.
    #[error("criu cannot {action} the container: {reason}")]
    Criu {
        /// `checkpoint` or `restore`.
        action: &'static str,
        /// In its words.
        reason: String,
        /// Where it says more.
        log: Option<PathBuf>,
    },
    /// The container's first process ended before a program was executed.
    #[error("the container's first process ended before the program was executed")]
    Vanished,
}

/// What callers distinguish, as exit codes do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The program isn't there (exit code 127).
    CommandNotFound,
    /// The program can't be executed (exit code 126).
    CommandNotExecutable,
    /// No such container.
    NotFound,
    /// The id is taken.
    AlreadyExists,
    /// The container is not in a state for this.
    WrongStatus,
    /// The request or configuration is wrong.
    InvalidArgument,
    /// CRIU fails.
    Criu,
    /// Everything else.
    Other,
}

impl Error {
    /// What callers distinguish.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::CommandNotFound { .. } => ErrorKind::CommandNotFound,
            Self::CommandNotExecutable { .. } => ErrorKind::CommandNotExecutable,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::AlreadyExists(_) => ErrorKind::AlreadyExists,
            Self::WrongStatus { .. }
            | Self::Paused(_)
            | Self::NotRunning(_)
            | Self::NotStopped { .. } => ErrorKind::WrongStatus,
            Self::InvalidId(_) | Self::Spec(_) | Self::Plan { .. } | Self::NotForCriu { .. } => {
                ErrorKind::InvalidArgument
            }
            Self::Criu { .. } => ErrorKind::Criu,
            _ => ErrorKind::Other,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::InvalidId(_) => Some("use letters, digits and _ + - . only".to_owned()),
            Self::AlreadyExists(id) => Some(format!(
                "choose another id, or delete it: atoll-runtime delete {id}"
            )),
            Self::NotStopped { id, .. } => Some(format!(
                "kill it first, or: atoll-runtime delete --force {id}"
            )),
            Self::Spec(error) => error.hint(),
            Self::Cgroup(error) => error.hint(),
            Self::Resctrl(error) => error.hint(),
            Self::NotForCriu { what, .. } => Some(match what.strip_prefix("behind the wall ") {
                Some(_) => "keep its data in a volume and start it anew, or run it behind the wall process".to_owned(),
                None => "make, checkpoint and restore it as root".to_owned(),
            }),
            Self::Criu { log: None, .. } => {
                Some("is criu installed, and does `criu check` say that it looks good?".to_owned())
            }
            Self::Criu { log: Some(log), .. } => Some(format!("see {}", log.display())),
            Self::Kernel { step, errno } if step.starts_with("set the AppArmor profile") => Some(
                match *errno {
                    Errno::NOENT => "load it with apparmor_parser -r; aa-status lists those that are",
                    _ => "the kernel's log says why: dmesg | grep apparmor",
                }
                .to_owned(),
            ),
            Self::Kernel {
                step,
                errno: Errno::INVAL,
            } if is_label(step) => Some(
                "the loaded SELinux policy knows no such user, role, type or level: see seinfo".to_owned(),
            ),
            Self::Kernel {
                step,
                errno: Errno::ACCESS | Errno::PERM,
            } if is_label(step) => Some(
                "the loaded SELinux policy forbids it to the runtime: see ausearch -m avc".to_owned(),
            ),
            Self::Kernel {
                step,
                errno: Errno::INVAL | Errno::OPNOTSUPP,
            } if step.starts_with("idmap ") => Some(
                "its file system cannot show ids shifted: use another, or do without a user namespace"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// Whether a step gives something an SELinux label.
fn is_label(step: &str) -> bool {
    step.starts_with("can't set ") && step.contains(" label ")
}

/// A kernel's refusal with what was tried.
pub(crate) fn kernel(step: impl Into<String>, errno: Errno) -> Error {
    Error::Kernel {
        step: step.into(),
        errno,
    }
}
