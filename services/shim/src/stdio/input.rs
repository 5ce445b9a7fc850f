//! The way into the process: stdin's pipe or the terminal.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

/// Bytes on their way into the process.
#[derive(Default)]
pub(crate) struct Input {
    pending: Vec<u8>,
    sent: usize,
    ends_after_pending: bool,
}

/// What became of writing to the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Everything is written.
    Done,
    /// The process does not read.
    Waiting,
    /// Everything is written and it was the last.
    Ended,
    /// Nobody can read any more.
    Broken,
}

impl Input {
    /// Whether new bytes may be taken from clients.
    pub(crate) fn is_free(&self) -> bool {
        self.pending.is_empty() && !self.ends_after_pending
    }

    /// Nothing more comes after what is pending.
    pub(crate) fn end(&mut self) {
        self.ends_after_pending = true;
    }

    /// Writes `data`, keeping what the process doesn't take; only when [`Self::is_free`].
    pub(crate) fn push(&mut self, target: &OwnedFd, data: &[u8]) -> Progress {
        debug_assert!(self.is_free());
        let written = match rustix::io::write(target, data) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => return Progress::Broken,
        };
        if written == data.len() {
            return Progress::Done;
        }
        self.pending.extend_from_slice(&data[written..]);
        Progress::Waiting
    }

    /// Goes on with what is pending.
    pub(crate) fn flush(&mut self, target: impl AsFd) -> Progress {
        while self.sent < self.pending.len() {
            match rustix::io::write(&target, &self.pending[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Progress::Waiting,
                Err(_) => return Progress::Broken,
            }
        }
        self.sent = 0;
        self.pending = Vec::new();
        if self.ends_after_pending {
            Progress::Ended
        } else {
            Progress::Done
        }
    }

    /// Whether bytes wait for the process.
    pub(crate) fn has_work(&self) -> bool {
        !self.pending.is_empty()
    }
}
