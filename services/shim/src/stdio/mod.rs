//! A process's standard streams: from its pipes or terminal to log, attach clients and fifos, and
//! from clients or a fifo into it. One poll loop drives it; nothing here blocks except writes to
//! the log file.
//!
//! ```text
//! process ─ stdout, stderr or terminal ─▶ read batch ─▶ log
//!                                                   └─▶ sinks (attach clients, fifos)
//! process ◀─ stdin or terminal ◀─ Input ◀─ attach clients, fifo
//! ```
//! A sink that owes 256 KiB stops reading from the process until it takes some.

mod client;
mod escape;
mod input;
mod json_log;
mod sent;
mod setup;
mod sink;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::SystemTime;

use atoll_container::StdioRequest;
use atoll_guest::protocol::StreamKind as RemoteStream;
use atoll_shim_protocol::StreamKind;
use rustix::event::PollFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;

use client::{AttachSocket, Client, Received};
use input::{Input, Progress};
use json_log::JsonLog;
pub(crate) use setup::{IoNames, Opened, open, open_remote};
use sink::Sink;

/// Bytes of one read. Pipes are made as large.
pub(crate) const READ_SIZE: usize = 256 << 10;

/// Reads of one stream before others get their turn.
const READS_A_TURN: usize = 4;

/// Which descriptor of a process's streams an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IoToken {
    /// stdout (or the terminal), stderr.
    Output(usize),
    /// The way in.
    Input,
    /// The attach socket.
    Attach,
    /// An attach client, by key: places change when another client goes in the same turn.
    Client(u64),
    /// A fifo for stdout or stderr.
    Fifo(usize),
    /// The fifo for stdin.
    FifoInput,
}

/// The streams of one process.
#[derive(Default)]
pub(crate) struct Stdio {
    outputs: [Option<OwnedFd>; 2],
    terminal: Option<OwnedFd>,
    /// The process's side of it until the process ends: a service manager closes its console and opens it again.
    terminal_keeper: Option<OwnedFd>,
    is_terminal: bool,
    stdin: Option<OwnedFd>,
    input: Input,
    /// The end of a client's input is the end of stdin.
    input_ends_once: bool,
    log: Option<JsonLog>,
    attach: Option<AttachSocket>,
    /// With a key that no other client of this process had.
    clients: Vec<(u64, Client)>,
    last_client: u64,
    fifos: [Option<Sink>; 2],
    /// The fifo for stdin until the start.
    fifo_input_path: Option<String>,
    fifo_input: Option<OwnedFd>,
    /// Our own writing end, so that the fifo's end comes when `CloseIO` says so.
    fifo_input_keeper: Option<OwnedFd>,
    /// The stream for stdin until the start, when it was sent.
    sent_input: Option<OwnedFd>,
    /// The terminal that was sent.
    sent_terminal: Option<OwnedFd>,
    /// A receiver that goes away breaks the process's pipe.
    breaks_output: bool,
    /// The process's side, until it is started.
    held: Option<StdioRequest>,
    /// The way in comes later: what clients send waits for it.
    awaits_input: bool,
    is_over: bool,
    had_burst: bool,
}

impl Stdio {
    /// Gives the streams the terminal's master.
    pub(crate) fn set_terminal(&mut self, master: OwnedFd) {
        // A master that can't be non-blocking would be a kernel without fcntl.
        let _ = rustix::io::ioctl_fionbio(&master, true);
        self.terminal_keeper = atoll_sys::terminal::slave_of(master.as_fd()).ok();
        self.terminal = Some(master);
    }

    /// Has the terminal end with those who have it open; the process itself is gone.
    pub(crate) fn let_terminal_end(&mut self) {
        self.terminal_keeper = None;
    }

    /// Takes a stream of a process that is elsewhere: a non-blocking socket. One that the process is not to have, or has
    /// already, is closed.
    pub(crate) fn connect(&mut self, kind: RemoteStream, socket: OwnedFd) {
        if self.is_over || self.is_terminal != (kind == RemoteStream::Terminal) {
            return;
        }
        let place = match kind {
            RemoteStream::Stdout => &mut self.outputs[0],
            RemoteStream::Stderr => &mut self.outputs[1],
            RemoteStream::Stdin if !self.awaits_input => return,
            RemoteStream::Stdin => &mut self.stdin,
            RemoteStream::Terminal => &mut self.terminal,
        };
        if place.is_none() {
            *place = Some(socket);
            self.awaits_input &= self.way_in().is_none();
        }
    }

    /// The terminal, to resize it.
    pub(crate) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    /// Rows and columns of the terminal that was sent.
    pub(crate) fn size_of_own_terminal(&self) -> Option<(u16, u16)> {
        let size = rustix::termios::tcgetwinsize(self.sent_terminal.as_ref()?).ok()?;
        Some((size.ws_row, size.ws_col))
    }

    /// Keeps the process's side for its start.
    pub(crate) fn hold(&mut self, request: StdioRequest) {
        self.held = Some(request);
    }

    /// Gives the process's side to its start.
    pub(crate) fn take_held(&mut self) -> StdioRequest {
        self.held.take().unwrap_or_default()
    }

    /// Opens the fifo for stdin; the process is started now.
    ///
    /// Not before: containerd's client sends as soon as there is a reader, and its `CloseIO` for
    /// the end of input gets lost before its own call for the process has returned.
    pub(crate) fn open_fifo_input(&mut self) -> io::Result<()> {
        if let Some(sent) = self.sent_input.take() {
            self.fifo_input = Some(sent);
        }
        if let Some(path) = self.fifo_input_path.take() {
            self.fifo_input = Some(setup::open_fifo(&path, OFlags::RDONLY)?);
            self.fifo_input_keeper = Some(setup::open_fifo(&path, OFlags::WRONLY)?);
        }
        Ok(())
    }

    /// Whether everything the process wrote has been read.
    pub(crate) fn is_drained(&self) -> bool {
        self.outputs.iter().all(Option::is_none) && self.terminal.is_none()
    }

    /// Whether a receiver keeps output from being read.
    pub(crate) fn is_stuck(&self) -> bool {
        self.sinks().any(Sink::is_full)
    }

    /// Forgets receivers that keep output from being read.
    pub(crate) fn abandon_slow(&mut self) {
        self.sinks_mut()
            .filter(|sink| sink.is_full())
            .for_each(Sink::abandon);
    }

    /// Adds what to wait for.
    pub(crate) fn interests<'a>(&'a self, mut add: impl FnMut(IoToken, BorrowedFd<'a>, PollFlags)) {
        if !self.is_stuck() {
            for (at, output) in self.outputs.iter().enumerate() {
                if let Some(fd) = output {
                    add(IoToken::Output(at), fd.as_fd(), PollFlags::IN);
                }
            }
            if let Some(fd) = &self.terminal {
                add(IoToken::Output(0), fd.as_fd(), PollFlags::IN);
            }
        }
        if self.input.has_work()
            && let Some(fd) = self.way_in()
        {
            add(IoToken::Input, fd.as_fd(), PollFlags::OUT);
        }
        if let Some(socket) = &self.attach {
            add(IoToken::Attach, socket.as_fd(), PollFlags::IN);
        }
        let takes_input = self.takes_input();
        for (key, client) in &self.clients {
            if let (Some(fd), Some(flags)) = (client.fd(), client.interest(takes_input)) {
                add(IoToken::Client(*key), fd, flags);
            }
        }
        for (at, fifo) in self.fifos.iter().enumerate() {
            if let Some(sink) = fifo.as_ref().filter(|sink| sink.has_work()) {
                add(IoToken::Fifo(at), sink.as_fd(), PollFlags::OUT);
            }
        }
        if let Some(fd) = &self.fifo_input
            && takes_input
        {
            add(IoToken::FifoInput, fd.as_fd(), PollFlags::IN);
        }
    }

    /// Acts on an event; returns whether output was read.
    ///
    /// * `buffer`: scratch space of [`READ_SIZE`] bytes.
    pub(crate) fn handle(&mut self, token: IoToken, flags: PollFlags, buffer: &mut [u8]) -> bool {
        match token {
            IoToken::Output(at) => {
                let has_read = self.read_output(at, buffer);
                if self.breaks_output {
                    self.sweep();
                }
                return has_read;
            }
            IoToken::Input => self.flush_input(),
            IoToken::Attach => {
                while let Some(client) = self.attach.as_ref().and_then(AttachSocket::accept) {
                    self.last_client += 1;
                    self.clients.push((self.last_client, client));
                }
            }
            IoToken::Client(key) => self.handle_client(key, flags, buffer),
            IoToken::Fifo(at) => {
                if let Some(sink) = &mut self.fifos[at] {
                    sink.flush();
                }
            }
            IoToken::FifoInput => self.read_fifo(buffer),
        }
        self.sweep();
        false
    }

    /// Ends input once what is pending is written (`CloseIO`, or the only client's end).
    pub(crate) fn close_input(&mut self) {
        self.fifo_input_keeper = None;
        let has_fifo = self.fifo_input.is_some() || self.fifo_input_path.is_some();
        if !has_fifo && !self.is_terminal {
            self.input.end();
            self.flush_input();
        }
    }

    /// Stops reading; what is left of lines is logged, receivers end after what they are owed.
    pub(crate) fn finish(&mut self) {
        self.outputs = [None, None];
        self.terminal = None;
        self.terminal_keeper = None;
        self.stdin = None;
        self.held = None;
        self.fifo_input = None;
        self.fifo_input_keeper = None;
        (self.sent_input, self.sent_terminal) = (None, None);
        self.awaits_input = false;
        if let Some(mut log) = self.log.take() {
            let now = SystemTime::now();
            log.finish(StreamKind::Stdout, now);
            log.finish(StreamKind::Stderr, now);
        }
        self.sinks_mut().for_each(Sink::close);
        self.is_over = true;
        self.sweep();
    }

    /// Stops listening for clients; those attached still get what they are owed.
    pub(crate) fn stop_listening(&mut self) {
        self.attach = None;
    }

    /// Whether some receiver is still owed output.
    pub(crate) fn owes(&self) -> bool {
        self.sinks().any(Sink::has_work)
    }

    /// Gives memory back after a burst; returns whether there was one.
    pub(crate) fn shrink(&mut self) -> bool {
        if let Some(log) = &mut self.log {
            log.shrink();
        }
        std::mem::take(&mut self.had_burst)
    }

    fn sinks(&self) -> impl Iterator<Item = &Sink> {
        self.clients
            .iter()
            .filter_map(|(_, client)| client.sink_state())
            .chain(self.fifos.iter().flatten())
    }

    fn sinks_mut(&mut self) -> impl Iterator<Item = &mut Sink> {
        self.clients
            .iter_mut()
            .filter_map(|(_, client)| client.sink())
            .chain(self.fifos.iter_mut().flatten())
    }

    fn way_in(&self) -> Option<&OwnedFd> {
        self.terminal.as_ref().or(self.stdin.as_ref())
    }

    fn takes_input(&self) -> bool {
        // Input nobody reads is read and dropped, so that its sender doesn't hang.
        !self.awaits_input && (self.input.is_free() || self.way_in().is_none())
    }

    fn sweep(&mut self) {
        self.clients.retain(|(_, client)| !client.is_gone());
        for (fifo, output) in self.fifos.iter_mut().zip(&mut self.outputs) {
            if fifo.as_ref().is_some_and(Sink::is_gone) {
                *fifo = None;
                if self.breaks_output {
                    *output = None;
                }
            }
        }
    }

    fn read_output(&mut self, at: usize, buffer: &mut [u8]) -> bool {
        let stream = if at == 0 {
            StreamKind::Stdout
        } else {
            StreamKind::Stderr
        };
        let mut has_read = false;
        for _ in 0..READS_A_TURN {
            let source = if self.is_terminal {
                self.terminal.as_ref()
            } else {
                self.outputs[at].as_ref()
            };
            let Some(source) = source else { break };
            let count = match rustix::io::read(source, &mut *buffer) {
                Ok(0) => {
                    self.end_output(at);
                    break;
                }
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                // A terminal says EIO when its last user is gone.
                Err(_) => {
                    self.end_output(at);
                    break;
                }
            };
            has_read = true;
            self.had_burst |= count > READ_SIZE / 8;
            self.deliver(stream, &buffer[..count]);
            if count < buffer.len() / 4 || self.is_stuck() {
                break;
            }
        }
        has_read
    }

    fn end_output(&mut self, at: usize) {
        if self.is_terminal {
            self.terminal = None;
        } else {
            self.outputs[at] = None;
        }
    }

    fn deliver(&mut self, stream: StreamKind, data: &[u8]) {
        if let Some(log) = &mut self.log {
            log.write(stream, data, SystemTime::now());
        }
        self.sinks_mut().for_each(|sink| sink.push(stream, data));
    }

    fn handle_client(&mut self, key: u64, flags: PollFlags, buffer: &mut [u8]) {
        // Gone since it was polled; the place stays the same until the next sweep.
        let Some(at) = self.clients.iter().position(|(known, _)| *known == key) else {
            return;
        };
        if flags.contains(PollFlags::OUT)
            && let Some(sink) = self.clients[at].1.sink()
        {
            sink.flush();
        }
        let is_hung_up = flags.intersects(PollFlags::HUP | PollFlags::ERR);
        if flags.contains(PollFlags::IN) || is_hung_up || self.clients[at].1.has_early_input() {
            for _ in 0..READS_A_TURN {
                if !self.clients[at].1.wants_read(self.takes_input()) {
                    break;
                }
                let received = self.clients[at].1.receive(buffer, self.is_over);
                match received {
                    Received::Input(count) => self.take_input(&buffer[..count]),
                    Received::EndOfInput => {
                        self.end_of_client_input();
                        break;
                    }
                    Received::Nothing if self.clients[at].1.has_early_input() => {}
                    Received::Nothing => break,
                }
            }
            if is_hung_up && !self.clients[at].1.sends() {
                self.clients[at].1.hang_up();
            }
        }
    }

    fn end_of_client_input(&mut self) {
        if self.input_ends_once && !self.is_terminal {
            self.input.end();
            self.flush_input();
        }
    }

    fn read_fifo(&mut self, buffer: &mut [u8]) {
        let Some(fifo) = &self.fifo_input else { return };
        match rustix::io::read(fifo, &mut *buffer) {
            Ok(count @ 1..) => self.take_input(&buffer[..count]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // The end, or a terminal that was hung up.
            Ok(0) | Err(_) => {
                self.fifo_input = None;
                if !self.is_terminal {
                    self.input.end();
                    self.flush_input();
                }
            }
        }
    }

    fn take_input(&mut self, data: &[u8]) {
        let Some(target) = self.terminal.as_ref().or(self.stdin.as_ref()) else {
            return;
        };
        if self.input.push(target, data) == Progress::Broken {
            self.stdin = None;
        }
    }

    fn flush_input(&mut self) {
        let Some(target) = self.terminal.as_ref().or(self.stdin.as_ref()) else {
            return;
        };
        match self.input.flush(target) {
            Progress::Done | Progress::Waiting => {}
            Progress::Ended | Progress::Broken => self.stdin = None,
        }
    }
}
