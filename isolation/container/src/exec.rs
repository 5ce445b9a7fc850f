//! Running one more process in a container.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use atoll_cgroup::Cgroup;
use atoll_spec::{NamespaceKind, Status};
use atoll_sys::capability;
use atoll_sys::process;
use atoll_sys::scheduling::NumberSet;

use crate::apply::entry::EntryStep;
use crate::apply::program::{Launch, Op, Program, Start};
use crate::apply::spawn::spawn;
use crate::apply::{compile, control, passwd};
use crate::container::{Container, ExecProcess};
use crate::create::{explain, oci_state, open_recorded};
use crate::error::{Error, Result, kernel};
use crate::plan::{
    PROCESS_LABEL, ProcessPlan, clone_flag, no_selinux, plan_memory_policy, plan_process,
};
use crate::state::{self, Record};
use crate::{ExecRequest, StdioRequest, apparmor, selinux};

/// What an exec is called when it is refused.
pub(crate) const ACTION: &str = "exec in";

/// Runs a process and waits until it executes its program.
pub(crate) fn exec(
    container: &Container,
    record: &Record,
    request: ExecRequest,
) -> Result<ExecProcess> {
    request.process.validate()?;
    let status = container.status_of(record);
    let may_run = status == Status::Running
        || status == Status::Created
        || (status == Status::Paused && request.ignore_paused);
    if status == Status::Paused && !may_run {
        return Err(Error::Paused(container.id().clone()));
    }
    let wrong = |status| Error::WrongStatus {
        id: container.id().clone(),
        action: ACTION,
        status,
    };
    if !may_run {
        return Err(wrong(status));
    }
    let Some(init) = open_recorded(record) else {
        return Err(wrong(Status::Stopped));
    };
    let has_userns = record.namespaces.contains(&NamespaceKind::User);
    let own = capability::current().map_err(|errno| kernel("capget", errno))?;
    let available = if has_userns {
        capability::Set(u64::MAX)
    } else {
        own.permitted
    };
    // Without privilege, only in that namespace there is the right to enter the others.
    let enters_user_first = has_userns && !own.permitted.holds(capability::SYS_ADMIN);
    let seccomp = record.seccomp_flags.map(|flags| {
        let listener = record.seccomp_listener.clone();
        state::read_seccomp(container.folder(), flags, listener)
    });
    let mut plan = plan_process(&request.process, available, seccomp.transpose()?)?;
    confine(&mut plan, record)?;
    (request.warn)(&plan.warnings);
    match &request.stdio {
        StdioRequest::Terminal { size } => {
            plan.terminal = true;
            plan.terminal_size = size.or(plan.terminal_size);
        }
        StdioRequest::Fds { .. } => plan.terminal = false,
        StdioRequest::Inherit => {}
    }

    let mut cgroup = sub_cgroup(record, &request.cgroups)?;
    if request.cgroups.is_empty() && cgroup.is_divided() {
        cgroup = cgroup.beside(record.pid)?;
    }
    let mut steps = Vec::with_capacity(8);
    let mover = record.systemd_unit.as_ref();
    let mover = mover.filter(|unit| unit.moves_processes());
    steps.extend(mover.map(|_| Op::AwaitMove));
    steps.extend(plan.exec_affinity.initial.clone().map(Op::Affinity));
    steps.extend(compile::oom_score(&plan));
    if !request.no_new_keyring {
        steps.extend(compile::keyring(&record.id, &plan));
    }
    let handles = cgroup.join_handles();
    let handles = handles.map_err(|error| match (request.cgroups.is_empty(), error) {
        (false, atoll_cgroup::Error::Read { path, source }) => Error::File {
            action: "run in the sub cgroup: error adding pid to",
            path,
            source,
        },
        (_, error) => error.into(),
    })?;
    steps.push(Op::JoinCgroup(handles));
    // One that its administrator has removed meanwhile is none.
    let share = record
        .resctrl
        .as_ref()
        .filter(|group| group.folder().exists());
    steps.extend(share.map(compile::join_resctrl).transpose()?);
    let affinity = &plan.exec_affinity;
    steps.extend(match (&affinity.initial, &affinity.last) {
        (_, Some(cpus)) => Some(Op::Affinity(cpus.clone())),
        // Without a wish the runtime's own CPUs are no limit.
        (None, None) => Some(Op::Affinity(NumberSet::all())),
        (Some(_), None) => None,
    });
    let others = record
        .namespaces
        .iter()
        .filter(|kind| **kind != NamespaceKind::Pid)
        .filter(|kind| **kind != NamespaceKind::User || !enters_user_first);
    let flags = others.fold(0, |flags, kind| flags | clone_flag(*kind));
    let pidfd = init.try_clone().map_err(|source| Error::File {
        action: "duplicate",
        path: "pidfd".into(),
        source,
    })?;
    steps.push(Op::EnterProcess { pidfd, flags });
    if record.rootfs_mount.is_some() {
        // Opened from outside: it is the root of just this process, whatever its namespace shows elsewhere.
        let path = PathBuf::from(format!("/proc/{}/root", record.pid));
        let root = File::open(&path).map_err(|source| state::file("open", &path, source))?;
        steps.push(Op::EnterRoot(root.into()));
    }
    if has_userns {
        steps.push(Op::BecomeRoot);
    }
    steps.extend(record.personality.map(Op::Personality));
    if let Some(policy) = &record.memory_policy {
        steps.push(Op::MemoryPolicy(plan_memory_policy(policy)?));
    }
    steps.extend(compile::labels(&plan));
    if plan.terminal {
        steps.push(Op::Terminal);
    }
    let (ours, theirs) =
        control::pair().map_err(|errno| kernel("make the control socket", errno))?;
    let home = home(record.pid, plan.uid);
    let keeps_line_ends = request.keeps_line_ends;
    let launch = compile::launch(
        &plan,
        request.stdio,
        request.preserve_fds,
        Start::AtOnce,
        home,
    );
    let launch = Launch {
        keeps_line_ends,
        ..launch
    };
    let program = Program {
        steps,
        root: None,
        is_rootless: false,
        control: theirs,
        mount_label: None,
        launch,
    };
    let mut before = Vec::new();
    if enters_user_first {
        before.push(EntryStep::Enter {
            kind: NamespaceKind::User,
            fd: init
                .try_clone()
                .map_err(|source| state::file("duplicate", Path::new("pidfd"), source))?,
        });
    }
    if record.namespaces.contains(&NamespaceKind::Pid) {
        before.push(EntryStep::Enter {
            kind: NamespaceKind::Pid,
            fd: init,
        });
    }
    let unified = if mover.is_some() {
        None
    } else {
        cgroup.v2_dir_fd()?
    };
    let unified = unified.as_ref().map(AsFd::as_fd);
    let mut child = spawn(program, 0, unified, before, &|_| Ok(()), ours)?;
    if let Some(unit) = mover {
        unit.adopt(&child, &below(record, &cgroup))?;
    }
    let state = oci_state(record, status);
    let listener = record.seccomp_listener.as_ref();
    let mut terminal = None;
    loop {
        let ready = child.await_ready(listener.map(|listener| (listener, &state)));
        match ready.map_err(|error| explain(error, share))? {
            Some(master) => terminal = master.or(terminal),
            None => break,
        }
    }
    let child = child.release();
    let pidfd = child.pidfd.ok_or(Error::Vanished)?;
    Ok(ExecProcess {
        pid: child.pid,
        pidfd,
        terminal,
    })
}

/// Confines a process as the container's first where it says nothing itself.
fn confine(plan: &mut ProcessPlan, record: &Record) -> Result<()> {
    let first = |name: &Option<String>| CString::new(name.clone()?).ok();
    let profile = plan.apparmor_profile.take();
    let profile = profile.or_else(|| first(&record.apparmor_profile));
    let has_apparmor = profile.is_some() && apparmor::is_enabled();
    plan.apparmor_profile = apparmor::entered(profile, has_apparmor)?;
    let label = plan.selinux_label.take();
    plan.selinux_label = label.or_else(|| first(&record.selinux_label));
    if plan.selinux_label.is_none() {
        return Ok(());
    }
    if !selinux::is_enabled() {
        return Err(no_selinux(PROCESS_LABEL, "label"));
    }
    selinux::check("process", plan.selinux_label.as_deref())
}

/// Where in the container's own cgroup2 folder `cgroup` is, with a slash in front.
fn below(record: &Record, cgroup: &Cgroup) -> String {
    let (own, place) = (record.cgroup.get(""), cgroup.paths().get(""));
    let rest = own
        .zip(place)
        .and_then(|(own, place)| place.strip_prefix(own).ok());
    match rest.filter(|rest| !rest.as_os_str().is_empty()) {
        Some(rest) => Path::new("/").join(rest).to_string_lossy().into_owned(),
        None => String::new(),
    }
}

/// The container's control groups, with those of `below` instead for the controllers named there: `[controllers:]folder`.
fn sub_cgroup(record: &Record, below: &[String]) -> Result<Cgroup> {
    let wrong = |argument: &str, reason: &str| Error::Plan {
        field: "cgroup".to_owned(),
        reason: format!("{argument:?} {reason}"),
    };
    let mut paths = record.cgroup.clone();
    let mut seen = BTreeSet::new();
    for argument in below {
        let (controllers, folder) = match argument.split_once(':') {
            Some((controllers, folder)) => (controllers.split(',').collect(), folder),
            None if below.len() > 1 => return Err(wrong(argument, "has no controller in front")),
            None => (Vec::new(), argument.as_str()),
        };
        let folder = Path::new(folder.trim_start_matches('/'));
        if folder
            .components()
            .any(|part| !matches!(part, Component::Normal(_)))
        {
            return Err(wrong(argument, "is a bad sub cgroup path"));
        }
        if controllers.is_empty() {
            paths.values_mut().for_each(|path| path.push(folder));
        }
        for name in controllers {
            if !seen.insert(name) {
                return Err(wrong(argument, "names a controller a second time"));
            }
            match paths.get_mut(name) {
                Some(path) if !name.is_empty() => path.push(folder),
                _ => {
                    let reason =
                        format!("has an unknown controller {name:?}, one the container lacks");
                    return Err(wrong(argument, &reason));
                }
            }
        }
    }
    Ok(Cgroup::open(paths))
}

/// `HOME` by the container's passwd file as its first process sees it.
fn home(pid: u32, uid: u32) -> Option<std::ffi::CString> {
    let root: OwnedFd = File::open(format!("/proc/{pid}/root")).ok()?.into();
    passwd::home(root.as_fd(), uid)
}

/// Whether a process started as recorded still runs.
pub(crate) fn is_alive(record: &Record) -> bool {
    record.pid != 0
        && process::start_time(record.pid)
            .is_ok_and(|time| time.ticks == record.start_ticks && !time.is_zombie)
}
