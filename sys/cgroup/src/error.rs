//! What can go wrong with control groups.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::systemd;

/// Why an operation on control groups failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// `/proc/self/mountinfo` or `/proc/self/cgroup` can't be read.
    #[error("cannot read {path}")]
    Detect {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No cgroup file system is mounted.
    #[error("no cgroup file system is mounted")]
    NotMounted,
    /// A cgroup path that could lead outside its hierarchy, or is empty.
    #[error("cgroup path `{path}` {reason}")]
    Path {
        /// The path as given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A setting needs a controller that no hierarchy has.
    #[error("{setting} needs the cgroup controller `{controller}`, which is not available")]
    NoController {
        /// The missing controller.
        controller: String,
        /// The setting that asked for it.
        setting: String,
    },
    /// A setting the kernel would refuse or this layout can't express.
    #[error("{setting} {reason}")]
    Setting {
        /// The setting.
        setting: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder of the cgroup can't be made.
    #[error("cannot create cgroup {path}")]
    Create {
        /// The folder.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The cgroup exists already and has processes.
    #[error("container's cgroup is not empty: {path} has processes")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The cgroup exists already and is frozen: whoever joined it would stand still for ever.
    #[error("container's cgroup unexpectedly frozen: {path}")]
    Frozen {
        /// The folder.
        path: PathBuf,
    },
    /// A control file refused a value.
    #[error("cannot write `{value}` to {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What was written.
        value: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A control file can't be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The device program of cgroup v2 was refused.
    #[error("cannot attach the device program to {path}")]
    DeviceProgram {
        /// The cgroup's folder.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The cgroup did not freeze in time; it was thawed again.
    #[error("cgroup {path} did not freeze in {timeout_ms} ms")]
    FreezeTimeout {
        /// The folder.
        path: PathBuf,
        /// How long it was tried.
        timeout_ms: u64,
    },
    /// Processes are left after everything was killed.
    #[error("{count} processes of cgroup {path} are still there after being killed")]
    Unkillable {
        /// The folder.
        path: PathBuf,
        /// How many are left.
        count: usize,
    },
    /// A user's systemd has no say over controllers on cgroup v1.
    #[error(
        "the user's systemd makes cgroups on cgroup v2 only, and this host has controllers on v1"
    )]
    NotUnified,
    /// systemd did not do what it was asked for.
    #[error("cannot {step}: {reason}")]
    Systemd {
        /// What was asked.
        step: String,
        /// What came back.
        reason: String,
    },
    /// A folder of the cgroup can't be removed.
    #[error("cannot remove cgroup {path}")]
    Remove {
        /// The folder.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotMounted => Some("mount it: `mount -t cgroup2 none /sys/fs/cgroup`".into()),
            Self::NoController { controller, .. } => Some(format!(
                "boot the kernel with `{controller}` enabled, or leave the limit out"
            )),
            Self::Systemd { step, .. } if step == systemd::FIND => {
                Some("leave --systemd-cgroup out: cgroups are then made as folders".into())
            }
            Self::NotUnified => Some(
                "leave --systemd-cgroup out, or boot the host with systemd.unified_cgroup_hierarchy=1"
                    .into(),
            ),
            Self::Systemd { step, .. } if step == systemd::FIND_USERS => Some(
                "log in, or have root start it: loginctl enable-linger USER; XDG_RUNTIME_DIR must name its folder"
                    .into(),
            ),
            Self::Frozen { .. } => Some("thaw it, or choose another cgroupsPath".into()),
            Self::InUse { .. } => {
                Some("choose another cgroupsPath, or end the processes in it".into())
            }
            Self::Write { path, source, .. }
                if source.raw_os_error() == Some(libc::EBUSY)
                    && path.ends_with("memory.limit_in_bytes") =>
            {
                Some("the container uses more memory than the new limit".into())
            }
            Self::Write { path, source, .. }
                if source.raw_os_error() == Some(libc::EBUSY)
                    && path.ends_with("cgroup.subtree_control") =>
            {
                Some(
                    "move the processes of this cgroup into one below it first: a cgroup with processes cannot hand on controllers"
                        .into(),
                )
            }
            Self::Create { source, .. } | Self::Write { source, .. } => {
                match source.raw_os_error() {
                    Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
                        Some("run as root, or below a cgroup delegated to this user".into())
                    }
                    Some(libc::EOPNOTSUPP) => {
                        Some("a cgroup with processes of its own cannot have controllers".into())
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }
}
