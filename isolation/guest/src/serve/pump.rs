//! Bytes from one descriptor to another, as the poll loop lets them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::Shutdown;

/// Bytes moved at once; what a pump keeps at most.
const BUFFER: usize = 32 << 10;
/// Bytes moved at once of a stream that says little: memory that is new costs a fault for each page.
const LITTLE: usize = 2 << 10;
/// Buffers moved before others get their turn.
const TURNS: usize = 4;

/// One direction of a stream. Both ends are non-blocking.
pub(super) struct Pump {
    from: OwnedFd,
    to: OwnedFd,
    buffer: Vec<u8>,
    written: usize,
    /// It filled its buffer.
    says_much: bool,
}

impl Pump {
    pub(super) fn new(from: OwnedFd, to: OwnedFd) -> Self {
        Self {
            from,
            to,
            buffer: Vec::new(),
            written: 0,
            says_much: false,
        }
    }

    /// What to wait for.
    pub(super) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        if self.written < self.buffer.len() {
            (self.to.as_fd(), PollFlags::OUT)
        } else {
            (self.from.as_fd(), PollFlags::IN)
        }
    }

    /// Moves what can be moved; whether there may be more later. At the end the receiver is told.
    pub(super) fn advance(&mut self) -> bool {
        for _ in 0..TURNS {
            match self.step() {
                Ok(true) => {}
                Ok(false) => {
                    self.end();
                    return false;
                }
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                // A terminal whose last user is gone says EIO; a receiver that is gone, EPIPE.
                Err(_) => {
                    self.end();
                    return false;
                }
            }
        }
        true
    }

    /// Reads or writes once; false at the end.
    fn step(&mut self) -> Result<bool, Errno> {
        if self.written == self.buffer.len() {
            self.written = 0;
            let room = if self.says_much { BUFFER } else { LITTLE };
            self.buffer.resize(room, 0);
            let count = rustix::io::read(&self.from, &mut self.buffer[..]);
            self.buffer.truncate(*count.as_ref().unwrap_or(&0));
            if count? == 0 {
                return Ok(false);
            }
            self.says_much = self.buffer.len() == room;
        }
        self.written += rustix::io::write(&self.to, &self.buffer[self.written..])?;
        if self.written == self.buffer.len() && !self.says_much {
            // Most streams are silent most of the time.
            self.buffer = Vec::new();
            self.written = 0;
        }
        Ok(true)
    }

    /// Closes the receiver for all who have it: a terminal's socket is held twice. Pipes are closed by being dropped.
    fn end(&self) {
        let _ = rustix::net::shutdown(&self.to, Shutdown::Both);
    }
}
