//! `checkpoint` and `restore`.

use std::fs::DirBuilder;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use atoll_container::{CheckpointRequest, Container, CreateRequest, RestoreRequest, StdioRequest};
use atoll_shim::keeper;
use rustix::fs::{OFlags, fcntl_getfl};

use crate::arguments::{CheckpointArguments, RestoreArguments};
use crate::commands::create::{Made, absolute, finish, load, undo, wants_terminal, write_pid};
use crate::commands::machine;
use crate::foreground::{self, HostTerminal};
use crate::notify::{self, Manager};
use crate::report::{self, Failure, Outcome};

/// Writes a container into files, and removes it unless it is to go on.
pub(crate) fn checkpoint(
    root: &Path,
    container: &Container,
    criu: Option<PathBuf>,
    arguments: CheckpointArguments,
) -> Outcome<()> {
    if machine::keeper_of(root, container)?.is_some() {
        return Err(in_machine("checkpointed"));
    }
    if let Some(parent) = &arguments.parent_path {
        check_parent(&arguments.criu.image_path, parent)?;
    }
    let goes_on = arguments.leave_running || arguments.pre_dump;
    container.checkpoint(CheckpointRequest {
        criu: arguments.criu.request(criu),
        leave_running: arguments.leave_running,
        pre_dump: arguments.pre_dump,
        parent: arguments.parent_path,
        tcp_skip_in_flight: arguments.tcp_skip_in_flight,
        link_remap: arguments.link_remap,
        page_server: arguments.page_server,
        status: arguments.status_fd.map(status).transpose()?.flatten(),
    })?;
    if goes_on {
        return Ok(());
    }
    Ok(container.delete(true)?)
}

fn in_machine(what: &str) -> Failure {
    Failure::new(format!(
        "a container in a machine cannot be {what}: criu is of this kernel only"
    ))
}

fn check_parent(images: &Path, parent: &Path) -> Outcome<()> {
    let wrong = |reason: &str| {
        let text = format!("invalid --parent-path {}", parent.display());
        Err(Failure::io(text, &reason).with_hint("give a folder relative to --image-path"))
    };
    if parent.components().next() == Some(Component::RootDir) {
        return wrong("--parent-path must be relative");
    }
    // Nothing is relative to a folder that is not there yet.
    let is_new = !images.exists();
    if is_new {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(images);
        made.map_err(|error| Failure::io(format!("cannot make {}", images.display()), &error))?;
    }
    let outcome = match std::fs::metadata(images.join(parent)) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => wrong("it is not a directory"),
        Err(error) => wrong(&error.to_string()),
    };
    if is_new && outcome.is_err() {
        let _ = std::fs::remove_dir(images);
    }
    outcome
}

/// Our own copy of a descriptor of the caller's; -1 is none.
fn status(number: i32) -> Outcome<Option<OwnedFd>> {
    if number == -1 {
        return Ok(None);
    }
    let wrong = |reason: &dyn std::fmt::Display| {
        Failure::io(format!("invalid --status-fd argument {number}"), reason)
    };
    // By path, because the number is not known to be a descriptor of ours; it must be writable already.
    let path = format!("/proc/self/fd/{number}");
    let file = std::fs::File::options().write(true).open(path);
    let file = file.map_err(|error| wrong(&error))?;
    let flags = fcntl_getfl(&file).map_err(|error| wrong(&error))?;
    if flags.intersects(OFlags::WRONLY | OFlags::RDWR) {
        return Ok(Some(file.into()));
    }
    Err(wrong(&"not writable"))
}

/// Makes a container of files and, unless detached, waits for it and cleans up.
pub(crate) fn restore(
    root: &Path,
    systemd_cgroup: bool,
    criu: Option<PathBuf>,
    arguments: RestoreArguments,
) -> Outcome<ExitCode> {
    let mut spec = load(&arguments.bundle)?;
    if keeper::wants_machine(&spec)? {
        return Err(in_machine("restored"));
    }
    // It was ready when it was written into files: the mount is all that is left of it.
    let is_service = Manager::of_environment().is_some();
    if is_service {
        let root = std::path::absolute(root);
        let root = root.map_err(|error| Failure::io("cannot find the state root", &error))?;
        notify::add_to(
            &mut spec,
            CreateRequest::notify_folder(&root, &arguments.id.parse()?),
        );
    }
    let has_socket = arguments.console_socket.is_some();
    if wants_terminal(&spec) && arguments.detach && !has_socket {
        return Err(Failure::new(
            "cannot allocate tty if runc will detach without setting console socket",
        )
        .with_hint("give --console-socket PATH, or leave out --detach"));
    }
    let request = CreateRequest {
        stdio: if wants_terminal(&spec) {
            StdioRequest::Terminal {
                size: foreground::first_size(arguments.console_socket.as_deref()),
            }
        } else {
            StdioRequest::Inherit
        },
        systemd_cgroup,
        has_notify_folder: is_service,
        warn: report::warn,
        ..CreateRequest::new(
            arguments.id.parse()?,
            root.to_owned(),
            absolute(&arguments.bundle)?,
        )
    };
    let from = RestoreRequest {
        criu: arguments.criu.request(criu),
        lsm_profile: arguments.lsm_profile.clone(),
        lsm_mount_context: arguments.lsm_mount_context.clone(),
    };
    let mut made = Made::of(atoll_container::restore(request, &spec, &from)?)?;
    hand_over(&made, &arguments).map_err(|failure| undo(&made, failure))?;
    if arguments.detach {
        return Ok(ExitCode::SUCCESS);
    }
    let terminal = made.terminal.take().filter(|_| !has_socket);
    let host = HostTerminal::raw_if(terminal.is_some());
    finish(&made, terminal, host, false)
}

fn hand_over(made: &Made, arguments: &RestoreArguments) -> Outcome<()> {
    if let (Some(socket), Some(master)) = (&arguments.console_socket, &made.terminal) {
        foreground::send_terminal(socket, master.as_fd())?;
    }
    match &arguments.pid_file {
        Some(path) => write_pid(path, made.pid),
        None => Ok(()),
    }
}
