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
}
