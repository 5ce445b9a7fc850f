//! The Linux part of the configuration. Spec: OCI runtime-spec 1.3, config-linux.md.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::absent::{is_default, null_as_default};
use crate::resources::Resources;

/// The seccomp part of the configuration.
pub type Seccomp = atoll_seccomp::Profile;

/// Linux specific settings.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Linux {
    /// Namespaces to make or join; kinds not named are shared with the caller.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub namespaces: Vec<Namespace>,
    /// User ids of a new user namespace.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub uid_mappings: Vec<IdMapping>,
    /// Group ids of a new user namespace.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub gid_mappings: Vec<IdMapping>,
    /// Clock offsets of a new time namespace, by clock name (`monotonic`, `boottime`).
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub time_offsets: BTreeMap<String, TimeOffset>,
    /// Network devices of the caller's network namespace to move into the container's, by name.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub net_devices: BTreeMap<String, NetDevice>,
    /// Device nodes to make, besides the default ones.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub devices: Vec<Device>,
    /// Absolute: below the hierarchy's root; relative: below the caller's own cgroup; `slice:prefix:name` with systemd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroups_path: Option<String>,
    /// Limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Cache and memory bandwidth allocation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<IntelRdt>,
    /// System call filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp>,
    /// Kernel parameters, `net.ipv4.ip_forward` → `1`.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub sysctl: BTreeMap<String, String>,
    /// `shared`, `slave`, `private` or `unbindable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs_propagation: Option<String>,
    /// Paths the container can't read.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub masked_paths: Vec<String>,
    /// Paths the container can't write.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub readonly_paths: Vec<String>,
    /// SELinux label of the container's mounts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_label: Option<String>,
    /// set_mempolicy(2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_policy: Option<MemoryPolicy>,
    /// personality(2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub personality: Option<Personality>,
}

/// A kind of namespace.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceKind {
    /// Process ids.
    #[default]
    Pid,
    /// Network devices, addresses, ports.
    Network,
    /// Mounts.
    Mount,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host name.
    Uts,
    /// User and group ids, capabilities.
    User,
    /// View of the cgroup hierarchy.
    Cgroup,
    /// Boot and monotonic clocks.
    Time,
}

/// A namespace to make or join.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Namespace {
    /// Which kind.
    #[serde(rename = "type", deserialize_with = "null_as_default")]
    pub kind: NamespaceKind,
    /// File of the namespace to join; absent makes a new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

impl Namespace {
    /// File of the namespace to join; none for a new one, which an empty path means as well.
    #[must_use]
    pub fn joined(&self) -> Option<&Path> {
        let path = self.path.as_deref();
        path.filter(|path| !path.as_os_str().is_empty())
    }
}

/// A range of ids mapped into a user namespace.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IdMapping {
    /// First id inside.
    #[serde(rename = "containerID", deserialize_with = "null_as_default")]
    pub container_id: u32,
    /// First id outside.
    #[serde(rename = "hostID", deserialize_with = "null_as_default")]
    pub host_id: u32,
    /// How many ids.
    #[serde(deserialize_with = "null_as_default")]
    pub size: u32,
}

/// A clock's offset.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TimeOffset {
    /// Seconds.
    #[serde(deserialize_with = "null_as_default")]
    pub secs: i64,
    /// Nanoseconds.
    #[serde(deserialize_with = "null_as_default")]
    pub nanosecs: u32,
}

/// A device node. Spec: config-linux.md#devices.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    /// Where inside the container.
    #[serde(deserialize_with = "null_as_default")]
    pub path: PathBuf,
    /// `c` or `u` character, `b` block, `p` fifo.
    #[serde(rename = "type", deserialize_with = "null_as_default")]
    pub kind: String,
    /// Major number.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub major: i64,
    /// Minor number.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub minor: i64,
    /// Permission bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    /// Owner inside the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group inside the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// Cache and memory bandwidth allocation. Spec: config-linux.md#intelrdt. `enableCMT` and `enableMBM` of versions before 1.3 are ignored, as by runc.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IntelRdt {
    /// Class of service.
    #[serde(rename = "closID", skip_serializing_if = "Option::is_none")]
    pub clos_id: Option<String>,
    /// L3 schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l3_cache_schema: Option<String>,
    /// Memory bandwidth schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_bw_schema: Option<String>,
    /// Lines of the schemata file.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub schemata: Vec<String>,
    /// Whether a monitoring group is made.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub enable_monitoring: bool,
}

/// A network device's place in the container. Spec: config-linux.md#network-devices.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetDevice {
    /// Its name inside; empty keeps the one it has.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub name: String,
}

/// Which memory nodes pages come from. Spec: config-linux.md#memory-policy.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemoryPolicy {
    /// `MPOL_DEFAULT`, `MPOL_BIND`, …
    #[serde(deserialize_with = "null_as_default")]
    pub mode: String,
    /// List of nodes, `0-3,7`.
    #[serde(deserialize_with = "null_as_default")]
    pub nodes: String,
    /// `MPOL_F_STATIC_NODES`, …
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub flags: Vec<String>,
}

/// Execution domain.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Personality {
    /// `LINUX` or `LINUX32`.
    #[serde(deserialize_with = "null_as_default")]
    pub domain: String,
    /// None are defined.
    #[serde(
        deserialize_with = "null_as_default",
        skip_serializing_if = "is_default"
    )]
    pub flags: Vec<String>,
}
