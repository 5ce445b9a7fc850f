//! Attach clients: the request line, then output to them and input from them.
//!
//! Format page: docs/formats/attach.md.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use atoll_shim_protocol::{AttachReply, AttachRequest, Framing};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::sockopt;

use super::sink::Sink;

/// Longest request line.
const MAX_REQUEST: usize = 4096;

/// Room in the socket for output, so that a burst costs few wake-ups.
const SEND_BUFFER: usize = 1 << 20;

/// The socket clients connect to; its file goes when this is dropped.
pub(crate) struct AttachSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AttachSocket {
    /// Listens at `path`, replacing what a dead shim left there.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = atoll_sys::unix::bind_at(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            path: path.to_path_buf(),
        })
    }

    /// Takes one waiting connection.
    pub(crate) fn accept(&self) -> Option<Client> {
        let (socket, _) = self.listener.accept().ok()?;
        socket.set_nonblocking(true).ok()?;
        // Less room only means more wake-ups.
        let _ = sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER);
        Some(Client {
            phase: Phase::Asking {
                socket: socket.into(),
                line: Vec::new(),
            },
        })
    }
}

impl Drop for AttachSocket {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

impl AsFd for AttachSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// One connection.
pub(crate) struct Client {
    phase: Phase,
}

enum Phase {
    /// The request line isn't complete.
    Asking { socket: OwnedFd, line: Vec<u8> },
    /// Registered.
    Attached {
        sink: Sink,
        /// Its bytes are input, until it ends.
        sends: bool,
        /// Bytes that came right behind the request line.
        early: Vec<u8>,
    },
    /// To be forgotten.
    Gone,
}

/// What reading from a client gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// So many bytes of input are in the buffer.
    Input(usize),
    /// Its input ended.
    EndOfInput,
    /// Nothing now.
    Nothing,
}

impl Client {
    /// The connection, for polling; `None` once it is gone.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.phase {
            Phase::Asking { socket, .. } => Some(socket.as_fd()),
            Phase::Attached { sink, .. } if !sink.is_gone() => Some(sink.as_fd()),
            _ => None,
        }
    }

    /// Its output side, once attached.
    pub(crate) fn sink(&mut self) -> Option<&mut Sink> {
        match &mut self.phase {
            Phase::Attached { sink, .. } => Some(sink),
            _ => None,
        }
    }

    /// As [`Self::sink`], to look at.
    pub(crate) fn sink_state(&self) -> Option<&Sink> {
        match &self.phase {
            Phase::Attached { sink, .. } => Some(sink),
            _ => None,
        }
    }

    /// Whether it can be forgotten.
    pub(crate) fn is_gone(&self) -> bool {
        match &self.phase {
            Phase::Asking { .. } => false,
            Phase::Attached { sink, .. } => sink.is_gone(),
            Phase::Gone => true,
        }
    }

    /// What to wait for, given whether the process takes input now; `None` for nothing at all.
    ///
    /// A client whose input has to wait is left alone: its hang-up would wake us again and again.
    pub(crate) fn interest(&self, takes_input: bool) -> Option<PollFlags> {
        match &self.phase {
            Phase::Asking { .. } => Some(PollFlags::IN),
            Phase::Attached { sink, sends, early } => {
                let mut flags = PollFlags::empty();
                if *sends && takes_input {
                    flags |= PollFlags::IN;
                }
                // Early input is not in the socket: only being writable wakes us for it.
                if sink.has_work() || (takes_input && !early.is_empty()) {
                    flags |= PollFlags::OUT;
                }
                // Without input only its departure matters, and that is reported unasked.
                (!flags.is_empty() || !sends).then_some(flags)
            }
            Phase::Gone => None,
        }
    }

    /// Whether [`Self::receive`] makes sense now.
    pub(crate) fn wants_read(&self, takes_input: bool) -> bool {
        match &self.phase {
            Phase::Asking { .. } => true,
            Phase::Attached { sends, .. } => *sends && takes_input,
            Phase::Gone => false,
        }
    }

    /// Whether input waits in memory rather than in the socket.
    pub(crate) fn has_early_input(&self) -> bool {
        matches!(&self.phase, Phase::Attached { early, .. } if !early.is_empty())
    }

    /// Reads what the client sent.
    ///
    /// * `is_over`: the process has ended, so a new client is answered and closed.
    pub(crate) fn receive(&mut self, buffer: &mut [u8], is_over: bool) -> Received {
        if let Phase::Attached { early, .. } = &mut self.phase
            && !early.is_empty()
        {
            let count = early.len().min(buffer.len());
            buffer[..count].copy_from_slice(&early[..count]);
            early.drain(..count);
            return Received::Input(count);
        }
        let Some(fd) = self.fd() else {
            return Received::Nothing;
        };
        let count = match rustix::io::read(fd, &mut *buffer) {
            Ok(0) => return self.end_of_input(),
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Received::Nothing,
            Err(_) => {
                let ended = self.end_of_input();
                self.phase = Phase::Gone;
                return ended;
            }
        };
        match &mut self.phase {
            Phase::Attached { sends: true, .. } => Received::Input(count),
            Phase::Asking { line, .. } => {
                line.extend_from_slice(&buffer[..count]);
                self.try_attach(is_over);
                Received::Nothing
            }
            _ => Received::Nothing,
        }
    }

    fn end_of_input(&mut self) -> Received {
        match &mut self.phase {
            Phase::Attached { sends, .. } if *sends => {
                *sends = false;
                Received::EndOfInput
            }
            // It sends nothing and has shut down: when it is gone for good, writing tells.
            Phase::Attached { .. } => Received::Nothing,
            _ => {
                self.phase = Phase::Gone;
                Received::Nothing
            }
        }
    }

    /// The other side closed both directions.
    pub(crate) fn hang_up(&mut self) {
        if let Phase::Attached { sink, .. } = &mut self.phase {
            sink.abandon();
        } else {
            self.phase = Phase::Gone;
        }
    }

    /// Whether its input has not ended.
    pub(crate) fn sends(&self) -> bool {
        matches!(&self.phase, Phase::Attached { sends: true, .. })
    }

    fn try_attach(&mut self, is_over: bool) {
        let Phase::Asking { line, .. } = &self.phase else {
            return;
        };
        let end = line.iter().position(|byte| *byte == b'\n');
        if end.is_none() && line.len() <= MAX_REQUEST {
            return;
        }
        let Phase::Asking { socket, line } = std::mem::replace(&mut self.phase, Phase::Gone) else {
            return;
        };
        let request = match end {
            Some(end) => serde_json::from_slice::<AttachRequest>(&line[..end])
                .map_err(|error| format!("bad attach request: {error}")),
            None => Err(format!("attach request is longer than {MAX_REQUEST} bytes")),
        };
        let (reply, request) = match request {
            Ok(request) => (
                AttachReply {
                    ok: true,
                    error: None,
                },
                Some(request),
            ),
            Err(error) => (
                AttachReply {
                    ok: false,
                    error: Some(error),
                },
                None,
            ),
        };
        let mut text = serde_json::to_vec(&reply).unwrap_or_default();
        text.push(b'\n');
        let wants = request
            .as_ref()
            .map_or([false; 2], |request| [request.stdout, request.stderr]);
        let is_framed = request
            .as_ref()
            .is_some_and(|request| request.framing == Framing::Multiplexed);
        let mut sink = Sink::new(socket, is_framed, wants);
        sink.push_plain(&text);
        let sends = request.as_ref().is_some_and(|request| request.stdin) && !is_over;
        if request.is_none() || is_over {
            sink.close();
        }
        let early = match end {
            Some(end) if sends => line[end + 1..].to_vec(),
            _ => Vec::new(),
        };
        self.phase = Phase::Attached { sink, sends, early };
    }
}
