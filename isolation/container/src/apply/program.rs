//! The list of operations a container process executes before its program.
//!
//! Everything the operations need is here, allocated and opened by the runtime before the clone;
//! the child only reads it. A failed operation is reported by its index; its description is made by
//! the runtime, and only then.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use atoll_cgroup::JoinHandles;
use atoll_spec::NamespaceKind;
use atoll_sys::inside::Missing;
use atoll_sys::mount::{Attributes, Change};
use atoll_sys::process::StringArray;
use atoll_sys::rustix::process::Gid;
use atoll_sys::scheduling::{NumberSet, SchedulerAttributes};

use super::hooks::HookList;
use crate::plan::{
    CapabilityPlan, DevicePlan, MemoryPolicyPlan, RlimitPlan, SeccompPlan, file_name,
};

/// How the description of [`Op::JoinResctrl`] begins.
pub(crate) const JOIN_RESCTRL: &str = "add the process to the resctrl group ";

/// What a container process does.
#[derive(Debug)]
pub(crate) struct Program {
    /// Operations in order.
    pub(crate) steps: Vec<Op>,
    /// Root directory of the container's file system, or of a rootless one just its folder; absent for processes that join one.
    pub(crate) root: Option<OwnedFd>,
    /// Whether others may look into the process until it has its mappings: those who write them have no privilege.
    pub(crate) is_rootless: bool,
    /// The child's end of the control socket.
    pub(crate) control: OwnedFd,
    /// SELinux label of what is on file systems made by operations, where their settings don't say it.
    pub(crate) mount_label: Option<CString>,
    /// How the program is launched at last.
    pub(crate) launch: Launch,
}

/// One operation.
#[derive(Debug)]
pub(crate) enum Op {
    /// Asks for a signal when the runtime's thread ends.
    DeathSignal(i32),
    /// Labels the keys the process makes for SELinux, until execve(2).
    KeyLabel(CString),
    /// Joins a new session keyring.
    Keyring(CString),
    /// Writes `/proc/self/oom_score_adj`.
    OomScore(CString),
    /// Joins control groups.
    JoinCgroup(JoinHandles),
    /// Joins resource control groups; the folder of the first.
    JoinResctrl(atoll_resctrl::JoinHandles, PathBuf),
    /// Waits until systemd has moved the process into its control group.
    AwaitMove,
    /// Makes a control group namespace with the present groups as its root.
    NewCgroupNamespace,
    /// Joins a namespace.
    Enter { kind: NamespaceKind, fd: OwnedFd },
    /// Joins several namespaces of a process at once.
    EnterProcess { pidfd: OwnedFd, flags: i32 },
    /// Waits for the user namespace's mappings and becomes its root.
    AwaitMappings,
    /// Becomes root of the user namespace joined.
    BecomeRoot,
    /// Brings `lo` up.
    Loopback,
    /// Changes all mounts of the namespace.
    Propagate(Change),
    /// Keeps a root mount from travelling to shared parents.
    PrivateRoot,
    /// Opens the root file system, a folder, as a detached mount with this propagation.
    OpenRoot(CString, Change),
    /// Attaches the root file system.
    AttachRoot,
    /// Attaches the root file system at a place of a mount namespace that others use too.
    AttachRootAt(CString),
    /// Attaches the root file system at its own place, where hooks that enter the mount namespace look for it.
    AttachRootInPlace(CString),
    /// Attaches a detached mount.
    Attach {
        mount: OwnedFd,
        target: CString,
        missing: Missing,
    },
    /// Makes a superblock and attaches it.
    Filesystem(Filesystem),
    /// Shows the container's control groups.
    CgroupView {
        target: CString,
        folders: Vec<(CString, CString)>,
        links: Vec<(CString, CString)>,
        attributes: Attributes,
    },
    /// Makes a device node.
    Device(DevicePlan),
    /// Makes a symlink.
    Link { target: CString, path: CString },
    /// Allocates the terminal and shows it as `/dev/console`.
    Console,
    /// Allocates the terminal.
    Terminal,
    /// Makes the working directory.
    WorkingDirectory,
    /// Has execve(2) enter an AppArmor profile; the text is `exec <profile>`.
    AppArmor(CString),
    /// Has execve(2) enter an SELinux label.
    ProcessLabel(CString),
    /// Writes a kernel parameter.
    Sysctl { path: CString, value: CString },
    /// Makes a path unreadable.
    Mask(CString),
    /// Makes a path read-only.
    ReadOnly(CString),
    /// Makes a mount read-only.
    RemountReadOnly(CString),
    /// Makes the root read-only.
    RootReadOnly,
    /// Tells the runtime that namespaces exist, and waits for its hooks.
    AwaitHooks,
    /// Runs hooks of our own.
    RunHooks(HookList),
    /// Makes a place for a mount that comes later.
    Place { target: CString, missing: Missing },
    /// Keeps the root file system at a place as it is now.
    KeepRoot(CString),
    /// Puts the kept root file system into the place of what was mounted there since.
    RenewRoot(CString),
    /// Changes the root.
    PivotRoot { shared: bool },
    /// Changes the root where pivot_root(2) can't.
    MoveRoot,
    /// Hides the host's mounts at these places, deepest first: what is left of them would let new ones be made.
    HideHost(Vec<CString>),
    /// Binds a part of the container's own file tree, which earlier mounts may have made.
    BindInside(BindInside),
    /// Binds a part of the host's file tree, seen by the process in its own user namespace.
    BindOutside(BindInside),
    /// Changes the root to that of the container's first process.
    EnterRoot(OwnedFd),
    /// Sets the propagation of the new root.
    RootPropagation(Change),
    /// Sets the host name.
    Hostname(CString),
    /// Sets the domain name.
    Domainname(CString),
    /// Sets the execution domain.
    Personality(u64),
    /// Sets the memory policy.
    MemoryPolicy(MemoryPolicyPlan),
    /// Pins the process to CPUs.
    Affinity(NumberSet),
}

/// A superblock to make.
#[derive(Debug)]
pub(crate) struct Filesystem {
    pub(crate) kind: CString,
    pub(crate) settings: Vec<(CString, Option<CString>)>,
    pub(crate) attributes: Attributes,
    pub(crate) changes: Vec<Change>,
    /// Whether it begins with what is at its place.
    pub(crate) copy_up: bool,
    pub(crate) target: CString,
}

/// A bind mount whose source is opened by the process.
#[derive(Debug)]
pub(crate) struct BindInside {
    /// Inside the root, or in the host's file tree.
    pub(crate) source: CString,
    pub(crate) recursive: bool,
    /// And whether they are of mounts below too.
    pub(crate) changes: Vec<(Change, bool)>,
    /// Shifts ids, and on mounts below too.
    pub(crate) id_map: Option<(OwnedFd, bool)>,
    pub(crate) target: CString,
}

/// How the program is launched.
#[derive(Debug)]
pub(crate) struct Launch {
    /// Whether the program leads a session of its own.
    pub(crate) new_session: bool,
    /// Where standard streams lead.
    pub(crate) stdio: Stdio,
    /// User who is to own the standard streams.
    pub(crate) streams_uid: u32,
    /// Whether streams that are the host's null device become the container's.
    pub(crate) own_null: bool,
    /// Descriptors that become 3 and so on; their own numbers are higher than all of these.
    pub(crate) extra: Vec<OwnedFd>,
    /// Whether the terminal passes line ends on as they are.
    pub(crate) keeps_line_ends: bool,
    /// Rows and columns.
    pub(crate) terminal_size: Option<(u16, u16)>,
    /// How many descriptors from 3 on the program gets, those of `extra` included.
    pub(crate) preserve_fds: u32,
    pub(crate) rlimits: Vec<RlimitPlan>,
    pub(crate) io_priority: Option<i32>,
    pub(crate) scheduler: Option<SchedulerAttributes>,
    pub(crate) capabilities: CapabilityPlan,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<Gid>,
    pub(crate) umask: u32,
    pub(crate) cwd: CString,
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: Option<SeccompPlan>,
    pub(crate) candidates: Vec<CString>,
    pub(crate) args: StringArray,
    pub(crate) env: StringArray,
    pub(crate) start: Start,
    /// Hooks to run right before the program.
    pub(crate) hooks: Option<HookList>,
}

/// Where standard streams lead.
#[derive(Debug)]
pub(crate) enum Stdio {
    Inherit,
    Fds([OwnedFd; 3]),
    Terminal,
}

/// What the program's execution waits for.
#[derive(Debug)]
pub(crate) enum Start {
    /// Nothing.
    AtOnce,
    /// A byte on the control socket.
    Control,
    /// A byte in a fifo; failures go into a file.
    Fifo { fifo: OwnedFd, report: OwnedFd },
}

/// Steps after the operations; their numbers start where no index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum LaunchStep {
    Session = 0x1_0000,
    Terminal,
    Streams,
    Limits,
    Scheduler,
    IoPriority,
    Descriptors,
    Chdir,
    Bounding,
    User,
    Capabilities,
    Lookup,
    Start,
    Hooks,
    NoNewPrivs,
    Seccomp,
    Listener,
    Execute,
}

impl LaunchStep {
    const ALL: [(Self, &'static str); 18] = [
        (Self::Session, "make a session"),
        (Self::Terminal, "take the terminal"),
        (Self::Streams, "set standard streams"),
        (Self::Limits, "set resource limits"),
        (Self::Scheduler, "set the scheduling policy"),
        (Self::IoPriority, "set I/O priority"),
        (Self::Descriptors, "close descriptors"),
        (Self::Chdir, "change the working directory"),
        (Self::Bounding, "drop capabilities from the bounding set"),
        (Self::User, "change user and groups"),
        (Self::Capabilities, "set capabilities"),
        (Self::Lookup, "find the program"),
        (Self::Start, "wait for start"),
        (Self::Hooks, "run startContainer hooks"),
        (Self::NoNewPrivs, "set no_new_privs"),
        (Self::Seccomp, "install the seccomp filter"),
        (Self::Listener, "hand over the seccomp listener"),
        (Self::Execute, "execute the program"),
    ];

    /// The step of a number in a message.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::ALL
            .iter()
            .map(|(step, _)| *step)
            .find(|step| *step as u32 == number)
    }

    /// What is done.
    pub(crate) fn describe(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(step, _)| *step == self)
            .map_or("", |(_, text)| text)
    }
}

impl Op {
    /// Whether a symlink in its way is refused.
    pub(crate) fn wants_ordinary_folder(&self) -> bool {
        match self {
            Self::Filesystem(filesystem) => {
                matches!(filesystem.kind.to_bytes(), b"proc" | b"sysfs")
            }
            _ => false,
        }
    }

    /// What is done, for people.
    pub(crate) fn describe(&self) -> String {
        let text = |c: &CString| c.to_string_lossy().into_owned();
        match self {
            Self::DeathSignal(_) => "set the parent death signal".to_owned(),
            Self::KeyLabel(label) => format!("can't set key label {}", text(label)),
            Self::Keyring(name) => format!("join session keyring {}", text(name)),
            Self::OomScore(value) => format!("write {} to oom_score_adj", text(value)),
            Self::JoinCgroup(_) => "join the cgroup".to_owned(),
            Self::JoinResctrl(_, folder) => format!("{JOIN_RESCTRL}{}", folder.display()),
            Self::AwaitMove => "wait for systemd to move the process".to_owned(),
            Self::NewCgroupNamespace => "make a cgroup namespace".to_owned(),
            Self::Enter { kind, .. } => format!("join the {} namespace", file_name(*kind)),
            Self::EnterProcess { .. } => "join the container's namespaces".to_owned(),
            Self::AwaitMappings | Self::BecomeRoot => {
                "become root of the user namespace".to_owned()
            }
            Self::Loopback => "bring up lo".to_owned(),
            Self::Propagate(_) | Self::RootPropagation(_) => "change mount propagation".to_owned(),
            Self::PrivateRoot => "make the root mount private".to_owned(),
            Self::AttachRoot => "mount the rootfs".to_owned(),
            Self::AttachRootAt(path) | Self::AttachRootInPlace(path) => {
                format!("mount the rootfs to {}", text(path))
            }
            Self::Attach { target, .. } => format!("bind mount to {}", text(target)),
            Self::Filesystem(filesystem) => {
                format!(
                    "mount {} to {}",
                    text(&filesystem.kind),
                    text(&filesystem.target)
                )
            }
            Self::CgroupView { target, .. } => format!("mount cgroups to {}", text(target)),
            Self::Device(device) => format!("make device {}", text(&device.path)),
            Self::Link { path, .. } => format!("make symlink {}", text(path)),
            Self::Console | Self::Terminal => "allocate a terminal".to_owned(),
            Self::WorkingDirectory => "make the working directory".to_owned(),
            Self::Sysctl { path, .. } => format!("write /proc/{}", text(path)),
            Self::AppArmor(value) => format!("set the AppArmor profile: {}", text(value)),
            Self::ProcessLabel(label) => format!("can't set process label {}", text(label)),
            Self::Mask(path) => format!("mask {}", text(path)),
            Self::ReadOnly(path) => format!("make {} read-only", text(path)),
            Self::RemountReadOnly(path) => format!("remount {} read-only", text(path)),
            Self::RootReadOnly => "make the root read-only".to_owned(),
            Self::AwaitHooks => "wait for hooks".to_owned(),
            Self::RunHooks(list) => format!("run {} hooks", list.kind()),
            Self::Place { target, .. } => format!("make mountpoint {}", text(target)),
            Self::KeepRoot(_) | Self::RenewRoot(_) => "mount the rootfs again".to_owned(),
            Self::PivotRoot { .. } => "pivot_root".to_owned(),
            Self::MoveRoot => "move the root".to_owned(),
            Self::HideHost(_) => "hide the host's proc and sysfs".to_owned(),
            Self::OpenRoot(path, _) => format!("open rootfs {}", text(path)),
            Self::BindInside(bind) | Self::BindOutside(bind) => {
                format!("mount {} → {}", text(&bind.source), text(&bind.target))
            }
            Self::EnterRoot(_) => "change the root to the container's".to_owned(),
            Self::Hostname(name) => format!("set hostname {}", text(name)),
            Self::Domainname(name) => format!("set domainname {}", text(name)),
            Self::Personality(domain) => format!("set personality {domain}"),
            Self::MemoryPolicy(_) => "set the memory policy".to_owned(),
            Self::Affinity(_) => "set CPU affinity".to_owned(),
        }
    }
}
