//! What a runtime can do. Spec: OCI runtime-spec 1.3, features.md.

use std::collections::BTreeMap;

use serde::Serialize;

/// The answer of `atoll-runtime features`.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Features {
    /// Oldest specification understood.
    pub oci_version_min: String,
    /// Newest specification understood.
    pub oci_version_max: String,
    /// Hook names understood.
    pub hooks: Vec<String>,
    /// Mount options understood.
    pub mount_options: Vec<String>,
    /// Linux specific abilities.
    pub linux: LinuxFeatures,
    /// Free-form metadata.
    pub annotations: BTreeMap<String, String>,
    /// Annotations of bundles that change what is done on the host; a name that ends in a dot stands for all it begins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub potentially_unsafe_config_annotations: Vec<String>,
}

/// Linux specific abilities.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LinuxFeatures {
    /// Namespace kinds.
    pub namespaces: Vec<String>,
    /// Capability names.
    pub capabilities: Vec<String>,
    /// Control groups.
    pub cgroup: CgroupFeatures,
    /// System call filters.
    pub seccomp: SeccompFeatures,
    /// AppArmor profiles.
    pub apparmor: Enabled,
    /// SELinux labels.
    pub selinux: Enabled,
    /// Cache and memory bandwidth allocation.
    pub intel_rdt: IntelRdtFeatures,
    /// Memory policies.
    pub memory_policy: MemoryPolicyFeatures,
    /// Mounts beyond mount(8).
    pub mount_extensions: MountExtensions,
    /// Network devices moved into containers.
    pub net_devices: Enabled,
}

/// Whether something is supported, on whatever host.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Enabled {
    /// Whether it is.
    pub enabled: bool,
}

/// Cache and memory bandwidth abilities, whatever the host has.
#[derive(Debug, Clone, Default, Serialize)]
pub struct IntelRdtFeatures {
    /// Whether `linux.intelRdt` is supported.
    pub enabled: bool,
    /// Whether its `schemata` is.
    pub schemata: bool,
    /// Whether its `enableMonitoring` is.
    pub monitoring: bool,
}

/// Memory policy abilities.
#[derive(Debug, Clone, Default, Serialize)]
pub struct MemoryPolicyFeatures {
    /// Mode names.
    pub modes: Vec<String>,
    /// Flag names.
    pub flags: Vec<String>,
}

/// Abilities of mounts beyond mount(8).
#[derive(Debug, Clone, Default, Serialize)]
pub struct MountExtensions {
    /// Mounts whose ids are shifted.
    pub idmap: Enabled,
}

/// Control group abilities.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CgroupFeatures {
    /// Whether version 1 is supported.
    pub v1: bool,
    /// Whether version 2 is supported.
    pub v2: bool,
    /// Whether systemd can be asked to make scopes.
    pub systemd: bool,
    /// Whether a user's systemd can.
    pub systemd_user: bool,
    /// Whether RDMA can be limited.
    pub rdma: bool,
}

/// System call filter abilities.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SeccompFeatures {
    /// Whether filters are supported.
    pub enabled: bool,
    /// Action names.
    pub actions: Vec<String>,
    /// Comparison names.
    pub operators: Vec<String>,
    /// Architecture names.
    pub archs: Vec<String>,
    /// Names of flags understood.
    pub known_flags: Vec<String>,
    /// Of these, the ones this host's kernel takes.
    pub supported_flags: Vec<String>,
}
