//! Where output goes: an attach client or a fifo, with what it has not taken yet.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use atoll_shim_protocol::{FRAME_HEADER_LEN, StreamKind, frame_header};
use rustix::io::Errno;

/// Bytes a sink may owe before the container's output waits for it.
const LIMIT: usize = 256 << 10;

/// A non-blocking receiver of output.
pub(crate) struct Sink {
    fd: OwnedFd,
    is_framed: bool,
    wants: [bool; 2],
    queue: Vec<u8>,
    sent: usize,
    is_closing: bool,
    is_gone: bool,
}

impl Sink {
    /// * `fd`: non-blocking.
    /// * `wants`: stdout, stderr.
    pub(crate) fn new(fd: OwnedFd, is_framed: bool, wants: [bool; 2]) -> Self {
        Self {
            fd,
            is_framed,
            wants,
            queue: Vec::new(),
            sent: 0,
            is_closing: false,
            is_gone: false,
        }
    }

    /// Whether output must wait.
    pub(crate) fn is_full(&self) -> bool {
        !self.is_gone && self.owed() >= LIMIT
    }

    /// Whether there is something to write.
    pub(crate) fn has_work(&self) -> bool {
        !self.is_gone && self.owed() > 0
    }

    /// Whether nothing more can or will be sent.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone || (self.is_closing && self.owed() == 0)
    }

    /// Forgets what is owed; the receiver is not there any more or too slow to wait for.
    pub(crate) fn abandon(&mut self) {
        self.is_gone = true;
        self.queue = Vec::new();
        self.sent = 0;
    }

    /// Ends after what is owed.
    pub(crate) fn close(&mut self) {
        self.is_closing = true;
    }

    /// Sends output, keeping what the receiver doesn't take at once.
    pub(crate) fn push(&mut self, stream: StreamKind, data: &[u8]) {
        if self.is_gone || self.is_closing || !self.wants[stream as usize - 1] {
            return;
        }
        if self.is_framed {
            let len = u32::try_from(data.len()).expect("a read is far below 4 GiB");
            self.push_parts(&frame_header(stream, len), data);
        } else {
            self.push_parts(&[], data);
        }
    }

    /// Sends bytes that belong to no stream.
    pub(crate) fn push_plain(&mut self, data: &[u8]) {
        self.push_parts(&[], data);
    }

    fn push_parts(&mut self, header: &[u8], data: &[u8]) {
        debug_assert!(header.len() <= FRAME_HEADER_LEN);
        let mut written = 0;
        if self.owed() == 0 {
            let parts = [IoSlice::new(header), IoSlice::new(data)];
            written = match rustix::io::writev(&self.fd, &parts) {
                Ok(count) => count,
                Err(Errno::AGAIN | Errno::INTR) => 0,
                Err(_) => return self.abandon(),
            };
        }
        let of_header = written.min(header.len());
        self.queue.extend_from_slice(&header[of_header..]);
        self.queue.extend_from_slice(&data[written - of_header..]);
    }

    /// Writes what is owed, as far as the receiver takes it.
    pub(crate) fn flush(&mut self) {
        while self.has_work() {
            match rustix::io::write(&self.fd, &self.queue[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => return self.abandon(),
            }
        }
        self.sent = 0;
        self.queue.clear();
        if self.queue.capacity() > LIMIT / 4 {
            self.queue = Vec::new();
        }
    }

    fn owed(&self) -> usize {
        self.queue.len() - self.sent
    }
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
