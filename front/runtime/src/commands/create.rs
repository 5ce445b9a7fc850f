//! `create` and `run`.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use atoll_container::{
    Container, CreateRequest, Created, InitProcess, StartBy, StdioRequest,
    create as create_container,
};
use atoll_shim::keeper::{self, Keeper};
use atoll_spec::Spec;

use crate::arguments::{CreateArguments, RunArguments};
use crate::commands::machine;
use crate::foreground::{self, HostTerminal};
use crate::notify::{self, Manager, Relay};
use crate::report::{self, Failure, Outcome};

/// A container that was made, behind whichever wall.
pub(super) struct Made {
    pub(super) container: Container,
    /// The process that stands for it.
    pub(super) pid: u32,
    pub(super) pidfd: OwnedFd,
    /// Its terminal's master.
    pub(super) terminal: Option<OwnedFd>,
    pub(super) starter: Starter,
}

/// Who starts a container.
pub(super) enum Starter {
    Init(InitProcess),
    Keeper(Keeper),
}

impl Made {
    /// One that is behind no other wall.
    pub(super) fn of(created: Created) -> Outcome<Self> {
        let mut init = created.init;
        let pidfd = init.pidfd.try_clone();
        Ok(Self {
            pid: init.pid,
            pidfd: pidfd.map_err(|error| Failure::io("cannot keep the pidfd", &error))?,
            terminal: init.terminal.take(),
            container: created.container,
            starter: Starter::Init(init),
        })
    }

    fn start(&mut self) -> Outcome<()> {
        match &mut self.starter {
            Starter::Init(init) => Ok(init.start()?),
            Starter::Keeper(keeper) => Ok(keeper.start("")?),
        }
    }
}

/// Makes a container whose program waits for `start`.
pub(crate) fn create(root: &Path, systemd: bool, arguments: &CreateArguments) -> Outcome<()> {
    let mut spec = load(&arguments.bundle)?;
    if wants_terminal(&spec) && arguments.console_socket.is_none() {
        return Err(Failure::new(
            "cannot allocate tty if runc will detach without setting console socket",
        )
        .with_hint("give --console-socket PATH, or use `run` without --detach"));
    }
    let (made, _) = make(root, systemd, arguments, &mut spec, StartBy::Anyone)?;
    hand_over(&made, arguments).map_err(|failure| undo(&made, failure))
}

/// Makes a container, runs its program, and, unless detached, waits for it and cleans up.
pub(crate) fn run(root: &Path, systemd: bool, arguments: &RunArguments) -> Outcome<ExitCode> {
    let mut spec = load(&arguments.create.bundle)?;
    let has_socket = arguments.create.console_socket.is_some();
    if wants_terminal(&spec) && arguments.detach && !has_socket {
        return Err(Failure::new(
            "cannot allocate tty if runc will detach without setting console socket",
        )
        .with_hint("give --console-socket PATH, or leave out --detach"));
    }
    let (mut made, manager) = make(root, systemd, &arguments.create, &mut spec, StartBy::Caller)?;
    let relay = hand_over(&made, &arguments.create).and_then(|()| {
        let folder = CreateRequest::notify_folder(root, made.container.id());
        manager
            .map(|manager| Relay::listen(manager, &folder))
            .transpose()
    });
    let relay = relay.map_err(|failure| undo(&made, failure))?;
    let terminal = made.terminal.take().filter(|_| !has_socket);
    let host = HostTerminal::raw_if(terminal.is_some());
    // Before the program can write.
    terminal.iter().for_each(foreground::keep_line_ends);
    if let Err(failure) = made.start() {
        drop(host);
        return Err(undo(&made, failure));
    }
    if arguments.detach {
        if let Some(relay) = relay {
            relay.pass_on(made.pidfd.as_fd(), made.pid);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(relay) = relay
        && let Ok(pidfd) = made.pidfd.try_clone()
    {
        // The manager watches who waits for the container.
        std::thread::spawn(move || relay.pass_on(pidfd.as_fd(), std::process::id()));
    }
    finish(&made, terminal, host, arguments.keep)
}

/// Gives the container what a service manager gave us: a socket to say that it is ready, and sockets to listen at.
fn prepare(
    root: &Path,
    arguments: &CreateArguments,
    spec: &mut Spec,
    has_manager: bool,
) -> Outcome<()> {
    let listening = notify::listen_fds();
    notify::check_fds(3 + listening, arguments.preserve_fds)?;
    if let Some(process) = &mut spec.process {
        notify::add_listen_fds(process, listening);
    }
    if has_manager {
        let root = std::path::absolute(root);
        let root = root.map_err(|error| Failure::io("cannot find the state root", &error))?;
        let folder = CreateRequest::notify_folder(&root, &arguments.id.parse()?);
        notify::add_to(spec, folder);
    }
    Ok(())
}

/// Waits for a container whose program runs, and removes it unless `keep`.
///
/// * `terminal`: passed through.
pub(super) fn finish(
    made: &Made,
    terminal: Option<OwnedFd>,
    host: HostTerminal,
    keep: bool,
) -> Outcome<ExitCode> {
    let code = foreground::wait(made.pidfd.as_fd(), terminal).map_err(|error| undo(made, error));
    drop(host);
    let code = code?;
    if !keep {
        made.container.delete(true)?;
    }
    Ok(code)
}

pub(super) fn load(bundle: &Path) -> Outcome<Spec> {
    Ok(Spec::load(&bundle.join("config.json"))?)
}

pub(super) fn wants_terminal(spec: &Spec) -> bool {
    spec.process
        .as_ref()
        .is_some_and(|process| process.terminal)
}

/// Makes the container; also gives the service manager whom it is to tell that it is ready. A machine's kernel keeps it from
/// that.
fn make(
    root: &Path,
    systemd_cgroup: bool,
    arguments: &CreateArguments,
    spec: &mut Spec,
    start_by: StartBy,
) -> Outcome<(Made, Option<Manager>)> {
    if keeper::wants_machine(spec)? {
        let made = machine::make(root, systemd_cgroup, arguments, spec)?;
        return Ok((made, None));
    }
    let manager = Manager::of_environment();
    prepare(root, arguments, spec, manager.is_some())?;
    let request = CreateRequest {
        stdio: if wants_terminal(spec) {
            StdioRequest::Terminal {
                size: foreground::first_size(arguments.console_socket.as_deref()),
            }
        } else {
            StdioRequest::Inherit
        },
        preserve_fds: arguments.preserve_fds.saturating_add(notify::listen_fds()),
        has_notify_folder: manager.is_some(),
        no_pivot: arguments.no_pivot,
        no_new_keyring: arguments.no_new_keyring,
        systemd_cgroup,
        start_by,
        warn: report::warn,
        debug: report::debug,
        ..CreateRequest::new(
            arguments.id.parse()?,
            root.to_owned(),
            absolute(&arguments.bundle)?,
        )
    };
    report::debug(&format!("making container {}", request.id));
    let created = create_container(request, spec)?;
    report::debug(&format!("its first process is {}", created.init.pid));
    Ok((Made::of(created)?, manager))
}

pub(super) fn absolute(path: &Path) -> Outcome<PathBuf> {
    path.canonicalize()
        .map_err(|error| Failure::io(format!("cannot open bundle {}", path.display()), &error))
}

/// Gives the terminal and the process id to those who asked for them.
fn hand_over(made: &Made, arguments: &CreateArguments) -> Outcome<()> {
    if let (Some(socket), Some(master)) = (&arguments.console_socket, &made.terminal) {
        foreground::send_terminal(socket, master.as_fd())?;
    }
    if let Some(path) = &arguments.pid_file {
        write_pid(path, made.pid)?;
    }
    if let Some(path) = &arguments.pidfd_socket {
        foreground::send_pidfd(path, "standard", made.pidfd.as_fd())?;
    }
    Ok(())
}

/// Writes `pid` to `path`, whole or not at all.
pub(crate) fn write_pid(path: &Path, pid: u32) -> Outcome<()> {
    atoll_sys::file::replace(path, pid.to_string().as_bytes(), 0o644)
        .map_err(|error| Failure::io(format!("cannot write {}", path.display()), &error))
}

/// Removes what was made so far; `failure` stays what is reported.
pub(super) fn undo(made: &Made, failure: Failure) -> Failure {
    match made.container.delete(true) {
        Ok(()) => failure,
        Err(error) => failure.with_hint(format!(
            "cleaning up failed too ({error}); try: atoll-runtime delete --force {}",
            made.container.id()
        )),
    }
}
