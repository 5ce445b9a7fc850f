//! What is asked of CRIU. Pure.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use atoll_spec::NamespaceKind;

use super::rpc;
use crate::plan::{ContainerPlan, MountPlan, MountSource, clone_flag, file_name};

/// Where CRIU looks for more options, unless an annotation names another file.
const CONFIG_FILE: &str = "/etc/criu/runc.conf";
/// The annotation that does.
const CONFIG_ANNOTATION: &str = "org.criu.config";
/// What is recorded of standard streams, in the image folder.
pub(super) const DESCRIPTORS: &str = "descriptors.json";
/// Of CRIU's log: errors, warnings, what it does, and details.
const LOG_LEVEL: i32 = 4;

/// What checkpoints and restores have in common.
#[derive(Debug)]
pub struct CriuRequest {
    /// The program, looked up in `PATH` unless it has a slash.
    pub program: PathBuf,
    /// Folder of the images.
    pub images: PathBuf,
    /// Folder of the log and other work files; absent is that of the images.
    pub work: Option<PathBuf>,
    /// Whether there may be established TCP connections.
    pub tcp_established: bool,
    /// Whether there may be connected Unix sockets whose other end is outside.
    pub ext_unix_sockets: bool,
    /// Whether the container may use a terminal that is not its own.
    pub shell_job: bool,
    /// Whether there may be file locks.
    pub file_locks: bool,
    /// Whether images of memory are freed of what later ones have too.
    pub auto_dedup: bool,
    /// Whether memory is sent when it is touched.
    pub lazy_pages: bool,
    /// What is done with control groups.
    pub cgroups: CgroupsMode,
    /// Told of what CRIU says, in words for people.
    pub debug: fn(&str),
}

impl CriuRequest {
    /// Without options, of the images in `images`.
    #[must_use]
    pub fn new(images: PathBuf) -> Self {
        Self {
            program: "criu".into(),
            images,
            work: None,
            tcp_established: false,
            ext_unix_sockets: false,
            shell_job: false,
            file_locks: false,
            auto_dedup: false,
            lazy_pages: false,
            cgroups: CgroupsMode::Default,
            debug: |_| (),
        }
    }
}

/// What CRIU does with control groups, in its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupsMode {
    /// As CRIU likes.
    #[default]
    Default,
    /// Nothing.
    Ignore,
    /// Restores properties of groups it makes.
    Soft,
    /// Restores all properties.
    Full,
    /// Wants groups not to be there.
    Strict,
}

impl CgroupsMode {
    /// `criu_cg_mode`.
    fn number(self) -> i32 {
        match self {
            Self::Ignore => 0,
            Self::Soft => 3,
            Self::Full => 4,
            Self::Strict => 5,
            Self::Default => 6,
        }
    }
}

/// A request to write a container's processes into files.
#[derive(Debug)]
pub struct CheckpointRequest {
    /// As of restores.
    pub criu: CriuRequest,
    /// Whether the container goes on.
    pub leave_running: bool,
    /// Whether only memory is written, and the container goes on.
    pub pre_dump: bool,
    /// An earlier dump whose memory is left out, relative to the image folder.
    pub parent: Option<PathBuf>,
    /// Whether TCP connections that are just being made are left out.
    pub tcp_skip_in_flight: bool,
    /// Whether files that have no name any more get one for the time.
    pub link_remap: bool,
    /// Who gets the memory instead of the image folder, or asks for it.
    pub page_server: Option<PageServer>,
    /// Gets a zero byte when memory may be asked for.
    pub status: Option<OwnedFd>,
}

impl CheckpointRequest {
    /// Without options, into the folder `images`.
    #[must_use]
    pub fn new(images: PathBuf) -> Self {
        Self {
            criu: CriuRequest::new(images),
            leave_running: false,
            pre_dump: false,
            parent: None,
            tcp_skip_in_flight: false,
            link_remap: false,
            page_server: None,
            status: None,
        }
    }
}

/// Where a page server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageServer {
    /// IP address.
    pub address: String,
    /// TCP port.
    pub port: u16,
}

/// A request to make a container of the files of a checkpoint.
#[derive(Debug)]
pub struct RestoreRequest {
    /// As of checkpoints.
    pub criu: CriuRequest,
    /// Another profile of the security module, `TYPE:NAME`.
    pub lsm_profile: Option<String>,
    /// Another mount context.
    pub lsm_mount_context: Option<String>,
}

impl RestoreRequest {
    /// Without options, of the folder `images`.
    #[must_use]
    pub fn new(images: PathBuf) -> Self {
        Self {
            criu: CriuRequest::new(images),
            lsm_profile: None,
            lsm_mount_context: None,
        }
    }
}

/// Options of both directions.
///
/// * `folders`: descriptors of this process, of images and of work files.
pub(super) fn common(
    request: &CriuRequest,
    annotations: &BTreeMap<String, String>,
    folders: (i32, Option<i32>),
    log_file: &str,
) -> rpc::Options {
    rpc::Options {
        images_dir_fd: folders.0,
        work_dir_fd: folders.1,
        log_level: Some(LOG_LEVEL),
        log_file: Some(log_file.to_owned()),
        notify_scripts: Some(true),
        manage_cgroups: Some(true),
        cgroups_mode: Some(request.cgroups.number()),
        shell_job: Some(request.shell_job),
        ext_unix_sk: Some(request.ext_unix_sockets),
        tcp_established: Some(request.tcp_established),
        file_locks: Some(request.file_locks),
        auto_dedup: Some(request.auto_dedup),
        lazy_pages: Some(request.lazy_pages),
        orphan_pts_master: Some(true),
        config_file: config_file(annotations),
        ..rpc::Options::default()
    }
}

fn config_file(annotations: &BTreeMap<String, String>) -> Option<String> {
    match annotations.get(CONFIG_ANNOTATION) {
        Some(empty) if empty.is_empty() => None,
        Some(file) => Some(file.clone()),
        None => Some(CONFIG_FILE.to_owned()),
    }
}

/// Namespaces whose contents CRIU is to leave alone: cards and addresses are made by whoever makes networks.
pub(super) fn empty_namespaces(plan: &ContainerPlan) -> u32 {
    if plan.namespaces.makes(NamespaceKind::Network) {
        clone_flag(NamespaceKind::Network).unsigned_abs()
    } else {
        0
    }
}

/// A mount that is not the container's own: place inside, source outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outside {
    pub(super) destination: PathBuf,
    pub(super) source: PathBuf,
}

/// What of a container's mounts comes from outside.
pub(super) fn outside(plan: &ContainerPlan) -> Vec<Outside> {
    let mut found: Vec<Outside> = plan.mounts.iter().flat_map(of_mount).collect();
    if plan.fills_dev && plan.binds_devices {
        found.extend(plan.devices.iter().map(|device| Outside {
            destination: path(&device.path),
            source: path(&device.path),
        }));
    }
    found
}

fn of_mount(mount: &MountPlan) -> Vec<Outside> {
    let destination = path(&mount.destination);
    match &mount.source {
        MountSource::Bind { path: source, .. } => vec![Outside {
            destination,
            source: path(source),
        }],
        MountSource::Cgroup { folders, .. } => folders
            .iter()
            .map(|(name, folder)| Outside {
                destination: if name.is_empty() {
                    destination.clone()
                } else {
                    destination.join(path(name))
                },
                source: path(folder),
            })
            .collect(),
        MountSource::Filesystem { .. } => Vec::new(),
    }
}

/// Whether CRIU writes what is at `destination` itself, because it is in a file system in memory.
pub(super) fn is_in_memory(plan: &ContainerPlan, destination: &Path) -> bool {
    plan.mounts.iter().any(|mount| {
        let is_tmpfs = matches!(&mount.source, MountSource::Filesystem { kind, .. } if kind.as_c_str() == c"tmpfs")
            || matches!(&mount.source, MountSource::Cgroup { folders, .. } if folders.len() > 1);
        let place = path(&mount.destination);
        is_tmpfs && destination != place && destination.starts_with(place)
    })
}

/// The name under which a namespace from outside is known in images.
pub(super) fn namespace_key(kind: NamespaceKind) -> &'static str {
    match kind {
        NamespaceKind::Network => "extRootNetNS",
        NamespaceKind::Pid => "extRootPidNS",
        _ => "",
    }
}

/// Namespaces that CRIU joins by path; those of networks and pids are handed over open.
pub(super) fn joined(plan: &ContainerPlan) -> Vec<rpc::JoinNamespace> {
    let kinds = plan.namespaces.joined.iter();
    kinds
        .filter(|(kind, _)| namespace_key(*kind).is_empty())
        .map(|(kind, file)| rpc::JoinNamespace {
            kind: file_name(*kind).to_owned(),
            file: file.to_string_lossy().into_owned(),
        })
        .collect()
}

pub(super) fn path(text: &std::ffi::CStr) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    PathBuf::from(std::ffi::OsStr::from_bytes(text.to_bytes()))
}

#[cfg(test)]
mod tests {
    use atoll_cgroup::Hierarchies;
    use atoll_spec::{Mount, Spec};
    use atoll_sys::capability::Set;

    use super::*;
    use crate::{CreateRequest, HostFacts};

    fn plan(change: impl FnOnce(&mut Spec)) -> ContainerPlan {
        let mut spec = atoll_spec::example();
        change(&mut spec);
        let request = CreateRequest::new("web".parse().unwrap(), "/run/x".into(), "/b".into());
        let facts = HostFacts {
            systemd: None,
            capabilities: Set(u64::MAX),
            hierarchies: Hierarchies::from_parts(
                "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
                "0::/",
            )
            .unwrap(),
            is_in_user_namespace: false,
            has_apparmor: false,
            has_selinux: false,
            resctrl: None,
        };
        crate::plan(&spec, &request, &facts).unwrap()
    }

    fn bind(source: &str, destination: &str) -> Mount {
        Mount {
            destination: destination.into(),
            source: Some(source.into()),
            kind: Some("bind".to_owned()),
            ..Mount::default()
        }
    }

    #[test]
    fn binds_and_control_groups_are_from_outside() {
        let plan = plan(|spec| {
            spec.mounts.push(bind("data", "/srv"));
            spec.linux.as_mut().unwrap().cgroups_path = Some("/x".to_owned());
        });
        let pairs: Vec<_> = outside(&plan)
            .into_iter()
            .map(|mount| {
                let text = |path: PathBuf| path.to_string_lossy().into_owned();
                (text(mount.destination), text(mount.source))
            })
            .collect();
        assert!(
            pairs.contains(&("/srv".to_owned(), "/b/data".to_owned())),
            "{pairs:?}"
        );
        assert!(
            pairs.contains(&("/sys/fs/cgroup".to_owned(), "/sys/fs/cgroup/x".to_owned())),
            "{pairs:?}"
        );
        assert!(
            !pairs.iter().any(|(place, _)| place.starts_with("/dev")),
            "{pairs:?}"
        );
    }

    #[test]
    fn places_in_memory_are_criu_s() {
        let plan = plan(|_| ());
        assert!(is_in_memory(&plan, Path::new("/dev/pts")));
        assert!(!is_in_memory(&plan, Path::new("/dev")));
        assert!(!is_in_memory(&plan, Path::new("/devices")));
    }

    #[test]
    fn an_annotation_names_another_configuration_or_none() {
        let of = |value: Option<&str>| {
            let value = value.map(|value| (CONFIG_ANNOTATION.to_owned(), value.to_owned()));
            config_file(&value.into_iter().collect())
        };
        assert_eq!(of(None).as_deref(), Some(CONFIG_FILE));
        assert_eq!(of(Some("/x")).as_deref(), Some("/x"));
        assert_eq!(of(Some("")), None);
    }
}
