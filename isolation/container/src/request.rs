//! What callers ask for.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use atoll_cgroup::Hierarchies;
use atoll_spec::{Mount, Process};

use crate::ContainerId;

/// A request to make a container from a bundle.
#[derive(Debug)]
pub struct CreateRequest {
    /// The container's id, unique below `state_root`.
    pub id: ContainerId,
    /// Folder of container states, made when missing; this container's is `state_root/<id>`.
    pub state_root: PathBuf,
    /// The bundle folder; relative paths of the configuration start here.
    pub bundle: PathBuf,
    /// What the root file system is made of, bottom mount first; empty means the folder
    /// `root.path` as it is. The mounts exist in the container's mount namespace only.
    pub rootfs_mounts: Vec<RootfsMount>,
    /// Where the process' standard streams lead.
    pub stdio: StdioRequest,
    /// How many descriptors from 3 on the process gets, besides its standard streams.
    pub preserve_fds: u32,
    /// Whether the root is changed by moving the mount instead of pivot_root(2) (initramfs).
    pub no_pivot: bool,
    /// Whether the process keeps the caller's session keyring.
    pub no_new_keyring: bool,
    /// Whether `cgroupsPath` is `slice:prefix:name` as systemd's driver has it.
    pub systemd_cgroup: bool,
    /// Signal number the first process gets when the thread that made it ends.
    pub death_signal: Option<i32>,
    /// Whether there is a folder [`CreateRequest::notify_folder`], for a mount of the configuration's.
    pub has_notify_folder: bool,
    /// Who starts the program.
    pub start_by: StartBy,
    /// The control group hierarchies, of a caller that makes several containers and has looked; absent looks.
    pub hierarchies: Option<Hierarchies>,
    /// Root of the file system of resource control groups; absent looks for it when one is needed.
    pub resctrl: Option<PathBuf>,
    /// Told once of what is left out, in words for people, before anything is done.
    pub warn: fn(&[String]),
    /// Told of what is going on.
    pub debug: fn(&str),
}

impl CreateRequest {
    /// A request with inherited streams and no options.
    #[must_use]
    pub fn new(id: ContainerId, state_root: PathBuf, bundle: PathBuf) -> Self {
        Self {
            id,
            state_root,
            bundle,
            rootfs_mounts: Vec::new(),
            stdio: StdioRequest::Inherit,
            preserve_fds: 0,
            no_pivot: false,
            no_new_keyring: false,
            systemd_cgroup: false,
            death_signal: None,
            has_notify_folder: false,
            start_by: StartBy::Caller,
            hierarchies: None,
            resctrl: None,
            warn: |_| (),
            debug: |_| (),
        }
    }
}

impl CreateRequest {
    /// The folder for a socket at which the container says that it is ready; in its state folder, and gone with it.
    #[must_use]
    pub fn notify_folder(state_root: &Path, id: &ContainerId) -> PathBuf {
        crate::state::folder_of(state_root, id).join("notify")
    }

    /// The mount by which the container has that folder, `/run/notify`.
    #[must_use]
    pub fn notify_mount(folder: PathBuf) -> Mount {
        Mount {
            destination: "/run/notify".into(),
            source: Some(folder),
            options: ["bind", "nosuid", "noexec", "nodev", "ro"]
                .map(str::to_owned)
                .into(),
            ..Mount::default()
        }
    }
}

/// One mount of the root file system, as containerd's `types.Mount`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RootfsMount {
    /// File system type: `overlay`, `bind`, any other.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Options as of fstab(5), `lowerdir=…`.
    pub options: Vec<String>,
}

/// Where a process' standard streams lead.
#[derive(Debug, Default)]
pub enum StdioRequest {
    /// Where the caller's lead.
    #[default]
    Inherit,
    /// To these descriptors.
    Fds {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// To a terminal of the container's own devpts, whose master the caller gets. Used instead of
    /// the configuration's `process.terminal`.
    Terminal {
        /// Rows and columns; absent takes `process.consoleSize`.
        size: Option<(u16, u16)>,
    },
}

/// Who starts a created container's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartBy {
    /// The process that made it, by [`crate::InitProcess::start`]. When that process ends before,
    /// the container's first process ends too.
    #[default]
    Caller,
    /// Any process, by [`crate::Container::start`].
    Anyone,
}

/// A request to run one more process in a container.
#[derive(Debug)]
pub struct ExecRequest {
    /// The process; its program is executed at once.
    pub process: Process,
    /// Where its standard streams lead.
    pub stdio: StdioRequest,
    /// How many descriptors from 3 on the process gets.
    pub preserve_fds: u32,
    /// Whether the process keeps the caller's session keyring.
    pub no_new_keyring: bool,
    /// Whether its terminal passes line ends on as the program wrote them: whoever shows them adds the carriage return.
    pub keeps_line_ends: bool,
    /// Whether it may run in a paused container; it waits there until that is resumed.
    pub ignore_paused: bool,
    /// Folders below the container's cgroup to run in, `[controllers:]folder`; they exist already.
    pub cgroups: Vec<String>,
    /// Told once of what is left out, in words for people, before anything is done.
    pub warn: fn(&[String]),
}

impl ExecRequest {
    /// A request with inherited streams and no options.
    #[must_use]
    pub fn new(process: Process) -> Self {
        Self {
            process,
            stdio: StdioRequest::Inherit,
            preserve_fds: 0,
            no_new_keyring: false,
            keeps_line_ends: false,
            ignore_paused: false,
            cgroups: Vec::new(),
            warn: |_| (),
        }
    }
}
