//! Making a container.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use atoll_cgroup::Cgroup;
use atoll_resctrl::{Group, NewGroup};
use atoll_spec::{Hooks, NamespaceKind, Spec, State, Status};
use atoll_sys::mount;
use atoll_sys::process;
use atoll_sys::rustix::fs::{CWD, FileType, Mode, mknodat};
use atoll_sys::rustix::mount::{UnmountFlags, unmount};

use crate::apply::compile::{self, InnerHooks};
use crate::apply::control::{self, Go};
use crate::apply::entry::EntryStep;
use crate::apply::hooks::{HookList, StateTeller};
use crate::apply::program::{JOIN_RESCTRL, Start};
use crate::apply::spawn::{Child, launch_failure, spawn};
use crate::apply::{passwd, rootfs};
use crate::container::{Container, Created, InitProcess, await_end};
use crate::error::{Error, Result, kernel};
use crate::plan::{ContainerPlan, HostFacts, clone_flag, map_text};
use crate::scope::{self, NewScope};
use crate::state::{self, Folder, Record};
use crate::{CreateRequest, StartBy, StdioRequest, hook, rootless, selinux, wall};

/// Makes a container: when this returns, everything is set up but its program isn't executed.
///
/// May be called from any thread of a multi-threaded process; with a death signal the thread must
/// live as long as the container should.
///
/// # Errors
/// [`Error`]; nothing is left behind then: each thing made is undone by a guard.
pub fn create(mut request: CreateRequest, spec: &Spec) -> Result<Created> {
    request.bundle = absolute(&request.bundle)?;
    let facts = HostFacts::detect(spec, &request)?;
    let id = request.id.clone();
    let state_root = request.state_root.clone();
    let host_folder = state::host_path(&state::folder_of(&absolute(&state_root)?, &id));
    let prepared = wall::prepare(spec, id.as_str(), &host_folder, wall::os_release)?;
    let spec = &*prepared.spec;
    let mut plan = crate::plan(spec, &request, &facts)?;
    selinux::check_labels(&plan)?;
    (request.warn)(&plan.process.warnings);
    if let Some(seccomp) = &plan.process.seccomp {
        (request.debug)(&format!("seccomp filter flags: {}", seccomp.flags));
    }
    let hooks = spec.hooks.clone().unwrap_or_default();

    let start_by = request.start_by;
    let folder = Folder::make(&state_root, &id)?;
    state::write_host(&host_folder, &prepared.host_files)?;
    if request.has_notify_folder {
        let path = CreateRequest::notify_folder(&state_root, &id);
        fs::create_dir(&path).map_err(|source| state::file("make", &path, source))?;
    }
    let root = if plan.is_rootless {
        rootless::open_folder(&plan.rootfs)?
    } else {
        rootfs::open(&plan, &request.rootfs_mounts)?
    };
    let mut record = new_record(&plan, &request, spec, &hooks);
    let mut share = prepare_share(&plan, &facts)?;
    record.resctrl = share.as_ref().map(|share| share.group().clone());
    if !plan.namespaces.makes(NamespaceKind::Mount) {
        let id = mount::id(root.as_fd(), c"");
        record.rootfs_mount = Some(id.map_err(|errno| kernel("look at the rootfs", errno))?);
    }
    let foreign = ForeignMount(
        Some(&record)
            .filter(|record| record.rootfs_mount.is_some())
            .cloned(),
    );
    state::write(folder.path(), &record)?;
    if let Some(seccomp) = &plan.process.seccomp {
        state::write_seccomp(folder.path(), seccomp)?;
    }
    let (cgroup, scope) = make_groups(&plan, may_lack_cgroups(&plan, spec))?;
    if cgroup.get()?.paths().is_empty() && !record.cgroup.is_empty() {
        record.cgroup.clear();
        plan.share_groups(&facts.hierarchies);
        state::write(folder.path(), &record)?;
    } else if let Some((uid, gid)) = plan.delegated {
        cgroup.get()?.delegate(uid, gid)?;
    }
    if let Some(share) = &mut share {
        share.make()?;
    }
    let start = prepare_start(folder.path(), request.start_by)?;
    let (inner, tellers) = inner_hooks(&hooks, &plan, root.as_fd())?;
    let mut child = start_child(
        &plan,
        request,
        (cgroup.get()?, record.resctrl.as_ref()),
        start,
        inner,
        root,
    )?;
    record.pid = child.pid;
    record.start_ticks = process::start_time(child.pid)
        .map_err(|errno| kernel("read the start time of the first process", errno))?
        .ticks;
    state::write(folder.path(), &record)?;

    if let Some(unit) = record
        .systemd_unit
        .as_ref()
        .filter(|unit| unit.moves_processes())
    {
        unit.adopt(&child, "")?;
    }
    if plan.namespaces.makes(NamespaceKind::User) && plan.namespaces.time_offsets.is_empty() {
        map_ids(&plan, child.pid)?;
        control::tell(child.control(), Go::Mapped);
    }
    move_devices(&plan, child.pid)?;
    for (teller, status) in tellers {
        let mut state = oci_state(&record, status);
        state.pid = Some(pid_inside(record.pid)?);
        let text = serde_json::to_vec(&state);
        teller.tell(&text.map_err(|error| state::file("write", folder.path(), error.into()))?)?;
    }
    if hook::run_before_start(&hooks) {
        child.await_ready(None)?.ok_or(Error::Vanished)?;
        let state = oci_state(&record, Status::Creating);
        hook::run("prestart", &hooks.prestart, &state)?;
        hook::run("createRuntime", &hooks.create_runtime, &state)?;
        control::tell(child.control(), Go::Hooked);
    }
    let state = oci_state(&record, Status::Creating);
    let seccomp = plan.process.seccomp.as_ref();
    let listener = seccomp.and_then(|seccomp| seccomp.listener.as_ref());
    let ready = child.await_ready(listener.map(|listener| (listener, &state)));
    let ready = ready.map_err(|error| explain(error, record.resctrl.as_ref()))?;
    let terminal = ready.ok_or(Error::Vanished)?;
    if start_by == StartBy::Anyone {
        control::tell(child.control(), Go::Recorded);
    }

    folder.keep();
    // The container is in its groups now.
    if let Some(scope) = scope {
        scope.keep();
    }
    cgroup.keep();
    if let Some(share) = share {
        share.keep();
    }
    foreign.keep();
    let container = Container::load(&state_root, &id)?;
    let child = child.release();
    let (Some(pidfd), Some(control)) = (child.pidfd, child.control) else {
        return Err(Error::Vanished);
    };
    let init = InitProcess {
        pid: child.pid,
        pidfd,
        terminal,
        control: Some(control),
        command: child.command,
        cwd: child.cwd,
        container: container.clone(),
    };
    Ok(Created { container, init })
}

pub(crate) fn new_record(
    plan: &ContainerPlan,
    request: &CreateRequest,
    spec: &Spec,
    hooks: &Hooks,
) -> Record {
    let mut record = Record::new(&request.id);
    record.oci_version.clone_from(&spec.oci_version);
    record.bundle.clone_from(&request.bundle);
    record.rootfs.clone_from(&plan.rootfs);
    record.cgroup.clone_from(&plan.cgroup.paths);
    record.systemd_unit = plan.scope.as_ref().map(scope::unit_of);
    record.namespaces.clone_from(&plan.namespaces.new);
    record
        .namespaces
        .extend(plan.namespaces.joined.iter().map(|(kind, _)| *kind));
    let joined = &plan.namespaces.joined;
    record.shares_pids = joined.iter().any(|(kind, _)| *kind == NamespaceKind::Pid);
    record.seccomp_flags = plan.process.seccomp.as_ref().map(|seccomp| seccomp.flags);
    let seccomp = plan.process.seccomp.as_ref();
    record.seccomp_listener = seccomp.and_then(|seccomp| seccomp.listener.clone());
    record.personality = plan.personality;
    let linux = spec.linux.as_ref();
    record.memory_policy = linux.and_then(|linux| linux.memory_policy.clone());
    let text = |name: &Option<CString>| Some(name.as_ref()?.to_string_lossy().into_owned());
    record.apparmor_profile = text(&plan.process.apparmor_profile);
    record.selinux_label = text(&plan.process.selinux_label);
    record.annotations.clone_from(&spec.annotations);
    record.streams = streams_of(&request.stdio, plan.process.terminal);
    record.poststart.clone_from(&hooks.poststart);
    record.poststop.clone_from(&hooks.poststop);
    record
}

/// What the standard streams are, for a checkpoint to know pipes by; nothing with a terminal of the container's own.
pub(crate) fn streams_of(stdio: &StdioRequest, has_terminal: bool) -> Vec<String> {
    let numbers = match stdio {
        StdioRequest::Fds {
            stdin,
            stdout,
            stderr,
        } => [stdin, stdout, stderr].map(AsRawFd::as_raw_fd),
        _ if has_terminal => return Vec::new(),
        _ => [0, 1, 2],
    };
    let name = |number| {
        let link = fs::read_link(format!("/proc/self/fd/{number}")).unwrap_or_default();
        link.to_string_lossy().into_owned()
    };
    numbers.map(name).into()
}

/// Looks at the share of caches and memory bandwidth that is to be made or joined; nothing without any.
pub(crate) fn prepare_share(plan: &ContainerPlan, facts: &HostFacts) -> Result<Option<NewGroup>> {
    let asked = facts.resctrl.as_ref().zip(plan.resctrl.as_ref());
    let share = asked.map(|(resctrl, plan)| resctrl.prepare(plan));
    Ok(share.transpose()?)
}

/// Adds what the kernel says of a group that a process couldn't join.
pub(crate) fn explain(error: Error, group: Option<&Group>) -> Error {
    match error {
        Error::Kernel { step, errno } if step.starts_with(JOIN_RESCTRL) => {
            let status = group.and_then(Group::last_status);
            let said = status.map(|status| format!(" (last_cmd_status: {status})"));
            kernel(step + &said.unwrap_or_default(), errno)
        }
        other => other,
    }
}

fn start_child(
    plan: &ContainerPlan,
    request: CreateRequest,
    groups: (&Cgroup, Option<&Group>),
    start: Start,
    hooks: InnerHooks,
    root: OwnedFd,
) -> Result<Child> {
    let cgroup = groups.0;
    let (ours, theirs) =
        control::pair().map_err(|errno| kernel("make the control socket", errno))?;
    let program = compile::init(plan, request, groups, theirs, start, hooks, root)?;
    // The cgroup namespace is made later, in the container's groups.
    let mut new = plan.namespaces.new.clone();
    new.retain(|kind| *kind != NamespaceKind::Cgroup);
    let mut before = Vec::new();
    for (kind, path) in &plan.namespaces.joined {
        // Those that belong to another user namespace can't be entered any more from within the container's.
        if plan.namespaces.has(NamespaceKind::User)
            && !plan.is_rootless
            && !matches!(kind, NamespaceKind::Pid | NamespaceKind::User)
        {
            let file = File::open(path);
            let fd = file.map_err(|error| state::file("open namespace", path, error))?;
            let fd = fd.into();
            before.push(EntryStep::TryEnter { kind: *kind, fd });
        }
    }
    for (kind, path) in &plan.namespaces.joined {
        // Others are entered by the process itself, which these two would make a stranger in its own.
        if matches!(kind, NamespaceKind::Pid | NamespaceKind::User) {
            let file = File::open(path);
            let fd = file.map_err(|error| state::file("open namespace", path, error))?;
            let fd = fd.into();
            before.push(EntryStep::Enter { kind: *kind, fd });
        }
    }
    if !plan.namespaces.time_offsets.is_empty() {
        // Its clocks can be set only as long as no process is in it.
        new.retain(|kind| *kind != NamespaceKind::Time);
        if plan.namespaces.makes(NamespaceKind::User) {
            // The clocks are to be the new user namespace's.
            new.retain(|kind| *kind != NamespaceKind::User);
            before.push(EntryStep::NewUser);
        }
        before.push(EntryStep::NewTime(plan.namespaces.time_offsets.clone()));
    }
    let flags = new.iter();
    let flags = flags.fold(0, |flags, kind| flags | process::flag(clone_flag(*kind)));
    let is_moved = plan.scope.as_ref().is_some_and(|scope| !scope.is_system);
    let unified = if is_moved { None } else { cgroup.v2_dir_fd()? };
    let unified = unified.as_ref().map(AsFd::as_fd);
    spawn(
        program,
        flags,
        unified,
        before,
        &|pid| map_ids(plan, pid),
        ours,
    )
}

/// Moves the host's network devices into the network namespace the container has, that of process `pid` if it is new.
fn move_devices(plan: &ContainerPlan, pid: u32) -> Result<()> {
    if plan.net_devices.is_empty() {
        return Ok(());
    }
    let mut joined = plan.namespaces.joined.iter();
    let joined = joined.find(|(kind, _)| *kind == NamespaceKind::Network);
    let path = joined.map_or_else(
        || PathBuf::from(format!("/proc/{pid}/ns/net")),
        |(_, path)| path.clone(),
    );
    let target = File::open(&path);
    let target = target.map_err(|source| state::file("open namespace", &path, source))?;
    for device in &plan.net_devices {
        atoll_netlink::route::move_link(&device.outside, &device.inside, target.as_fd()).map_err(
            |source| Error::NetDevice {
                name: device.outside.clone(),
                source,
            },
        )?;
    }
    Ok(())
}

/// The hooks that the first process runs, and the handles to tell them the container's state with.
fn inner_hooks(
    hooks: &Hooks,
    plan: &ContainerPlan,
    root: BorrowedFd<'_>,
) -> Result<(InnerHooks, Vec<(StateTeller, Status)>)> {
    let create = HookList::prepare("createContainer", &hooks.create_container, &[])?;
    // Without an environment of their own these have the program's, as in runc.
    let home = passwd::home(root, plan.process.uid);
    let env = compile::with_home(&plan.process.env, home);
    let start = HookList::prepare("startContainer", &hooks.start_container, &env)?;
    let mut tellers = Vec::new();
    for (list, status) in [(&create, Status::Creating), (&start, Status::Created)] {
        if let Some(list) = list {
            tellers.push((list.teller()?, status));
        }
    }
    let inner = InnerHooks {
        awaits: hook::run_before_start(hooks),
        create,
        start,
    };
    Ok((inner, tellers))
}

/// The pid of process `pid` in its own PID namespace.
fn pid_inside(pid: u32) -> Result<u32> {
    let path = PathBuf::from(format!("/proc/{pid}/status"));
    let text = fs::read_to_string(&path).map_err(|source| state::file("read", &path, source))?;
    let numbers = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let last = numbers.and_then(|numbers| numbers.split_whitespace().next_back()?.parse().ok());
    // Kernels before 4.1 don't say.
    Ok(last.unwrap_or(pid))
}

fn prepare_start(folder: &Path, start_by: StartBy) -> Result<Start> {
    let fifo = state::fifo_path(folder);
    let make = || mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0);
    make().map_err(|errno| kernel(format!("make {}", fifo.display()), errno))?;
    if start_by == StartBy::Caller {
        return Ok(Start::Control);
    }
    // Open both ways: opening never waits, and reading never sees an end of file.
    let open = File::options().read(true).write(true).open(&fifo);
    let fifo = open.map_err(|source| state::file("open", &fifo, source))?;
    let path = state::report_path(folder);
    let report = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    let report = report.map_err(|source| state::file("make", &path, source))?;
    Ok(Start::Fifo {
        fifo: fifo.into(),
        report: report.into(),
    })
}

fn map_ids(plan: &ContainerPlan, pid: u32) -> Result<()> {
    if plan.is_rootless {
        return rootless::map_ids(plan, pid);
    }
    for (name, mappings) in [
        ("uid_map", &plan.uid_mappings),
        ("gid_map", &plan.gid_mappings),
    ] {
        let path = PathBuf::from(format!("/proc/{pid}/{name}"));
        fs::write(&path, map_text(mappings))
            .map_err(|source| state::file("write", &path, source))?;
    }
    Ok(())
}

/// Whether the container may do without control groups: as long as it asks for nothing that takes them.
fn may_lack_cgroups(plan: &ContainerPlan, spec: &Spec) -> bool {
    let linux = spec.linux.as_ref();
    let resources = linux.and_then(|linux| linux.resources.as_ref());
    plan.may_lack_cgroups && resources.is_none_or(rootless::limits_nothing)
}

/// What hooks and `state` are told.
pub(crate) fn oci_state(record: &Record, status: Status) -> State {
    State {
        oci_version: record.oci_version.clone(),
        id: record.id.clone(),
        status,
        pid: Some(record.pid).filter(|pid| *pid != 0 && status != Status::Stopped),
        bundle: record.bundle.clone(),
        annotations: record.annotations.clone(),
    }
}

impl InitProcess {
    /// Lets the process execute its program and waits until it does.
    ///
    /// # Errors
    /// [`Error::CommandNotFound`], [`Error::CommandNotExecutable`] or what else failed; the process
    /// is gone then, but not reaped. [`Error::WrongStatus`] when it was started before.
    pub fn start(&mut self) -> Result<()> {
        let Some(control) = self.control.take() else {
            return Err(Error::WrongStatus {
                id: self.container.id().clone(),
                action: "start",
                status: Status::Running,
            });
        };
        if self.container.waits_at_fifo() {
            drop(control);
            return self.container.start();
        }
        control::tell(control.as_fd(), Go::Start);
        let received = control::receive(control.as_fd())
            .map_err(|source| state::file("read from", Path::new("control socket"), source))?;
        self.container.mark_started();
        if let Some((control::Message::Failed { step, errno }, extra)) = received {
            // It says so before it ends.
            let _ = await_end(&self.pidfd);
            let failure = launch_failure(step, errno, &extra.text, &self.command, &self.cwd);
            return Err(failure);
        }
        self.container.run_poststart()
    }
}

/// Makes the control groups of a container, and the unit of systemd's that they are in.
///
/// What is answered first is to be dropped last: it is removed when nobody is in it.
///
/// * `may_lack`: whether groups that may not be made are left out.
///
/// # Errors
/// [`Error::Cgroup`], [`Error::Kernel`].
pub(crate) fn make_groups(
    plan: &ContainerPlan,
    may_lack: bool,
) -> Result<(NewCgroup, Option<NewScope>)> {
    let mut cgroup = NewCgroup(None);
    let scope = plan.scope.as_ref().map(NewScope::start).transpose()?;
    let occupant = scope.as_ref().and_then(NewScope::occupant);
    cgroup.make(&plan.cgroup, may_lack, occupant)?;
    Ok((cgroup, scope))
}

/// A cgroup that is removed unless kept.
pub(crate) struct NewCgroup(Option<Cgroup>);

impl NewCgroup {
    /// Makes it, around a process that may be there already.
    fn make(
        &mut self,
        plan: &atoll_cgroup::Plan,
        may_lack: bool,
        occupant: Option<u32>,
    ) -> Result<()> {
        self.0 = Some(match Cgroup::create_around(plan, occupant) {
            Err(error) if may_lack && rootless::is_refused(&error) => Cgroup::open(BTreeMap::new()),
            created => created?,
        });
        Ok(())
    }

    /// The cgroup.
    ///
    /// # Errors
    /// None: it is there until it is kept.
    pub(crate) fn get(&self) -> Result<&Cgroup> {
        self.0.as_ref().ok_or(Error::Vanished)
    }

    /// Leaves it there.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for NewCgroup {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.0 {
            let _ = cgroup.remove();
        }
    }
}

/// A root file system mounted where others see it, unmounted unless kept.
struct ForeignMount(Option<Record>);

impl ForeignMount {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for ForeignMount {
    fn drop(&mut self) {
        if let Some(record) = &self.0 {
            let _ = unmount_foreign(record);
        }
    }
}

/// Unmounts a root file system that is mounted where others see it, if it is the recorded one; a mount namespace that
/// was joined keeps it as long as it lives.
pub(crate) fn unmount_foreign(record: &Record) -> Result<()> {
    let Some(recorded) = record.rootfs_mount else {
        return Ok(());
    };
    let path = CString::new(record.rootfs.as_os_str().as_bytes()).unwrap_or_default();
    if mount::id(CWD, &path) != Ok(recorded) {
        return Ok(());
    }
    unmount(&path, UnmountFlags::DETACH)
        .map_err(|errno| kernel(format!("unmount {}", record.rootfs.display()), errno))
}

pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|source| state::file("find", path, source))
}

/// Refers to a process as its record does: `None` when that process is gone.
pub(crate) fn open_recorded(record: &Record) -> Option<OwnedFd> {
    if record.pid == 0 {
        return None;
    }
    let pidfd = process::open(record.pid).ok()?;
    // Checked after opening: the descriptor then refers to the process looked at.
    let time = process::start_time(record.pid).ok()?;
    (time.ticks == record.start_ticks && !time.is_zombie && pidfd.as_raw_fd() >= 0).then_some(pidfd)
}
