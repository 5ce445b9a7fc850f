//! `exec`.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::ExitCode;

use atoll_container::{Container, ExecRequest, StdioRequest};
use atoll_spec::{Capabilities, Process, Spec, User};
use atoll_sys::scheduling::NumberSet;

use crate::arguments::ExecArguments;
use crate::commands::create::write_pid;
use crate::commands::{machine, machine_exec};
use crate::foreground::{self, HostTerminal};
use crate::notify;
use crate::report::{self, Failure, Outcome};

/// runc's exit code when `exec` itself fails.
pub(super) const EXEC_FAILED: u8 = 255;

/// Runs one more program in a container below `root` and, unless detached, waits for it.
pub(crate) fn exec(root: &Path, arguments: ExecArguments) -> Outcome<ExitCode> {
    super::find(root, &arguments.id)
        .and_then(|container| match machine::keeper_of(root, &container)? {
            Some(keeper) => {
                let process = process(&container, &arguments)?;
                machine_exec::exec(root, keeper, &process, &arguments)
            }
            None => run(&container, arguments),
        })
        .map_err(|failure| failure.with_code(EXEC_FAILED).during("exec failed"))
}

fn run(container: &Container, arguments: ExecArguments) -> Outcome<ExitCode> {
    let process = process(container, &arguments)?;
    notify::check_fds(3, arguments.preserve_fds)?;
    let wants_terminal = process.terminal;
    refuse_lone_terminal(wants_terminal, &arguments)?;
    report::debug(&format!("running a process in container {}", arguments.id));
    let request = ExecRequest {
        stdio: if wants_terminal {
            StdioRequest::Terminal {
                size: foreground::first_size(arguments.console_socket.as_deref()),
            }
        } else {
            StdioRequest::Inherit
        },
        preserve_fds: arguments.preserve_fds,
        keeps_line_ends: arguments.console_socket.is_none(),
        ignore_paused: arguments.ignore_paused,
        cgroups: arguments.cgroup.clone(),
        warn: report::warn,
        ..ExecRequest::new(process)
    };
    debug_affinity(&request.process);
    let host = HostTerminal::raw_if(wants_terminal && arguments.console_socket.is_none());
    let mut executed = container.exec(request)?;
    if let (Some(socket), Some(master)) = (&arguments.console_socket, &executed.terminal) {
        foreground::send_terminal(socket, master.as_fd())?;
        executed.terminal = None;
    }
    if let Some(path) = &arguments.pid_file {
        write_pid(path, executed.pid)?;
    }
    if let Some(path) = &arguments.pidfd_socket {
        foreground::send_pidfd(path, "setns", executed.pidfd.as_fd())?;
    }
    if arguments.detach {
        return Ok(ExitCode::SUCCESS);
    }
    let code = foreground::wait(executed.pidfd.as_fd(), executed.terminal.take());
    drop(host);
    code
}

/// A detached process with a terminal needs somebody who takes that.
pub(super) fn refuse_lone_terminal(wants_terminal: bool, arguments: &ExecArguments) -> Outcome<()> {
    if !wants_terminal || !arguments.detach || arguments.console_socket.is_some() {
        return Ok(());
    }
    Err(
        Failure::new("cannot allocate tty if runc will detach without setting console socket")
            .with_hint("give --console-socket PATH, or leave out --detach"),
    )
}

/// The process to run: `--process`, else the container's own with what the options change.
fn process(container: &Container, arguments: &ExecArguments) -> Outcome<Process> {
    if let Some(path) = &arguments.process {
        let mut process = Process::load(path)?;
        process.terminal |= arguments.tty;
        return Ok(process);
    }
    if arguments.command.is_empty() {
        return Err(Failure::new("process args cannot be empty")
            .with_hint("name a program after the container's id, or give --process FILE"));
    }
    let config = container.state()?.bundle.join("config.json");
    let mut process = Spec::load(&config)?.process.unwrap_or_default();
    process.terminal = arguments.tty;
    process.args.clone_from(&arguments.command);
    process.env.extend(arguments.env.iter().cloned());
    if let Some(cwd) = &arguments.cwd {
        process.cwd.clone_from(cwd);
    }
    if let Some(user) = &arguments.user {
        process.user = User {
            additional_gids: Vec::new(),
            ..parse_user(user)?
        };
    }
    process
        .user
        .additional_gids
        .extend(&arguments.additional_gids);
    process.no_new_privileges |= arguments.no_new_privs;
    if arguments.apparmor.is_some() {
        process.apparmor_profile.clone_from(&arguments.apparmor);
    }
    if arguments.process_label.is_some() {
        process.selinux_label.clone_from(&arguments.process_label);
    }
    if !arguments.cap.is_empty() {
        let capabilities = process
            .capabilities
            .get_or_insert_with(Capabilities::default);
        for cap in &arguments.cap {
            for set in [
                &mut capabilities.bounding,
                &mut capabilities.effective,
                &mut capabilities.permitted,
            ] {
                if !set.contains(cap) {
                    set.push(cap.clone());
                }
            }
            // An ambient capability must be inheritable, which this option doesn't make it.
            if !capabilities.inheritable.is_empty() && !capabilities.ambient.contains(cap) {
                capabilities.ambient.push(cap.clone());
            }
        }
    }
    process.validate()?;
    Ok(process)
}

/// Says in the debug log on which CPUs a process begins, in the words of runc's.
fn debug_affinity(process: &Process) {
    let list = process.exec_cpu_affinity.as_ref().map(|cpus| &cpus.initial);
    if let Some(cpus) = list.and_then(|list| NumberSet::parse(list)) {
        report::debug(&format!("affinity: {:#x}", cpus.first_word()));
    }
}

/// Reads `UID[:GID]`; the group is 0 when absent, as runc has it.
fn parse_user(text: &str) -> Outcome<User> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, "0"));
    let number = |part: &str| {
        part.parse::<u32>().map_err(|_| {
            Failure::new(format!("invalid user {text:?}"))
                .with_hint("give numbers: --user UID[:GID]")
        })
    };
    Ok(User {
        uid: number(uid)?,
        gid: number(gid)?,
        ..User::default()
    })
}
