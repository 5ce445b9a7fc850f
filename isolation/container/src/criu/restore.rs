//! Restores.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use atoll_spec::{NamespaceKind, Spec, Status};
use atoll_sys::inside::Missing;
use atoll_sys::mount::{self, Change, Propagation};
use atoll_sys::rustix::fs::CWD;
use atoll_sys::{namespace, process, task};

use super::options::{
    DESCRIPTORS, RestoreRequest, common, empty_namespaces, is_in_memory, joined, namespace_key,
    outside,
};
use super::place::resolve;
use super::rpc::{CgroupRoot, ExternalMount, InheritFd, Kind, Options, Request};
use super::session::{Folders, Opening, Session, null_streams, number_of, with_log};
use crate::apply::compile::{above_streams, bind_error, missing_like};
use crate::apply::program::{Op, Stdio};
use crate::apply::rootfs;
use crate::container::{Container, Created, InitProcess};
use crate::create::{make_groups, new_record, oci_state, prepare_share, streams_of};
use crate::error::{Error, Result, kernel};
use crate::plan::{ContainerPlan, HostFacts, MountSource, clone_flag};
use crate::state::{self, Folder};
use crate::{CreateRequest, StdioRequest, hook};

/// CRIU's log of a restore.
const LOG: &str = "restore.log";
/// Where the root file system is mounted in CRIU's mount namespace, below the container's state folder.
const ROOT: &str = "criu-root";

/// Makes a container whose processes are those of a checkpoint and go on from there, by CRIU.
///
/// The restored first process is a child of the caller; there is nothing to start.
///
/// # Errors
/// [`Error`]; nothing is left behind then.
pub fn restore(mut request: CreateRequest, spec: &Spec, from: &RestoreRequest) -> Result<Created> {
    request.bundle = crate::create::absolute(&request.bundle)?;
    let facts = HostFacts::detect(spec, &request)?;
    super::refuse(spec, &facts)?;
    let plan = crate::plan(spec, &request, &facts)?;
    (request.warn)(&plan.process.warnings);
    refuse_what_cannot_be(&plan)?;
    if let Some(work) = &from.criu.work {
        fs::create_dir_all(work).map_err(|source| state::file("make", work, source))?;
    }
    let old_streams = read_streams(&from.criu.images)?;
    let hooks = spec.hooks.clone().unwrap_or_default();

    let state_folder = Folder::make(&request.state_root, &request.id)?;
    if request.has_notify_folder {
        let path = CreateRequest::notify_folder(&request.state_root, &request.id);
        fs::create_dir(&path).map_err(|source| state::file("make", &path, source))?;
    }
    let root = rootfs::open(&plan, &request.rootfs_mounts)?;
    let mut record = new_record(&plan, &request, spec, &hooks);
    let mut share = prepare_share(&plan, &facts)?;
    record.resctrl = share.as_ref().map(|share| share.group().clone());
    state::write(state_folder.path(), &record)?;
    if let Some(seccomp) = &plan.process.seccomp {
        state::write_seccomp(state_folder.path(), seccomp)?;
    }
    let (cgroup, scope) = make_groups(&plan, false)?;
    if let Some(share) = &mut share {
        share.make()?;
    }

    let place = state_folder.path().join(ROOT);
    fs::create_dir(&place).map_err(|source| state::file("make", &place, source))?;
    // CRIU compares it with what the kernel says.
    let place = place.canonicalize();
    let place = place.map_err(|source| state::file("find", state_folder.path(), source))?;
    let external_mounts = external_mounts(&plan, root.as_fd());
    let (inherited, extra) = hand_over(&plan, &old_streams)?;
    record.streams = streams_of(&request.stdio, plan.process.terminal);
    let (streams, streams_uid) = (streams(&plan, request.stdio)?, plan.process.uid);
    let opening = Opening {
        program: &from.criu.program,
        steps: steps(&plan, &place)?,
        root: Some(root),
        flags: process::flag(libc::CLONE_NEWNS),
        cgroup: Some(cgroup.get()?),
        streams,
        streams_uid,
        said: None,
        extra,
        action: "restore",
    };
    let mut session = Session::open(opening)?;
    let folders = Folders::open_in(&from.criu, &session);
    let folders = folders.map_err(|error| session.ended_or(error))?;
    let annotations = &record.annotations;
    let options = Options {
        inherit_fds: inherited,
        cgroup_roots: cgroup_roots(session.pid())?,
        external_mounts,
        ..common(&from.criu, annotations, folders.numbers(), LOG)
    };
    let options = complete(options, from, &plan, &place);
    let asked = Request {
        kind: Kind::Restore.into(),
        options: Some(options),
        ..Request::default()
    };
    let mut terminal = None;
    let mut init: Option<(u32, OwnedFd)> = None;
    let debug = from.criu.debug;
    let outcome = session.ask(&asked, &mut |notify, fd| {
        let script = notify.script.as_deref().unwrap_or_default();
        debug(&format!("criu: {script}"));
        let pid = notify
            .pid
            .and_then(|pid| u32::try_from(pid).ok())
            .unwrap_or(0);
        match script {
            "setup-namespaces" => {
                if empty_namespaces(&plan) != 0 {
                    bring_up_loopback(pid)?;
                }
                if hook::run_outside(&hooks) {
                    let mut about = record.clone();
                    about.pid = pid;
                    let state = oci_state(&about, Status::Creating);
                    hook::run("prestart", &hooks.prestart, &state)?;
                    hook::run("createRuntime", &hooks.create_runtime, &state)?;
                }
            }
            "orphan-pts-master" => terminal = fd,
            "post-restore" => {
                let pidfd = process::open(pid);
                let pidfd = pidfd.map_err(|errno| kernel("open the restored process", errno))?;
                record.pid = pid;
                record.start_ticks = process::start_time(pid)
                    .map_err(|errno| kernel("read the start time of the process", errno))?
                    .ticks;
                // CRIU keeps clocks by a time namespace, which later processes must share.
                if !record.namespaces.contains(&NamespaceKind::Time) && has_own_time(pid) {
                    record.namespaces.push(NamespaceKind::Time);
                }
                if let Some(group) = &record.resctrl {
                    // They don't run yet.
                    for pid in cgroup.get()?.pids()? {
                        group.add_process(pid)?;
                    }
                }
                state::write(state_folder.path(), &record)?;
                init = Some((pid, pidfd));
            }
            _ => {}
        }
        Ok(())
    });
    let logs = from.criu.work.as_deref().unwrap_or(&from.criu.images);
    outcome.map_err(|error| with_log(error, logs, LOG))?;
    session.close();
    let (pid, pidfd) = init.ok_or(Error::Vanished)?;
    // The mount on it was CRIU's alone and is gone.
    let _ = fs::remove_dir(&place);
    state_folder.keep();
    if let Some(scope) = scope {
        scope.keep();
    }
    cgroup.keep();
    if let Some(share) = share {
        share.keep();
    }
    let container = Container::load(&request.state_root, &request.id)?;
    let init = InitProcess {
        pid,
        pidfd,
        terminal,
        control: None,
        command: String::new(),
        cwd: String::new(),
        container: container.clone(),
    };
    Ok(Created { container, init })
}

fn refuse_what_cannot_be(plan: &ContainerPlan) -> Result<()> {
    let fault = |field: &str, reason: &str| {
        Err(Error::Plan {
            field: field.to_owned(),
            reason: reason.to_owned(),
        })
    };
    if !plan.namespaces.makes(NamespaceKind::Mount) {
        return fault(
            "linux.namespaces",
            "a restored container needs a mount namespace of its own",
        );
    }
    let mut joined = plan.namespaces.joined.iter();
    if joined.any(|(kind, _)| *kind == NamespaceKind::Cgroup) {
        return fault(
            "linux.namespaces",
            "criu cannot restore into an existing cgroup namespace",
        );
    }
    Ok(())
}

fn read_streams(images: &Path) -> Result<Vec<String>> {
    let path = images.join(DESCRIPTORS);
    let text = fs::read(&path).map_err(|source| state::file("read", &path, source))?;
    serde_json::from_slice(&text).map_err(|error| state::file("read", &path, error.into()))
}

/// Adds what only a restore has.
fn complete(
    mut options: Options,
    from: &RestoreRequest,
    plan: &ContainerPlan,
    place: &Path,
) -> Options {
    options.root = Some(place.to_string_lossy().into_owned());
    options.evasive_devices = Some(true);
    options.rst_sibling = Some(true);
    options.empty_ns = Some(empty_namespaces(plan));
    options.lsm_profile.clone_from(&from.lsm_profile);
    options
        .lsm_mount_context
        .clone_from(&from.lsm_mount_context);
    options.join_namespaces = joined(plan);
    options
}

/// Mounts from outside by the names they have in the images, and their sources.
fn external_mounts(plan: &ContainerPlan, root: BorrowedFd<'_>) -> Vec<ExternalMount> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut mounts: Vec<_> = outside(plan)
        .iter()
        .map(|mount| ExternalMount {
            key: text(&resolve(root, &mount.destination)),
            value: text(&mount.source),
        })
        .collect();
    if !plan.masked_paths.is_empty() {
        mounts.push(ExternalMount {
            key: "/dev/null".to_owned(),
            value: "/dev/null".to_owned(),
        });
    }
    mounts
}

/// The descriptors that CRIU is given for files outside: namespaces, and streams in the place of those that were pipes; and
/// those of them it doesn't have already.
fn hand_over(
    plan: &ContainerPlan,
    old_streams: &[String],
) -> Result<(Vec<InheritFd>, Vec<OwnedFd>)> {
    let (mut inherited, mut extra) = (Vec::new(), Vec::<OwnedFd>::new());
    for (kind, path) in &plan.namespaces.joined {
        let key = namespace_key(*kind);
        if key.is_empty() {
            continue;
        }
        let file = File::open(path);
        let file = file.map_err(|source| state::file("open namespace", path, source))?;
        inherited.push(InheritFd {
            key: key.to_owned(),
            number: number_of(extra.len()),
        });
        extra.push(file.into());
    }
    for (name, number) in old_streams.iter().zip(0..3) {
        if name.contains("pipe:") {
            inherited.push(InheritFd {
                key: name.clone(),
                number,
            });
        }
    }
    Ok((inherited, extra))
}

/// The streams of CRIU, which the container's inherits from it where they were pipes.
fn streams(plan: &ContainerPlan, request: StdioRequest) -> Result<Stdio> {
    match request {
        StdioRequest::Fds {
            stdin,
            stdout,
            stderr,
        } => Ok(Stdio::Fds(above_streams([stdin, stdout, stderr]))),
        // CRIU makes the terminal, and hands its master over.
        _ if plan.process.terminal => null_streams(),
        _ => Ok(Stdio::Inherit),
    }
}

/// What is done before CRIU: the root file system is mounted in a mount namespace of CRIU's own, with a place in it for
/// every mount.
fn steps(plan: &ContainerPlan, place: &Path) -> Result<Vec<Op>> {
    let place = CString::new(place.as_os_str().as_bytes()).unwrap_or_default();
    let mut steps = vec![
        Op::Propagate(Change::propagation(Propagation::Slave)),
        Op::AttachRootAt(place.clone()),
        Op::KeepRoot(place.clone()),
    ];
    for mount in &plan.mounts {
        let destination = super::options::path(&mount.destination);
        if is_in_memory(plan, &destination) {
            continue;
        }
        let target = mount.destination.clone();
        match &mount.source {
            // Places of later mounts may be in it.
            MountSource::Bind { path, recursive } => {
                let copy = mount::clone_tree(CWD, path, *recursive, false)
                    .map_err(|errno| bind_error(path, &target, errno))?;
                let missing = missing_like(copy.as_fd());
                steps.push(Op::Attach {
                    mount: copy,
                    target,
                    missing,
                });
            }
            _ => steps.push(Op::Place {
                target,
                missing: Missing::Folder,
            }),
        }
    }
    if plan.root_is_readonly {
        // Where CRIU puts the old root for a moment; without it, it would make a folder, which it can't.
        steps.push(Op::Place {
            target: c"/tmp".to_owned(),
            missing: Missing::Folder,
        });
    }
    steps.push(Op::RenewRoot(place));
    Ok(steps)
}

/// The control groups that process `pid` is in: those of the checkpoint become these.
fn cgroup_roots(pid: u32) -> Result<Vec<CgroupRoot>> {
    let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let text = fs::read_to_string(&path).map_err(|source| state::file("read", &path, source))?;
    Ok(parse_cgroups(&text))
}

fn parse_cgroups(text: &str) -> Vec<CgroupRoot> {
    let lines = text.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        Some(CgroupRoot {
            controllers: Some(controllers.to_owned()),
            path: path.to_owned(),
        })
    });
    lines.collect()
}

/// Brings `lo` up in the network namespace of `pid`: CRIU was told to leave that empty.
///
/// By a thread that joins it and ends, because the caller is to stay where it is.
fn bring_up_loopback(pid: u32) -> Result<()> {
    let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
    let file = File::open(&path).map_err(|source| state::file("open", &path, source))?;
    let kind = clone_flag(NamespaceKind::Network);
    let outcome = std::thread::scope(|scope| {
        let visitor = scope.spawn(|| {
            namespace::enter(file.as_fd(), kind)?;
            task::bring_up_loopback()
        });
        visitor.join()
    });
    let outcome = outcome.map_err(|_| Error::Vanished)?;
    outcome.map_err(|errno| kernel("bring up lo of the restored container", errno))
}

fn has_own_time(pid: u32) -> bool {
    let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/time")).ok();
    of(&pid.to_string()) != of("self")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_groups_of_both_versions_are_roots() {
        let roots = parse_cgroups("9:name=systemd:/a:b\n4:cpu,cpuacct:/\n0::/x\n");
        let pairs: Vec<_> = roots
            .iter()
            .map(|root| (root.controllers.as_deref().unwrap(), root.path.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [("name=systemd", "/a:b"), ("cpu,cpuacct", "/"), ("", "/x")]
        );
    }
}
