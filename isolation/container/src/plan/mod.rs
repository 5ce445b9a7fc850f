//! Decides everything about a container before anything is done. Pure: reads nothing but its
//! arguments, so a plan can be printed and compared without root.

mod cgroup;
mod devices;
mod mounts;
mod namespaces;
mod network;
mod options;
mod process;
mod resctrl;
mod scheduling;
mod seccomp;

use std::ffi::CString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use atoll_cgroup::{Hierarchies, systemd};
use atoll_resctrl::Resctrl;
use atoll_spec::{IdMapping, Linux, NamespaceKind, Spec};
use atoll_sys::capability::{self, Set};
use atoll_sys::mount::{Attributes, Propagation};
use atoll_sys::namespace;

pub(crate) use cgroup::{plan as cgroup_plan, resources};
pub use devices::DevicePlan;
pub(crate) use devices::LINKS;
pub(crate) use mounts::map_text;
pub use mounts::{IdMapPlan, IdShiftSource, MountPlan, MountSource};
pub use namespaces::NamespacePlan;
pub(crate) use namespaces::{clone_flag, file_name};
pub use network::NetDevicePlan;
pub use options::known_mount_options;
pub(crate) use options::{Options as MountOptions, unquoted};
pub(crate) use process::plan as plan_process;
pub use process::{CapabilityPlan, ProcessPlan, RlimitPlan};
pub(crate) use scheduling::memory_policy as plan_memory_policy;
pub use scheduling::{AffinityPlan, MemoryPolicyPlan, known_memory_policies};
pub use seccomp::{SeccompListener, SeccompPlan};

use crate::error::{Error, Result};
use crate::{CreateRequest, StdioRequest, Wall, apparmor, selinux};

/// What a plan depends on besides the request.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// Capabilities the runtime may pass on.
    pub capabilities: Set,
    /// Control group hierarchies.
    pub hierarchies: Hierarchies,
    /// Whether the runtime is in a user namespace that isn't the host's.
    pub is_in_user_namespace: bool,
    /// Whether the kernel has AppArmor; not looked at for a configuration without a profile.
    pub has_apparmor: bool,
    /// Whether the kernel has SELinux; not looked at for a configuration without labels.
    pub has_selinux: bool,
    /// The file system of resource control groups; not looked for unless the configuration asks for one.
    pub resctrl: Option<Resctrl>,
    /// The service manager that makes control groups, when it is to.
    pub systemd: Option<systemd::Facts>,
}

impl HostFacts {
    /// Looks at the running system, as far as `spec` asks for what depends on it.
    ///
    /// Of `request`, what counts is whether systemd makes the control groups, and where they are, if that is known.
    ///
    /// # Errors
    /// [`Error::Kernel`], [`Error::Cgroup`].
    pub fn detect(spec: &Spec, request: &CreateRequest) -> Result<Self> {
        let sets = capability::current().map_err(|errno| Error::Kernel {
            step: "capget".to_owned(),
            errno,
        })?;
        let process = spec.process.as_ref();
        let profile = process.and_then(|process| process.apparmor_profile.as_deref());
        let has_profile = profile.is_some_and(|profile| !profile.is_empty());
        Ok(Self {
            capabilities: sets.permitted,
            hierarchies: match &request.hierarchies {
                Some(known) => known.clone(),
                None => Hierarchies::detect()?,
            },
            is_in_user_namespace: namespace::is_in_user_namespace(),
            has_apparmor: has_profile && apparmor::is_enabled(),
            has_selinux: labels(spec).any(|(_, _, label)| label.is_some()) && selinux::is_enabled(),
            resctrl: resctrl::find(spec, request),
            systemd: match request.systemd_cgroup {
                true => Some(systemd::detect_own()?),
                false => None,
            },
        })
    }
}

/// The SELinux labels of a configuration: field, what it is called, label. An empty one is none.
fn labels(spec: &Spec) -> impl Iterator<Item = (&'static str, &'static str, Option<&str>)> {
    let process = spec.process.as_ref();
    let process = process.and_then(|process| process.selinux_label.as_deref());
    let linux = spec.linux.as_ref();
    let mounts = linux.and_then(|linux| linux.mount_label.as_deref());
    [
        (PROCESS_LABEL, "label", process),
        ("linux.mountLabel", "mount label", mounts),
    ]
    .into_iter()
    .map(|(field, what, label)| (field, what, label.filter(|label| !label.is_empty())))
}

/// Everything that will be done for a container.
#[derive(Debug, Clone)]
pub struct ContainerPlan {
    /// Whether it is made without privilege: what needs some is done in its user namespace, by its first process.
    pub is_rootless: bool,
    /// Whether control groups that may not be made are left out.
    pub may_lack_cgroups: bool,
    /// Namespaces.
    pub namespaces: NamespacePlan,
    /// The host's network devices that move into the container.
    pub net_devices: Vec<NetDevicePlan>,
    /// User ids of a new user namespace.
    pub uid_mappings: Vec<IdMapping>,
    /// Group ids of a new user namespace.
    pub gid_mappings: Vec<IdMapping>,
    /// Folder or mountpoint of the root file system, absolute.
    pub rootfs: PathBuf,
    /// Whether the container sees its root read-only.
    pub root_is_readonly: bool,
    /// Propagation of the container's view of the host's mounts, before its own are made.
    pub root_propagation: Propagation,
    /// Mounts, in order.
    pub mounts: Vec<MountPlan>,
    /// SELinux label of what is on file systems made for the container.
    pub mount_label: Option<CString>,
    /// Device nodes.
    pub devices: Vec<DevicePlan>,
    /// Whether `/dev` gets its usual links and console.
    pub fills_dev: bool,
    /// Whether device nodes are bind mounted from the host's instead of made (user namespaces).
    pub binds_devices: bool,
    /// Path below `/proc/sys`, and value.
    pub sysctls: Vec<(CString, CString)>,
    /// Paths made unreadable.
    pub masked_paths: Vec<CString>,
    /// Paths made read-only.
    pub readonly_paths: Vec<CString>,
    /// Host name.
    pub hostname: Option<CString>,
    /// NIS domain name.
    pub domainname: Option<CString>,
    /// personality(2).
    pub personality: Option<u64>,
    /// Arguments of set_mempolicy(2).
    pub memory_policy: Option<MemoryPolicyPlan>,
    /// Control group.
    pub cgroup: atoll_cgroup::Plan,
    /// The unit that systemd makes it by.
    pub scope: Option<systemd::ScopePlan>,
    /// Share of caches and memory bandwidth.
    pub resctrl: Option<atoll_resctrl::Plan>,
    /// Who gets the control group to divide further: user and group on the host.
    pub delegated: Option<(u32, u32)>,
    /// The first process.
    pub process: ProcessPlan,
}

/// Plans a container. Pure.
///
/// # Errors
/// [`Error::Spec`] and [`Error::Plan`] for a configuration that can't be, [`Error::Cgroup`] for
/// limits that can't be.
pub fn plan(spec: &Spec, request: &CreateRequest, facts: &HostFacts) -> Result<ContainerPlan> {
    spec.validate()?;
    let empty = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&empty);
    let Some(process) = &spec.process else {
        return fault("process", "is missing");
    };
    for (field, what, label) in labels(spec) {
        if label.is_some() && !facts.has_selinux {
            return Err(no_selinux(field, what));
        }
    }
    scheduling::check_cpus(spec)?;
    let namespaces = namespaces::plan(linux)?;
    let has_userns = namespaces.makes(NamespaceKind::User);
    if has_userns && (linux.uid_mappings.is_empty() || linux.gid_mappings.is_empty()) {
        return fault(
            "linux.uidMappings",
            "a new user namespace needs uid and gid mappings",
        );
    }
    let is_rootless = !facts.capabilities.holds(capability::SYS_ADMIN);
    if is_rootless {
        check_rootless(&namespaces, request)?;
    }
    let hides = !linux.masked_paths.is_empty() || !linux.readonly_paths.is_empty();
    if hides && !namespaces.has(NamespaceKind::Mount) {
        return fault(
            "linux.maskedPaths",
            "unable to restrict sys entries without a private MNT namespace",
        );
    }
    let is_delegated = Wall::of(spec)? == Wall::System;
    let hierarchies = &facts.hierarchies;
    let (mut cgroup, scope) = cgroup::plan(
        linux,
        request,
        hierarchies,
        facts.systemd.as_ref(),
        &spec.annotations,
    )?;
    if is_rootless || facts.is_in_user_namespace {
        // Only the host's superuser may load it; a user's devices are those he may open anyway.
        cgroup.device_program = None;
    }
    let (folders, links) = match is_delegated {
        true => cgroup::delegated_views(&cgroup, hierarchies)?,
        false => cgroup::views(&cgroup.paths, hierarchies),
    };
    let own_map = mounts::OwnMap {
        maps: (&linux.uid_mappings, &linux.gid_mappings),
        joined: namespaces.path_of(NamespaceKind::User),
    };
    let root = spec.root.as_ref();
    let rootfs = root.map_or_else(PathBuf::new, |root| request.bundle.join(&root.path));
    let starts = (request.bundle.as_path(), rootfs.as_path());
    let mount_label = name("linux.mountLabel", linux.mount_label.as_deref())?;
    let mounts = mounts::plan(
        &spec.mounts,
        starts,
        &MountSource::Cgroup { folders, links },
        own_map,
        mount_label.as_deref(),
    )?;
    let is_in_userns = namespaces.has(NamespaceKind::User);
    let available = if is_in_userns {
        Set(u64::MAX)
    } else {
        facts.capabilities
    };
    let seccomp = linux.seccomp.as_ref().map(seccomp::plan).transpose()?;
    let mut process = process::plan(process, available, seccomp)?;
    process.apparmor_profile = apparmor::entered(process.apparmor_profile, facts.has_apparmor)?;
    match &request.stdio {
        StdioRequest::Terminal { size } => {
            process.terminal = true;
            process.terminal_size = size.or(process.terminal_size);
        }
        StdioRequest::Fds { .. } => process.terminal = false,
        StdioRequest::Inherit => {}
    }
    let fills_dev = devices::fills_dev(&mounts);
    Ok(ContainerPlan {
        is_rootless,
        net_devices: network::plan(linux, &namespaces, is_rootless)?,
        may_lack_cgroups: is_rootless || facts.is_in_user_namespace,
        uid_mappings: linux.uid_mappings.clone(),
        gid_mappings: linux.gid_mappings.clone(),
        rootfs,
        root_is_readonly: root.is_some_and(|root| root.readonly),
        root_propagation: root_propagation(linux),
        devices: if fills_dev {
            devices::plan(&linux.devices)?
        } else {
            Vec::new()
        },
        fills_dev,
        binds_devices: is_in_userns || facts.is_in_user_namespace || !facts.capabilities.holds(27), // CAP_MKNOD
        sysctls: sysctls(linux, &namespaces)?,
        masked_paths: paths("linux.maskedPaths", &linux.masked_paths)?,
        readonly_paths: paths("linux.readonlyPaths", &linux.readonly_paths)?,
        hostname: name("hostname", spec.hostname.as_deref())?,
        domainname: name("domainname", spec.domainname.as_deref())?,
        personality: personality(linux)?,
        memory_policy: linux
            .memory_policy
            .as_ref()
            .map(scheduling::memory_policy)
            .transpose()?,
        mounts,
        mount_label,
        namespaces,
        cgroup,
        scope,
        resctrl: resctrl::plan(linux, request.id.as_str(), facts.resctrl.as_ref())?,
        delegated: is_delegated.then(|| {
            let first = |list: &[IdMapping]| {
                let root = list.iter().find(|map| map.container_id == 0);
                root.map_or(0, |map| map.host_id)
            };
            (first(&linux.uid_mappings), first(&linux.gid_mappings))
        }),
        process,
    })
}

/// The field of a process' SELinux label.
pub(crate) const PROCESS_LABEL: &str = "process.selinuxLabel";

/// That a kernel without SELinux has no labels, in runc's words.
///
/// * `what`: what the field is called, `label`.
pub(crate) fn no_selinux(field: &str, what: &str) -> Error {
    Error::Plan {
        field: field.to_owned(),
        reason: format!(
            "selinux {what} is specified in config, but selinux is disabled or not supported"
        ),
    }
}

/// Refuses what takes privilege.
fn check_rootless(namespaces: &NamespacePlan, request: &CreateRequest) -> Result<()> {
    if !namespaces.makes(NamespaceKind::User) || !namespaces.makes(NamespaceKind::Mount) {
        return fault(
            "linux.namespaces",
            "rootless container requires user namespaces and a mount namespace of its own",
        );
    }
    if !request.rootfs_mounts.is_empty() {
        return fault("rootfs", "cannot be mounted without privilege");
    }
    Ok(())
}

impl ContainerPlan {
    /// Has mounts of control groups show the caller's, read-only, for a container that shares them.
    pub(crate) fn share_groups(&mut self, hierarchies: &Hierarchies) {
        let (own, own_links) = cgroup::own_views(hierarchies);
        for mount in &mut self.mounts {
            if let MountSource::Cgroup { folders, links } = &mut mount.source {
                folders.clone_from(&own);
                links.clone_from(&own_links);
                mount.set |= Attributes::RDONLY;
                mount.clear -= Attributes::RDONLY;
            }
        }
    }

    /// Propagation of the host's mounts while the container's are made: what is unbindable for good
    /// must be bindable until then.
    #[must_use]
    pub fn setup_propagation(&self) -> Propagation {
        match self.root_propagation {
            Propagation::Unbindable => Propagation::Private,
            other => other,
        }
    }

    /// Propagation of the root file system's mount until the root is changed: pivot_root(2) refuses
    /// a shared one.
    #[must_use]
    pub fn rootfs_propagation(&self) -> Propagation {
        match self.root_propagation {
            Propagation::Unbindable | Propagation::Shared => Propagation::Private,
            other => other,
        }
    }
}

fn root_propagation(linux: &Linux) -> Propagation {
    let word = linux.rootfs_propagation.as_deref().unwrap_or_default();
    match word.strip_prefix('r').unwrap_or(word) {
        "shared" => Propagation::Shared,
        "private" => Propagation::Private,
        "unbindable" => Propagation::Unbindable,
        _ => Propagation::Slave,
    }
}

fn sysctls(linux: &Linux, namespaces: &NamespacePlan) -> Result<Vec<(CString, CString)>> {
    let mut plans = Vec::with_capacity(linux.sysctl.len());
    for (key, value) in &linux.sysctl {
        let wants = |kind| -> Result<()> {
            if namespaces.has(kind) {
                return Ok(());
            }
            let name = file_name(kind);
            fault(
                "linux.sysctl",
                format!("sysctl {key:?} is not allowed in the hosts {name} namespace"),
            )
        };
        if key.starts_with("net.") || key.starts_with("net/") {
            wants(NamespaceKind::Network)?;
        } else if IPC_SYSCTLS.contains(&key.as_str()) || key.starts_with("fs.mqueue.") {
            wants(NamespaceKind::Ipc)?;
        } else if matches!(key.as_str(), "kernel.hostname" | "kernel.domainname") {
            wants(NamespaceKind::Uts)?;
        } else {
            return fault(
                "linux.sysctl",
                format!("sysctl {key:?} is not in a separate kernel namespace"),
            );
        }
        // A slash separates in the same way and then dots are part of names (interface names).
        let path = if key.contains('/') {
            key.clone()
        } else {
            key.replace('.', "/")
        };
        plans.push((
            c_string("linux.sysctl", format!("sys/{path}"))?,
            c_string("linux.sysctl", value)?,
        ));
    }
    Ok(plans)
}

const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

fn personality(linux: &Linux) -> Result<Option<u64>> {
    let Some(personality) = &linux.personality else {
        return Ok(None);
    };
    match personality.domain.as_str() {
        "LINUX" => Ok(Some(0)),
        "LINUX32" => Ok(Some(8)),
        other => fault(
            "linux.personality.domain",
            format!("{other:?} is not LINUX or LINUX32"),
        ),
    }
}

/// Each path once: hidden twice, it would take two unmounts to see.
fn paths(field: &str, list: &[String]) -> Result<Vec<CString>> {
    let mut paths = Vec::with_capacity(list.len());
    for path in list {
        let path = mounts::clean(field, Path::new(path))?;
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    Ok(paths)
}

fn name(field: &str, name: Option<&str>) -> Result<Option<CString>> {
    let name = name.filter(|name| !name.is_empty());
    name.map(|name| c_string(field, name)).transpose()
}

/// `text` for the kernel.
pub(crate) fn c_string(field: &str, text: impl AsRef<std::ffi::OsStr>) -> Result<CString> {
    CString::new(text.as_ref().as_bytes()).or_else(|_| fault(field, "holds a NUL byte"))
}

fn fault<T>(field: &str, reason: impl Into<String>) -> Result<T> {
    Err(Error::Plan {
        field: field.to_owned(),
        reason: reason.into(),
    })
}

impl fmt::Display for ContainerPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.namespaces)?;
        for device in &self.net_devices {
            writeln!(f, "move {} to {}", device.outside, device.inside)?;
        }
        for (kind, mappings) in [("uid", &self.uid_mappings), ("gid", &self.gid_mappings)] {
            for map in mappings {
                writeln!(
                    f,
                    "map {kind} {} to {} for {}",
                    map.container_id, map.host_id, map.size
                )?;
            }
        }
        for line in self.cgroup.to_string().lines() {
            writeln!(f, "cgroup {line}")?;
        }
        for line in self.scope.iter().flat_map(|scope| {
            let text = scope.to_string();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        }) {
            writeln!(f, "systemd {line}")?;
        }
        for line in self.resctrl.iter().flat_map(|plan| {
            let text = plan.to_string();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        }) {
            writeln!(f, "resctrl {line}")?;
        }
        if let Some((uid, gid)) = self.delegated {
            writeln!(f, "cgroup delegate to {uid}:{gid}")?;
        }
        let propagation = format!("{:?}", self.root_propagation).to_lowercase();
        let access = if self.root_is_readonly {
            "read-only"
        } else {
            "writable"
        };
        writeln!(f, "root {} {access} {propagation}", self.rootfs.display())?;
        for mount in &self.mounts {
            writeln!(f, "mount {mount}")?;
        }
        if let Some(label) = &self.mount_label {
            writeln!(f, "label of mounts {}", label.to_string_lossy())?;
        }
        for device in &self.devices {
            let how = if self.binds_devices { "bind" } else { "make" };
            writeln!(f, "device {how} {device}")?;
        }
        for (path, value) in &self.sysctls {
            writeln!(
                f,
                "write /proc/{} {}",
                path.to_string_lossy(),
                value.to_string_lossy()
            )?;
        }
        for path in &self.masked_paths {
            writeln!(f, "mask {}", path.to_string_lossy())?;
        }
        for path in &self.readonly_paths {
            writeln!(f, "read-only {}", path.to_string_lossy())?;
        }
        for (kind, name) in [
            ("hostname", &self.hostname),
            ("domainname", &self.domainname),
        ] {
            if let Some(name) = name {
                writeln!(f, "{kind} {}", name.to_string_lossy())?;
            }
        }
        if let Some(personality) = self.personality {
            writeln!(f, "personality {personality}")?;
        }
        if let Some(policy) = &self.memory_policy {
            writeln!(f, "memory policy {:#x} {:?}", policy.mode, policy.nodes)?;
        }
        write!(f, "{}", self.process)
    }
}
