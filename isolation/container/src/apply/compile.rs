//! Turns a plan into a program for the child: opens what it needs, makes detached mounts.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use atoll_cgroup::Cgroup;
use atoll_resctrl::Group;
use atoll_spec::NamespaceKind;
use atoll_sys::Errno;
use atoll_sys::inside::Missing;
use atoll_sys::mount::{self, Attributes, Change, Propagation};
use atoll_sys::process::StringArray;
use atoll_sys::rustix::fs::{CWD, FileType};
use atoll_sys::rustix::process::Gid;
use atoll_sys::scheduling::NumberSet;

use super::hooks::HookList;
use super::program::{BindInside, Filesystem, Launch, Op, Program, Start, Stdio};
use super::{locks, passwd};
use crate::error::{Error, Result, kernel};
use crate::plan::{
    ContainerPlan, IdMapPlan, IdShiftSource, LINKS, MountPlan, MountSource, ProcessPlan,
};
use crate::{CreateRequest, StdioRequest, state};

/// What the first process has to do with hooks.
#[derive(Debug, Default)]
pub(crate) struct InnerHooks {
    /// Whether it waits for those the runtime runs.
    pub(crate) awaits: bool,
    /// Those it runs before the root is changed.
    pub(crate) create: Option<HookList>,
    /// Those it runs before its program.
    pub(crate) start: Option<HookList>,
}

impl InnerHooks {
    /// Whether any hooks run while the host's file tree is still seen.
    fn before_root_changes(&self) -> bool {
        self.awaits || self.create.is_some()
    }
}

/// The program of a container's first process.
///
/// * `cgroup`, `resctrl`: made already.
/// * `root`: the root file system, a detached mount.
///
/// # Errors
/// [`Error::Kernel`] for sources that can't be opened or mounted.
pub(crate) fn init(
    plan: &ContainerPlan,
    request: CreateRequest,
    (cgroup, resctrl): (&Cgroup, Option<&Group>),
    control: OwnedFd,
    start: Start,
    hooks: InnerHooks,
    root: OwnedFd,
) -> Result<Program> {
    let mut steps = Vec::with_capacity(64);
    if let Some(signal) = request.death_signal {
        steps.push(Op::DeathSignal(signal));
    }
    if plan.scope.as_ref().is_some_and(|scope| !scope.is_system) {
        steps.push(Op::AwaitMove);
    }
    before_root(plan, &request, &mut steps)?;
    let is_shared = plan.root_propagation == Propagation::Shared;
    let own_mounts = plan.namespaces.makes(NamespaceKind::Mount);
    if own_mounts {
        steps.push(Op::Propagate(Change::propagation(plan.setup_propagation())));
        if is_shared {
            steps.push(Op::PrivateRoot);
        }
        if plan.is_rootless {
            let change = Change::propagation(plan.rootfs_propagation());
            steps.push(Op::OpenRoot(rootfs_path(plan), change));
        }
        // In the host's place for hooks only: it costs a walk of the path. Below a parent that stays shared, or where the old
        // root stays beneath, it would be seen by others.
        let in_place = hooks.before_root_changes() && !is_shared && !request.no_pivot;
        steps.push(if in_place {
            Op::AttachRootInPlace(rootfs_path(plan))
        } else {
            Op::AttachRoot
        });
    } else {
        steps.push(Op::AttachRootAt(rootfs_path(plan)));
    }
    let mut readonly_dev = false;
    for mount in &plan.mounts {
        readonly_dev |= push_mount(plan, mount, &mut steps)?;
    }
    push_devices(plan, &mut steps)?;
    if plan.process.terminal {
        steps.push(Op::Console);
    }
    for (path, value) in &plan.sysctls {
        let (path, value) = (path.clone(), value.clone());
        steps.push(Op::Sysctl { path, value });
    }
    steps.push(Op::WorkingDirectory);
    steps.extend(plan.readonly_paths.iter().cloned().map(Op::ReadOnly));
    steps.extend(plan.masked_paths.iter().cloned().map(Op::Mask));
    if hooks.awaits {
        steps.push(Op::AwaitHooks);
    }
    steps.extend(hooks.create.map(Op::RunHooks));
    // After them: they put files and devices there.
    if readonly_dev {
        steps.push(Op::RemountReadOnly(c"/dev".to_owned()));
    }
    if plan.root_is_readonly {
        steps.push(Op::RootReadOnly);
    }
    // After them: what the process is to be confined by, they would be.
    steps.extend(labels(&plan.process));
    steps.push(Op::JoinCgroup(cgroup.join_handles()?));
    steps.extend(resctrl.map(join_resctrl).transpose()?);
    // The runtime's own CPUs are no limit of the container's; its cpuset is.
    steps.push(Op::Affinity(NumberSet::all()));
    if plan.namespaces.makes(NamespaceKind::Cgroup) {
        steps.push(Op::NewCgroupNamespace);
    }
    if request.no_pivot && own_mounts {
        steps.push(Op::HideHost(revealing_mounts()?));
    }
    steps.push(if request.no_pivot || !own_mounts {
        Op::MoveRoot
    } else {
        Op::PivotRoot { shared: is_shared }
    });
    if own_mounts && plan.root_propagation != plan.rootfs_propagation() {
        steps.push(Op::RootPropagation(Change::propagation(
            plan.root_propagation,
        )));
    }
    steps.extend(plan.hostname.clone().map(Op::Hostname));
    steps.extend(plan.domainname.clone().map(Op::Domainname));
    steps.extend(plan.personality.map(Op::Personality));
    steps.extend(plan.memory_policy.clone().map(Op::MemoryPolicy));
    let home = passwd::home(root.as_fd(), plan.process.uid);
    let launch = launch(
        &plan.process,
        request.stdio,
        request.preserve_fds,
        start,
        home,
    );
    let launch = Launch {
        hooks: hooks.start,
        own_null: plan.fills_dev,
        ..launch
    };
    Ok(Program {
        steps,
        root: Some(root),
        is_rootless: plan.is_rootless,
        control,
        mount_label: plan.mount_label.clone(),
        launch,
    })
}

/// Where the root file system is on the host.
fn rootfs_path(plan: &ContainerPlan) -> CString {
    CString::new(plan.rootfs.as_os_str().as_bytes()).unwrap_or_default()
}

/// What is done before the mounts: the host's file tree is still the one seen.
fn before_root(plan: &ContainerPlan, request: &CreateRequest, steps: &mut Vec<Op>) -> Result<()> {
    if let Some(op) = oom_score(&plan.process) {
        steps.push(op);
    }
    if !request.no_new_keyring {
        steps.extend(keyring(request.id.as_str(), &plan.process));
    }
    for (kind, path) in &plan.namespaces.joined {
        // These two are entered before the process is made.
        if matches!(kind, NamespaceKind::Pid | NamespaceKind::User) {
            continue;
        }
        steps.push(Op::Enter {
            kind: *kind,
            fd: open_namespace(path)?,
        });
    }
    if plan.namespaces.makes(NamespaceKind::User) && plan.namespaces.time_offsets.is_empty() {
        steps.push(Op::AwaitMappings);
    } else if plan.namespaces.has(NamespaceKind::User) {
        steps.push(Op::BecomeRoot);
    }
    if plan.namespaces.makes(NamespaceKind::Network) {
        steps.push(Op::Loopback);
    }
    Ok(())
}

fn open_namespace(path: &Path) -> Result<OwnedFd> {
    let file = File::open(path).map_err(|source| Error::File {
        action: "open namespace",
        path: path.to_owned(),
        source,
    })?;
    Ok(file.into())
}

/// The step by which a process joins its share of caches and memory bandwidth.
///
/// # Errors
/// [`Error::Resctrl`].
pub(crate) fn join_resctrl(group: &Group) -> Result<Op> {
    Ok(Op::JoinResctrl(group.handles()?, group.folder().to_owned()))
}

/// The step that sets a process' `oom_score_adj`.
pub(crate) fn oom_score(process: &ProcessPlan) -> Option<Op> {
    let text = CString::new(process.oom_score_adj?.to_string()).ok()?;
    Some(Op::OomScore(text))
}

/// The steps that give a process of container `id` a session keyring, labelled as the process will be.
pub(crate) fn keyring(id: &str, process: &ProcessPlan) -> impl Iterator<Item = Op> {
    let label = process.selinux_label.clone().map(Op::KeyLabel);
    let name = CString::new(format!("_ses.{id}")).unwrap_or_default();
    label.into_iter().chain([Op::Keyring(name)])
}

/// The steps that have a process enter its AppArmor profile and its SELinux label.
pub(crate) fn labels(process: &ProcessPlan) -> impl Iterator<Item = Op> {
    let profile = process.apparmor_profile.as_ref().and_then(|profile| {
        let text = [b"exec ", profile.to_bytes()].concat();
        CString::new(text).ok().map(Op::AppArmor)
    });
    let label = process.selinux_label.clone().map(Op::ProcessLabel);
    profile.into_iter().chain(label)
}

/// An environment with a `HOME`: its own, else `home`, else the root.
pub(crate) fn with_home(env: &[CString], home: Option<CString>) -> Vec<CString> {
    let mut env = env.to_vec();
    // An empty one is as good as none.
    env.retain(|entry| entry.as_bytes() != b"HOME=");
    if !env
        .iter()
        .any(|entry| entry.as_bytes().starts_with(b"HOME="))
    {
        env.push(home.unwrap_or_else(|| c"HOME=/".to_owned()));
    }
    env
}

/// How `process` is launched.
pub(crate) fn launch(
    process: &ProcessPlan,
    stdio: StdioRequest,
    preserve_fds: u32,
    start: Start,
    home: Option<CString>,
) -> Launch {
    let env = with_home(&process.env, home);
    Launch {
        new_session: true,
        streams_uid: process.uid,
        own_null: false,
        keeps_line_ends: false,
        extra: Vec::new(),
        stdio: match stdio {
            StdioRequest::Fds {
                stdin,
                stdout,
                stderr,
            } => Stdio::Fds(above_streams([stdin, stdout, stderr])),
            _ if process.terminal => Stdio::Terminal,
            _ => Stdio::Inherit,
        },
        terminal_size: process.terminal_size,
        preserve_fds,
        rlimits: process.rlimits.clone(),
        io_priority: process.io_priority,
        scheduler: process.scheduler,
        capabilities: process.capabilities,
        uid: process.uid,
        gid: process.gid,
        groups: process
            .groups
            .iter()
            .map(|gid| Gid::from_raw(*gid))
            .collect(),
        umask: process.umask,
        cwd: process.cwd.clone(),
        no_new_privileges: process.no_new_privileges,
        seccomp: process.seccomp.clone(),
        candidates: process.candidates.clone(),
        args: StringArray::new(process.args.clone()),
        env: StringArray::new(env),
        start,
        hooks: None,
    }
}

/// Streams that are themselves 0, 1 or 2 would be overwritten while the others are placed.
pub(crate) fn above_streams(fds: [OwnedFd; 3]) -> [OwnedFd; 3] {
    use std::os::fd::AsRawFd;
    fds.map(|fd| {
        if fd.as_raw_fd() > 2 {
            return fd;
        }
        atoll_sys::descriptors::duplicate_above(fd.as_fd(), 3).unwrap_or(fd)
    })
}

/// Adds a mount; true when it is a `/dev` to be made read-only after it is filled.
fn push_mount(plan: &ContainerPlan, mount: &MountPlan, steps: &mut Vec<Op>) -> Result<bool> {
    match &mount.source {
        MountSource::Bind { path, recursive } => {
            if let Some(source) = inside_root(plan, path) {
                steps.push(Op::BindInside(BindInside {
                    source,
                    recursive: *recursive,
                    changes: bind_changes(plan, mount),
                    id_map: mount
                        .id_map
                        .as_ref()
                        .map(|map| id_map(mount, map))
                        .transpose()?,
                    target: mount.destination.clone(),
                }));
                return Ok(false);
            }
            if plan.is_rootless {
                if mount.id_map.is_some() {
                    return Err(kernel(
                        format!(
                            "idmap the mount for {}",
                            mount.destination.to_string_lossy()
                        ),
                        Errno::PERM,
                    ));
                }
                steps.push(Op::BindOutside(BindInside {
                    source: path.clone(),
                    recursive: *recursive,
                    changes: bind_changes(plan, mount),
                    id_map: None,
                    target: mount.destination.clone(),
                }));
                return Ok(false);
            }
            let failed = |errno| bind_error(path, &mount.destination, errno);
            let detached = mount::clone_tree(CWD, path, *recursive, false).map_err(failed)?;
            let locks = match plan.namespaces.has(NamespaceKind::User) && locks::lifts(mount) {
                true => locks::of(detached.as_fd()).map_err(failed)?,
                false => Attributes::empty(),
            };
            for (change, recursive) in bind_changes(plan, mount) {
                mount::set_attributes(detached.as_fd(), c"", recursive, &change).map_err(failed)?;
            }
            if !locks.is_empty() {
                let lifted = locks - locks::of(detached.as_fd()).map_err(failed)?;
                locks::refuse_lifted(lifted, path, &mount.destination)?;
            }
            if let Some(map) = &mount.id_map {
                shift_ids(detached.as_fd(), mount, map)?;
            }
            let missing = missing_like(detached.as_fd());
            steps.push(Op::Attach {
                mount: detached,
                target: mount.destination.clone(),
                missing,
            });
            Ok(false)
        }
        MountSource::Filesystem {
            kind,
            settings,
            copy_up,
        } => {
            let is_late =
                mount.destination.as_c_str() == c"/dev" && mount.set.contains(Attributes::RDONLY);
            let late = if is_late {
                Attributes::RDONLY
            } else {
                Attributes::empty()
            };
            let changes = mount
                .propagation
                .iter()
                .map(|(kind, _)| Change::propagation(*kind));
            steps.push(Op::Filesystem(Filesystem {
                kind: kind.clone(),
                settings: settings.clone(),
                attributes: (mount.set | mount.set_recursive) - late,
                changes: changes.collect(),
                copy_up: *copy_up,
                target: mount.destination.clone(),
            }));
            Ok(is_late)
        }
        MountSource::Cgroup { folders, links } => {
            steps.push(Op::CgroupView {
                target: mount.destination.clone(),
                folders: folders.clone(),
                links: links.clone(),
                attributes: mount.set,
            });
            Ok(false)
        }
    }
}

/// What is set on a bind mount, and whether on those below it too.
fn bind_changes(plan: &ContainerPlan, mount: &MountPlan) -> Vec<(Change, bool)> {
    let mut changes = Vec::new();
    if !mount.set.is_empty() || !mount.clear.is_empty() {
        changes.push((Change::attributes(mount.set, mount.clear), false));
    }
    if !mount.set_recursive.is_empty() || !mount.clear_recursive.is_empty() {
        let change = Change::attributes(mount.set_recursive, mount.clear_recursive);
        changes.push((change, true));
    }
    if mount.propagation.is_empty() {
        changes.push((Change::propagation(plan.setup_propagation()), true));
    }
    for (propagation, recursive) in &mount.propagation {
        changes.push((Change::propagation(*propagation), *recursive));
    }
    changes
}

/// A bind source in the folder of the root file system, as the container sees it: earlier mounts may have made it, and they
/// exist in the container only.
fn inside_root(plan: &ContainerPlan, path: &CStr) -> Option<CString> {
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    let below = path.strip_prefix(&plan.rootfs).ok()?;
    if below.as_os_str().is_empty() {
        return None;
    }
    CString::new(below.as_os_str().as_bytes()).ok()
}

/// Shifts ids on a detached mount; not possible any more once it is attached.
fn shift_ids(detached: BorrowedFd<'_>, mount: &MountPlan, map: &IdMapPlan) -> Result<()> {
    let (namespace, recursive) = id_map(mount, map)?;
    let destination = mount.destination.to_string_lossy();
    let change = Change::idmap(namespace.as_fd());
    mount::set_attributes(detached, c"", recursive, &change)
        .map_err(|errno| kernel(format!("idmap the mount for {destination}"), errno))
}

/// A user namespace that shifts ids by `map`, and whether on mounts below too.
fn id_map(mount: &MountPlan, map: &IdMapPlan) -> Result<(OwnedFd, bool)> {
    let namespace = match &map.by {
        IdShiftSource::Maps { uids, gids } => atoll_sys::namespace::user_namespace(uids, gids)
            .map_err(|source| Error::File {
                action: "make the id mapping of",
                path: mount.destination.to_string_lossy().into_owned().into(),
                source,
            })?,
        IdShiftSource::Joined(path) => open_namespace(path)?,
    };
    Ok((namespace, map.recursive))
}

/// Where the host has a whole proc or sysfs, deepest first.
fn revealing_mounts() -> Result<Vec<CString>> {
    let path = Path::new("/proc/self/mountinfo");
    let text = std::fs::read_to_string(path).map_err(|source| state::file("read", path, source))?;
    let mut places = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let mut left = left.split(' ').skip(3);
        if let (Some("/"), Some(place)) = (left.next(), left.next())
            && (right.starts_with("proc ") || right.starts_with("sysfs "))
            && let Ok(place) = CString::new(place)
        {
            places.push(place);
        }
    }
    places.reverse();
    Ok(places)
}

pub(crate) fn bind_error(source: &CStr, destination: &CStr, errno: Errno) -> Error {
    let (source, destination) = (source.to_string_lossy(), destination.to_string_lossy());
    kernel(format!("mount {source} → {destination}"), errno)
}

pub(crate) fn missing_like(mount: BorrowedFd<'_>) -> Missing {
    let is_folder = atoll_sys::rustix::fs::fstat(mount)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
    if is_folder {
        Missing::Folder
    } else {
        Missing::File
    }
}

fn push_devices(plan: &ContainerPlan, steps: &mut Vec<Op>) -> Result<()> {
    if !plan.fills_dev {
        return Ok(());
    }
    for device in &plan.devices {
        if plan.binds_devices && plan.is_rootless {
            steps.push(Op::BindOutside(BindInside {
                source: device.path.clone(),
                recursive: false,
                changes: Vec::new(),
                id_map: None,
                target: device.path.clone(),
            }));
        } else if plan.binds_devices {
            let mount = mount::clone_tree(CWD, &device.path, false, false)
                .map_err(|errno| bind_error(&device.path, &device.path, errno))?;
            steps.push(Op::Attach {
                mount,
                target: device.path.clone(),
                missing: Missing::File,
            });
        } else {
            steps.push(Op::Device(device.clone()));
        }
    }
    for (target, path) in LINKS {
        steps.push(Op::Link {
            target: target.to_owned(),
            path: path.to_owned(),
        });
    }
    Ok(())
}
