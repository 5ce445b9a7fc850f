//! The streams of a process: connections to the host, and the process's side.

use std::fs::File;
use std::os::fd::OwnedFd;

use atoll_container::StdioRequest;
use atoll_guest::protocol::{self, Greeting, PORT, StreamKind, StreamName, Streams};
use atoll_sys::vsock;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::nonblocking;
use super::pump::Pump;

/// Connects to the host and says what the connection is; non-blocking from then on.
pub(super) fn connect(greeting: &Greeting) -> Result<OwnedFd, Errno> {
    let socket = vsock::connect(vsock::HOST, PORT)?;
    let line = protocol::line(greeting).map_err(|_| Errno::MSGSIZE)?;
    let mut rest = &line[..];
    while !rest.is_empty() {
        rest = &rest[rustix::io::write(&socket, rest)?..];
    }
    nonblocking(socket)
}

/// Both sides of a process's streams.
pub(super) struct Opened {
    /// The process's.
    pub(super) process: StdioRequest,
    /// What moves their bytes; a terminal's come when there is one.
    pub(super) pumps: Vec<Pump>,
    /// The connection for a terminal.
    pub(super) terminal: Option<OwnedFd>,
}

/// Opens the streams of the process named `process` in `container`, and connects them.
pub(super) fn open(container: &str, process: &str, streams: Streams) -> Result<Opened, Errno> {
    let dial = |kind| {
        connect(&Greeting::Stream(StreamName {
            container: container.to_owned(),
            process: process.to_owned(),
            kind,
        }))
    };
    let mut pumps = Vec::new();
    if streams.terminal {
        return Ok(Opened {
            process: StdioRequest::Terminal { size: streams.size },
            pumps,
            terminal: Some(dial(StreamKind::Terminal)?),
        });
    }
    let mut output = |kind| -> Result<OwnedFd, Errno> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        pumps.push(Pump::new(nonblocking(read)?, dial(kind)?));
        Ok(write)
    };
    let stdout = output(StreamKind::Stdout)?;
    let stderr = output(StreamKind::Stderr)?;
    let stdin = if streams.stdin {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        pumps.push(Pump::new(dial(StreamKind::Stdin)?, nonblocking(write)?));
        read
    } else {
        File::open("/dev/null").map_err(|_| Errno::NODEV)?.into()
    };
    Ok(Opened {
        process: StdioRequest::Fds {
            stdin,
            stdout,
            stderr,
        },
        pumps,
        terminal: None,
    })
}

/// Joins a terminal's master and its connection.
pub(super) fn join(master: &OwnedFd, socket: OwnedFd) -> Result<[Pump; 2], Errno> {
    let duplicate = |fd: &OwnedFd| fd.try_clone().map_err(|_| Errno::MFILE);
    // The master's flag is shared by its duplicates.
    rustix::io::ioctl_fionbio(master, true)?;
    let back = duplicate(&socket)?;
    Ok([
        Pump::new(duplicate(master)?, socket),
        Pump::new(back, duplicate(master)?),
    ])
}
