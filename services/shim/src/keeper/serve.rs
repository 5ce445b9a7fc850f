//! The keeper's side: a shim for one machine.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use atoll_shim_protocol::spawn::KEEPER_SOCKET;
use atoll_sys::signal_fd::SignalFd;

use crate::events::Events;
use crate::failure::Failure;
use crate::machine;
use crate::process::Waiter;
use crate::server::{Options, Shim};

/// Signals that whoever stands for a container's process passes on to it; SIGWINCH as its terminal's new size.
pub const PASSED_ON: [i32; 9] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGCONT,
    libc::SIGWINCH,
];

/// Who asks for what a signal asks for. Connections have other numbers.
const NOBODY: Waiter = Waiter {
    connection: 0,
    stream: 0,
};

/// Serves whoever has the other end of stdin, then everybody, until the container has ended; gives its exit code.
pub(crate) fn keep(state_root: PathBuf) -> io::Result<ExitCode> {
    atoll_sys::allocator::keep_small();
    let socket = UnixStream::from(crate::take_stdin()?);
    socket.set_nonblocking(true)?;
    // A session of its own can have the container's terminal.
    let _ = rustix::process::setsid();
    let signals = SignalFd::new(&[&[libc::SIGCHLD], &PASSED_ON[..]].concat())?;
    atoll_sys::process::become_subreaper()?;
    let options = Options {
        held: Vec::new(),
        state_root,
        tells_statuses: true,
        keeps: true,
    };
    let mut shim = Shim::new(options, signals, None, Events::new(None));
    shim.connected(socket);
    shim.run();
    Ok(shim.exit_code())
}

impl Shim {
    /// Once the container is made: everybody may ask, and the state names this process. Nothing without being a keeper.
    pub(crate) fn keep(&mut self, id: &str) -> Result<(), Failure> {
        if !self.options.keeps {
            return Ok(());
        }
        let listener = machine::listen(&socket_of(&self.options.state_root, id))?;
        if let Some(task) = self.find(id) {
            task.kept_by(std::process::id())?;
        }
        self.listen(listener);
        Ok(())
    }

    /// Passes a signal on to the container. One that is not ready for it, or has ended, does not hear of it.
    pub(crate) fn pass_on(&mut self, signal: i32) {
        let (Some(task), Some(machine)) = (self.tasks.first_mut(), self.machine.as_deref_mut())
        else {
            return;
        };
        let _ = match (signal, task.init.stdio.size_of_own_terminal()) {
            (libc::SIGWINCH, None) => Ok(false),
            (libc::SIGWINCH, Some((rows, columns))) => {
                task.resize_in_machine(machine, "", rows, columns, NOBODY)
            }
            _ => task.kill_in_machine(machine, "", signal.cast_unsigned(), false, NOBODY),
        };
    }

    /// The first process's, once it has ended.
    fn exit_code(&mut self) -> ExitCode {
        let exit = self.tasks.first().and_then(|task| task.init.exit());
        exit.map_or(ExitCode::FAILURE, |exit| {
            ExitCode::from(u8::try_from(exit.code).unwrap_or(u8::MAX))
        })
    }
}

/// Where the keeper of container `id` listens.
pub(super) fn socket_of(state_root: &Path, id: &str) -> PathBuf {
    state_root.join(id).join(KEEPER_SOCKET)
}
