//! `create` and `run`.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use atoll_container::{CreateRequest, Created, StartBy, StdioRequest, create as create_container};
use atoll_shim_protocol::machine::ISOLATION;
use atoll_spec::Spec;

use crate::arguments::{CreateArguments, RunArguments};
use crate::foreground::{self, HostTerminal};
use crate::report::{self, Failure, Outcome};

/// Makes a container whose program waits for `start`.
pub(crate) fn create(root: &Path, systemd: bool, arguments: &CreateArguments) -> Outcome<()> {
    let spec = load(&arguments.bundle)?;
    if wants_terminal(&spec) && arguments.console_socket.is_none() {
        return Err(Failure::new(
            "cannot allocate tty if runc will detach without setting console socket",
        )
        .with_hint("give --console-socket PATH, or use `run` without --detach"));
    }
    let made = make(root, systemd, arguments, &spec, StartBy::Anyone)?;
    hand_over(&made, arguments).map_err(|failure| undo(&made, failure))
}

/// Makes a container, runs its program, and, unless detached, waits for it and cleans up.
pub(crate) fn run(root: &Path, systemd: bool, arguments: &RunArguments) -> Outcome<ExitCode> {
    let spec = load(&arguments.create.bundle)?;
    let has_socket = arguments.create.console_socket.is_some();
    if wants_terminal(&spec) && arguments.detach && !has_socket {
        return Err(Failure::new(
            "cannot allocate tty if runc will detach without setting console socket",
        )
        .with_hint("give --console-socket PATH, or leave out --detach"));
    }
    let mut made = make(root, systemd, &arguments.create, &spec, StartBy::Caller)?;
    hand_over(&made, &arguments.create).map_err(|failure| undo(&made, failure))?;
    let terminal = if has_socket {
        None
    } else {
        made.init.terminal.take()
    };
    let host = HostTerminal::raw_if(terminal.is_some());
    // Before the program can write.
    terminal.iter().for_each(foreground::keep_line_ends);
    if let Err(error) = made.init.start() {
        drop(host);
        return Err(undo(&made, error.into()));
    }
    if arguments.detach {
        return Ok(ExitCode::SUCCESS);
    }
    let code = foreground::wait(made.init.pidfd.as_fd(), terminal)
        .map_err(|error| undo(&made, Failure::io("cannot wait for the container", &error)));
    drop(host);
    let code = code?;
    if !arguments.keep {
        made.container.delete(true)?;
    }
    Ok(code)
}

fn load(bundle: &Path) -> Outcome<Spec> {
    let spec = Spec::load(&bundle.join("config.json"))?;
    let annotation = spec.annotations.get(ISOLATION).map_or("", String::as_str);
    let names_machine = !matches!(annotation, "" | "default" | "process");
    let asker = match (names_machine, &spec.vm) {
        (true, _) => format!("annotation {ISOLATION}={annotation}"),
        (false, Some(_)) => "vm".to_owned(),
        (false, None) => return Ok(spec),
    };
    // Of a wall that was asked for, no weaker one is made.
    Err(Failure::new(format!(
        "the bundle asks for another wall ({asker}), and this program makes containers of processes only"
    ))
    .with_hint(
        "a machine needs a shim that stays with it: run it by containerd with the runtime io.containerd.atoll.v2, or by `docker run --isolation=vm`",
    ))
}

fn wants_terminal(spec: &Spec) -> bool {
    spec.process
        .as_ref()
        .is_some_and(|process| process.terminal)
}

fn make(
    root: &Path,
    systemd_cgroup: bool,
    arguments: &CreateArguments,
    spec: &Spec,
    start_by: StartBy,
) -> Outcome<Created> {
    let request = CreateRequest {
        stdio: if wants_terminal(spec) {
            StdioRequest::Terminal {
                size: foreground::size_of_own_terminal(),
            }
        } else {
            StdioRequest::Inherit
        },
        preserve_fds: arguments.preserve_fds,
        no_pivot: arguments.no_pivot,
        no_new_keyring: arguments.no_new_keyring,
        systemd_cgroup,
        start_by,
        warn: report::warn,
        ..CreateRequest::new(
            arguments.id.parse()?,
            root.to_owned(),
            absolute(&arguments.bundle)?,
        )
    };
    report::debug(&format!("making container {}", request.id));
    let created = create_container(request, spec)?;
    report::debug(&format!("its first process is {}", created.init.pid));
    Ok(created)
}

fn absolute(path: &Path) -> Outcome<PathBuf> {
    path.canonicalize()
        .map_err(|error| Failure::io(format!("cannot open bundle {}", path.display()), &error))
}

/// Gives the terminal and the process id to those who asked for them.
fn hand_over(made: &Created, arguments: &CreateArguments) -> Outcome<()> {
    if let (Some(socket), Some(master)) = (&arguments.console_socket, &made.init.terminal) {
        foreground::send_terminal(socket, master.as_fd())?;
    }
    if let Some(path) = &arguments.pid_file {
        write_pid(path, made.init.pid)?;
    }
    if let Some(path) = &arguments.pidfd_socket {
        foreground::send_pidfd(path, "standard", made.init.pidfd.as_fd())?;
    }
    Ok(())
}

/// Writes `pid` to `path`, whole or not at all.
pub(crate) fn write_pid(path: &Path, pid: u32) -> Outcome<()> {
    atoll_sys::file::replace(path, pid.to_string().as_bytes(), 0o644)
        .map_err(|error| Failure::io(format!("cannot write {}", path.display()), &error))
}

/// Removes what was made so far; `failure` stays what is reported.
fn undo(made: &Created, failure: Failure) -> Failure {
    match made.container.delete(true) {
        Ok(()) => failure,
        Err(error) => failure.with_hint(format!(
            "cleaning up failed too ({error}); try: atoll-runtime delete --force {}",
            made.container.id()
        )),
    }
}
