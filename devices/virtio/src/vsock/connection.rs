//! One stream between a guest's port and a Unix socket.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown, SocketAddrUnix};

use super::packet::{Header, SHUT_RECEIVE, SHUT_SEND};
use super::unix_socket;
use crate::chain::Buffers;
use crate::poller::{Interest, Poller, Watched};

/// Bytes of the guest's that may wait here for the host (`buf_alloc`).
pub(super) const BUFFER: u32 = 256 << 10;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The host wants it; the guest has not answered.
    AwaitsGuest,
    /// Both ends are there.
    Open,
}

#[derive(Debug)]
pub(super) struct Connection {
    socket: Watched,
    token: u64,
    phase: Phase,
    host_port: u32,
    // Bytes on the way to the host, at most BUFFER and the greeting's answer.
    backlog: VecDeque<u8>,
    // How many of `backlog` are not the guest's.
    ours: usize,
    forwarded: u32,
    forwarded_told: u32,
    // The guest's buffer, what it has passed on, and what we have sent it.
    peer_buffer: u32,
    peer_forwarded: u32,
    sent: u32,
    guest_sends: bool,
    guest_receives: bool,
    host_sends: bool,
    /// Whether it is in turn for the guest's buffers.
    pub(super) is_queued: bool,
}

impl Connection {
    fn new(fd: OwnedFd, token: u64, phase: Phase, host_port: u32) -> Self {
        Self {
            socket: Watched::new(fd, token),
            token,
            phase,
            host_port,
            backlog: VecDeque::new(),
            ours: 0,
            forwarded: 0,
            forwarded_told: 0,
            peer_buffer: 0,
            peer_forwarded: 0,
            sent: 0,
            guest_sends: true,
            guest_receives: true,
            host_sends: true,
            is_queued: false,
        }
    }

    /// Connects to the socket at `path`; `None` when nobody accepts there right now.
    pub(super) fn to_host(path: &Path, token: u64) -> Option<Self> {
        let address = SocketAddrUnix::new(path).ok()?;
        let socket = unix_socket().ok()?;
        rustix::net::connect(&socket, &address).ok()?;
        Some(Self::new(socket, token, Phase::Open, 0))
    }

    /// A connection the host made.
    pub(super) fn from_host(fd: OwnedFd, token: u64, host_port: u32) -> Self {
        Self::new(fd, token, Phase::AwaitsGuest, host_port)
    }

    pub(super) fn token(&self) -> u64 {
        self.token
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) fn watch(&mut self, poller: &Poller, interest: Interest) {
        let _ = poller.watch(&mut self.socket, interest);
    }

    /// The guest accepted: the host may hear its port and start.
    pub(super) fn greet_host(&mut self) {
        self.phase = Phase::Open;
        let answer = format!("OK {}\n", self.host_port);
        self.ours = answer.len();
        self.backlog.extend(answer.into_bytes());
    }

    /// Every packet of the guest's tells how much it can take (§5.10.6.3).
    pub(super) fn take_credit(&mut self, header: &Header) {
        self.peer_buffer = header.buffer;
        self.peer_forwarded = header.forwarded;
    }

    /// Bytes the guest can take now.
    pub(super) fn credit(&self) -> u32 {
        let on_the_way = self.sent.wrapping_sub(self.peer_forwarded);
        self.peer_buffer.saturating_sub(on_the_way)
    }

    /// Takes the guest's bytes; false when it sent more than it was told there is room for.
    pub(super) fn take_data(&mut self, mut data: Buffers<'_>) -> bool {
        let waiting = self.backlog.len() - self.ours;
        let room = (BUFFER as usize).saturating_sub(waiting);
        if !self.guest_sends {
            return false;
        }
        // Most often nothing waits and the host takes all: no copy is kept then.
        if self.backlog.is_empty()
            && data.len() <= room as u64
            && let Ok(count) = data.drain_once(self.socket.as_fd())
        {
            self.forwarded = self.forwarded.wrapping_add(count as u32);
        }
        let Some(bytes) = data.read_all(room) else {
            return false;
        };
        self.backlog.extend(bytes);
        true
    }

    /// Sends waiting bytes to the host, as far as it takes them.
    ///
    /// # Errors
    /// When the host is gone.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.backlog.is_empty() {
            let (front, _) = self.backlog.as_slices();
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::send(&self.socket, front, flags) {
                Ok(count) => {
                    self.backlog.drain(..count);
                    let ours = self.ours.min(count);
                    self.ours -= ours;
                    self.forwarded = self.forwarded.wrapping_add((count - ours) as u32);
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if self.backlog.is_empty() {
            self.backlog.shrink_to(4096);
            if !self.guest_sends {
                let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
            }
        }
        Ok(())
    }

    /// Reads from the host into the guest's buffer; gives how many bytes came, 0 at the end.
    pub(super) fn read(&mut self, into: &mut Buffers<'_>) -> io::Result<u32> {
        let count = into.fill_once(self.socket.as_fd())? as u32;
        self.sent = self.sent.wrapping_add(count);
        Ok(count)
    }

    /// The host will send no more.
    pub(super) fn host_ended(&mut self) {
        self.host_sends = false;
    }

    /// The guest will receive or send no more, as `flags` say.
    pub(super) fn guest_shuts_down(&mut self, flags: u32) {
        if flags & SHUT_RECEIVE != 0 {
            self.guest_receives = false;
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Read);
        }
        if flags & SHUT_SEND != 0 {
            self.guest_sends = false;
        }
    }

    /// Whether nothing more can happen: the guest does neither send nor receive, and the host has all.
    pub(super) fn is_over(&self) -> bool {
        let guest_is_done = !self.guest_sends && (!self.guest_receives || !self.host_sends);
        guest_is_done && self.backlog.is_empty()
    }

    /// Whether bytes of the host's can go to the guest.
    pub(super) fn can_receive(&self) -> bool {
        self.phase == Phase::Open && self.host_sends && self.guest_receives && self.credit() > 0
    }

    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Bytes passed on to the host so far (`fwd_cnt`).
    pub(super) fn forwarded(&self) -> u32 {
        self.forwarded
    }

    /// Whether the guest believes half of our buffer or more to be full that is not.
    pub(super) fn owes_credit_update(&self) -> bool {
        self.forwarded.wrapping_sub(self.forwarded_told) >= BUFFER / 2
    }

    /// A packet with the current count is on its way.
    pub(super) fn credit_told(&mut self) {
        self.forwarded_told = self.forwarded;
    }
}
