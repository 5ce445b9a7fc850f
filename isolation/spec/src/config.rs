//! The part of the configuration that is the same on every platform.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::absent::{is_default, null_as_default};
use crate::linux::{IdMapping, Linux};
use crate::vm::Vm;

/// A bundle's `config.json`.
///
/// Spec: OCI runtime-spec 1.3, config.md.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// The version of the specification the bundle follows, `1.x.y`.
    #[serde(deserialize_with = "null_as_default")]
    pub oci_version: String,
    /// The root file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// The process to start; may be absent for containers that are only created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Host name inside; needs a new UTS namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// NIS domain name inside; needs a new UTS namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domainname: Option<String>,
    /// Mounts besides the root, in order.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub mounts: Vec<Mount>,
    /// Programs to run at points of the container's life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    /// Free-form metadata.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Linux specific settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linux: Option<Linux>,
    /// The virtual machine the container is to live in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<Vm>,
}

/// The root file system.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Root {
    /// Absolute, or relative to the bundle.
    #[serde(deserialize_with = "null_as_default")]
    pub path: PathBuf,
    /// Whether the container sees its root read-only.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub readonly: bool,
}

/// The process to start. Spec: config.md#process.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    /// Whether a terminal is attached.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub terminal: bool,
    /// The terminal's size at start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<ConsoleSize>,
    /// Who the process runs as.
    #[serde(deserialize_with = "null_as_default")]
    pub user: User,
    /// Program and arguments; the program is searched in the container's `PATH`.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub args: Vec<String>,
    /// Environment, `NAME=value`.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub env: Vec<String>,
    /// Working directory, absolute.
    #[serde(deserialize_with = "null_as_default")]
    pub cwd: PathBuf,
    /// Capability sets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// Resource limits of setrlimit(2).
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub rlimits: Vec<Rlimit>,
    /// Whether execve(2) may no longer gain privileges.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub no_new_privileges: bool,
    /// AppArmor profile to enter at execve(2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apparmor_profile: Option<String>,
    /// Written to `/proc/self/oom_score_adj`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// SELinux label to enter at execve(2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selinux_label: Option<String>,
    /// I/O priority of ioprio_set(2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_priority: Option<IoPriority>,
    /// Scheduling policy of sched_setattr(2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// CPUs of a process run later by `exec`.
    #[serde(rename = "execCPUAffinity", skip_serializing_if = "Option::is_none")]
    pub exec_cpu_affinity: Option<CpuAffinity>,
}

/// CPUs of a process run by `exec`, as lists (`0-2,7`). Spec: config.md#linux-process.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CpuAffinity {
    /// Before it joins the container's cgroup.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub initial: String,
    /// Once it is in the container's cgroup.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub r#final: String,
}

/// Who a process runs as. Spec: config.md#user.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// User id inside the container.
    #[serde(deserialize_with = "null_as_default")]
    pub uid: u32,
    /// Group id inside the container.
    #[serde(deserialize_with = "null_as_default")]
    pub gid: u32,
    /// umask(2); the caller's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// Supplementary groups.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub additional_gids: Vec<u32>,
    /// User name; unused on Linux, kept for round trips.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsoleSize {
    /// Rows.
    #[serde(deserialize_with = "null_as_default")]
    pub height: u16,
    /// Columns.
    #[serde(deserialize_with = "null_as_default")]
    pub width: u16,
}

/// Capability sets by name (`CAP_CHOWN`). Spec: config.md#linux-process.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Capabilities {
    /// Bounding set.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub bounding: Vec<String>,
    /// Effective set.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub effective: Vec<String>,
    /// Inheritable set.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub inheritable: Vec<String>,
    /// Permitted set.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub permitted: Vec<String>,
    /// Ambient set.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub ambient: Vec<String>,
}

/// One resource limit. Spec: config.md#posix-process.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rlimit {
    /// Name, `RLIMIT_NOFILE`.
    #[serde(rename = "type", deserialize_with = "null_as_default")]
    pub kind: String,
    /// Hard limit; `u64::MAX` is unlimited.
    #[serde(deserialize_with = "null_as_default")]
    pub hard: u64,
    /// Soft limit; `u64::MAX` is unlimited.
    #[serde(deserialize_with = "null_as_default")]
    pub soft: u64,
}

/// I/O priority. Spec: config.md#linux-process.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IoPriority {
    /// `IOPRIO_CLASS_RT`, `IOPRIO_CLASS_BE` or `IOPRIO_CLASS_IDLE`.
    #[serde(deserialize_with = "null_as_default")]
    pub class: String,
    /// 0 (highest) to 7.
    #[serde(deserialize_with = "null_as_default")]
    pub priority: i32,
}

/// Scheduling policy. Spec: config.md#linux-process.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Scheduler {
    /// `SCHED_OTHER`, `SCHED_FIFO`, …
    #[serde(deserialize_with = "null_as_default")]
    pub policy: String,
    /// Nice value.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub nice: i32,
    /// Static priority of the real-time policies.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub priority: i32,
    /// `SCHED_FLAG_…` names.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub flags: Vec<String>,
    /// Deadline policy: runtime in nanoseconds.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub runtime: u64,
    /// Deadline policy: deadline in nanoseconds.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub deadline: u64,
    /// Deadline policy: period in nanoseconds.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub period: u64,
}

/// One mount. Spec: config.md#mounts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    /// Where inside the container, absolute.
    #[serde(deserialize_with = "null_as_default")]
    pub destination: PathBuf,
    /// File system type, `bind` for bind mounts.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What is mounted: a device, a path (absolute or relative to the bundle) or a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
    /// Options as of fstab(5), plus `rbind`, `rro`, `idmap`, `tmpcopyup`, …
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub options: Vec<String>,
    /// User id mapping of an idmapped mount.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub uid_mappings: Vec<IdMapping>,
    /// Group id mapping of an idmapped mount.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub gid_mappings: Vec<IdMapping>,
}

/// Programs to run at points of the container's life. Spec: config.md#posix-platform-hooks.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// Deprecated twin of `create_runtime`, run before it.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub prestart: Vec<Hook>,
    /// In the runtime's namespaces, after the container's are made, before pivot_root.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub create_runtime: Vec<Hook>,
    /// In the container's namespaces, before pivot_root.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub create_container: Vec<Hook>,
    /// In the container, before the program is executed.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub start_container: Vec<Hook>,
    /// In the runtime's namespaces, after the program is executed.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub poststart: Vec<Hook>,
    /// In the runtime's namespaces, after the container is deleted.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub poststop: Vec<Hook>,
}

/// One program to run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hook {
    /// Absolute path of the program.
    #[serde(deserialize_with = "null_as_default")]
    pub path: PathBuf,
    /// Arguments, argv[0] first.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub args: Vec<String>,
    /// Environment, `NAME=value`.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub env: Vec<String>,
    /// Seconds until it is killed and counts as failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}
