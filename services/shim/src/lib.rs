//! The shim: one small process per container, or per pod, speaking containerd's Task API.
//!
//! ```text
//! engine or containerd ── ttrpc: Create, Start, Wait, … ──▶ ┌──────┐ ── isolation/container ──▶ container
//! engine's clients ────── attach.sock ────────────────────▶ │ poll │ ◀── pipes or terminal ───── its processes
//! containerd ◀─────────── events (ttrpc) ────────────────── │ loop │ ──▶ json-file log, fifos
//! engine, also later ◀─── exit.json ─────────────────────── └──────┘ ◀── SIGCHLD, OOM notice
//! ```
//!
//! **Threads**: one. Every request is answered by the poll loop; `Wait` is an answer that comes
//! later. Making, executing and freezing are done inside the loop and take milliseconds. A pod's network namespace is looked
//! at in another, for a moment: entering one is a thread's matter.
//!
//! **Signals**: SIGCHLD is read from a descriptor and reaps every child, also orphans of the
//! containers (the shim is a subreaper). SIGTERM and SIGINT are taken and ignored: a shim ends by
//! `Shutdown` when its last container is deleted, or when the last connection closes after that. SIGPIPE is ignored. A
//! [`keeper`] is another: it passes signals on, and ends with its container.
//!
//! **When neighbours die**: the engine or containerd: nothing happens, output goes on being logged,
//! `exit.json` waits for the next one. An attach client: it is forgotten. The container: its output
//! is read to the end (at most 2 s of silence when a descendant holds it open), the exit recorded,
//! then reported. The shim itself (kill -9): the container lives on without log; whoever started
//! the shim sees its socket close and removes the container (`delete`, or
//! [`atoll_container::Container::delete`]).
//!
//! Entry point: [`main`].

#![forbid(unsafe_code)]

mod arguments;
mod checkpoint;
mod clock;
mod command;
mod connection;
mod events;
mod failure;
mod in_machine;
pub mod keeper;
mod machine;
mod metrics;
mod pod;
mod process;
mod publisher;
mod server;
mod service;
mod stdio;
mod task;

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use atoll_shim_protocol::spawn;
use atoll_sys::signal_fd::SignalFd;

use arguments::{Arguments, Command};
use events::Events;
use publisher::Publisher;
use server::{Options, Shim};

/// Runs `containerd-shim-atoll-v2` with the process's own command line.
pub fn main() -> ExitCode {
    let arguments = match arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(message) => {
            report(format_args!("{message}"));
            return ExitCode::FAILURE;
        }
    };
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            report(format_args!("{error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    let root = state_root(&arguments.namespace);
    if arguments.prints_version {
        let text = format!("{} {}\n", spawn::PROGRAM, env!("CARGO_PKG_VERSION"));
        command::print(text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    match arguments.command {
        Command::Start => command::print(command::start(arguments)?.as_bytes())?,
        Command::Delete => command::print(&command::delete(arguments, &root)?)?,
        Command::Serve => serve(arguments, root)?,
        Command::Keep => return keeper::keep(root),
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(arguments: &Arguments, state_root: PathBuf) -> io::Result<()> {
    atoll_sys::allocator::keep_small();
    let held = take_held()?;
    let socket = std::env::var_os(spawn::LISTEN_ON_STDIN_ENV).map(PathBuf::from);
    let listener = if socket.is_some() {
        let listener = take_stdin()?;
        // Leads a session of its own, whoever started it.
        let _ = rustix::process::setsid();
        listener
    } else {
        atoll_sys::inherited::take(spawn::LISTEN_FD)?
    };
    let listener = UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    let signals = SignalFd::new(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT])?;
    atoll_sys::process::become_subreaper()?;
    let publisher = std::env::var("TTRPC_ADDRESS")
        .ok()
        .filter(|address| !address.is_empty())
        .map(|address| Publisher::new(&address, &arguments.namespace));
    let options = Options {
        state_root,
        tells_statuses: arguments.address.is_empty(),
        keeps: false,
        held,
    };
    let events = Events::new(publisher);
    Shim::new(options, signals, Some(listener), events).run();
    // An engine removes the bundle with the socket in it, and may have made both anew by now for the next run.
    if let Some(path) = socket.filter(|_| !arguments.address.is_empty()) {
        drop(fs::remove_file(path));
    }
    Ok(())
}

/// The descriptors the engine has us keep; what else is open was another container's.
fn take_held() -> io::Result<Vec<OwnedFd>> {
    let Ok(text) = std::env::var(spawn::HELD_ENV) else {
        return Ok(Vec::new());
    };
    let numbers: Vec<i32> = text
        .split(',')
        .filter_map(|word| word.parse().ok())
        .collect();
    // Kernels before 5.9 can't; then a port may stay taken longer than it should.
    let _ = atoll_sys::inherited::close_others(&numbers);
    let taken = numbers.into_iter().map(atoll_sys::inherited::take);
    Ok(taken.collect::<Result<_, _>>()?)
}

/// The socket that is stdin; `/dev/null` takes its place.
fn take_stdin() -> io::Result<OwnedFd> {
    let fd = atoll_sys::inherited::take(0)?;
    let moved = fd.try_clone()?;
    drop(fd);
    // The lowest free number is 0.
    let null = fs::File::open("/dev/null")?;
    std::mem::forget(null);
    Ok(moved)
}

/// Folder of container states: the engine says it, under containerd each namespace has its own.
fn state_root(namespace: &str) -> PathBuf {
    std::env::var_os(spawn::STATE_ROOT_ENV).map_or_else(
        || Path::new(spawn::DEFAULT_STATE_ROOT).join(namespace),
        PathBuf::from,
    )
}

/// Writes a line to the shim's log. A log that takes nothing is no reason to fail.
fn report(message: fmt::Arguments<'_>) {
    let line = format!("{}: {message}\n", spawn::PROGRAM);
    drop(io::stderr().write_all(line.as_bytes()));
}
