//! The shim's one thread: a poll loop over signals, requests, streams and events.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use atoll_sys::signal_fd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::WaitOptions;

use crate::connection::Connection;
use crate::events::Events;
use crate::machine::{Machine, MachineToken};
use crate::process::{Exit, Phase, Waiter};
use crate::service;
use crate::stdio::{IoToken, READ_SIZE, Stdio};
use crate::task::Task;
use crate::{failure::Failure, report};

/// How long nothing must happen before memory of a burst is given back.
const IDLE: Duration = Duration::from_millis(500);

/// How long output of deleted processes and events are still delivered while quitting.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long output of a deleted process is still delivered.
const LINGER: Duration = Duration::from_secs(30);

/// What the command line and environment say.
pub(crate) struct Options {
    /// Folder of isolation/container's state.
    pub(crate) state_root: PathBuf,
    /// Whether `Pids` says more of a guest's processes than their ids. containerd's clients take only types they know.
    pub(crate) tells_statuses: bool,
    /// Whether the shim is the keeper of one machine, for a command line ([`crate::keeper`]).
    pub(crate) keeps: bool,
    /// Held until the first process has ended: the engine's published ports.
    pub(crate) held: Vec<OwnedFd>,
}

/// The server's whole state.
pub(crate) struct Shim {
    pub(crate) options: Options,
    /// The container, or those of a pod.
    pub(crate) tasks: Vec<Task>,
    /// The machine they are in, if they are.
    pub(crate) machine: Option<Box<Machine>>,
    pub(crate) events: Events,
    signals: SignalFd,
    /// A keeper has none until its container is made.
    listener: Option<UnixListener>,
    connections: Vec<Connection>,
    lingering: Vec<(u64, Stdio, Instant)>,
    buffer: Vec<u8>,
    /// Something was done since memory was given back.
    is_warm: bool,
    last_key: u64,
    quit_by: Option<Instant>,
    /// A container has been deleted.
    is_deleted: bool,
}

/// What became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Signals,
    Listener,
    Connection(u64),
    Publisher,
    Oom(u64),
    Machine(MachineToken),
    Init(u64, IoToken),
    Exec(u64, IoToken),
    Lingering(u64, IoToken),
}

impl Shim {
    /// * `listener`: non-blocking.
    pub(crate) fn new(
        options: Options,
        signals: SignalFd,
        listener: Option<UnixListener>,
        events: Events,
    ) -> Self {
        Self {
            options,
            tasks: Vec::new(),
            machine: None,
            events,
            signals,
            listener,
            connections: Vec::new(),
            lingering: Vec::new(),
            buffer: Vec::new(),
            is_warm: true,
            last_key: 0,
            quit_by: None,
            is_deleted: false,
        }
    }

    /// Serves until told to quit.
    pub(crate) fn run(&mut self) {
        while !self.is_done() {
            let ready = self.poll();
            if ready.is_empty() {
                self.give_memory_back();
            }
            for (token, flags) in ready {
                self.is_warm = true;
                self.handle(token, flags);
            }
            self.machine_overdue();
            self.finish_ended();
            self.connections.retain(Connection::is_open);
            if self.is_over() && self.quit_by.is_none() {
                self.quit();
            }
            let now = Instant::now();
            self.lingering
                .retain(|(_, stdio, until)| stdio.owes() && now < *until);
        }
    }

    /// A number no other container, exec or connection has.
    pub(crate) fn next_key(&mut self) -> u64 {
        self.last_key += 1;
        self.last_key
    }

    /// Ends the loop after what is under way.
    pub(crate) fn quit(&mut self) {
        self.quit_by = Some(Instant::now() + FAREWELL);
    }

    /// The container `id`, if it is here.
    pub(crate) fn find(&mut self, id: &str) -> Option<&mut Task> {
        self.tasks.iter_mut().find(|task| task.id == id)
    }

    /// The container with this key, if it is still here.
    pub(crate) fn by_key(&mut self, key: u64) -> Option<&mut Task> {
        self.tasks.iter_mut().find(|task| task.key == key)
    }

    /// Takes out the container `id`, which was deleted or never made.
    pub(crate) fn take(&mut self, id: &str) -> Option<Task> {
        let at = self.tasks.iter().position(|task| task.id == id)?;
        Some(self.tasks.swap_remove(at))
    }

    /// Takes the deleted container out, and its machine when nobody is left in it.
    pub(crate) fn take_deleted(&mut self, id: &str) -> Option<Task> {
        self.is_deleted = true;
        let task = self.take(id);
        if !self.tasks.iter().any(Task::is_in_machine) {
            self.machine = None;
        }
        task
    }

    /// Goes on delivering output of a deleted process to slow receivers.
    pub(crate) fn linger(&mut self, mut stdio: Stdio) {
        stdio.stop_listening();
        if stdio.owes() {
            let key = self.next_key();
            self.lingering.push((key, stdio, Instant::now() + LINGER));
        }
    }

    /// Answers a request whose answer had to wait.
    pub(crate) fn answer_later(&mut self, to: Waiter, payload: Vec<u8>) {
        if let Some(connection) = self.connection(to.connection) {
            connection.answer(to.stream, Ok(payload));
        }
    }

    /// Answers those who wait for a process that has ended for everybody.
    pub(crate) fn answer_waiters(&mut self, key: u64, exec_id: &str) {
        let process = self.by_key(key).and_then(|task| task.find(exec_id).ok());
        let Some((process, exit)) = process.and_then(|p| p.exit().map(|exit| (p, exit))) else {
            return;
        };
        for waiter in std::mem::take(&mut process.waiters) {
            self.answer_later(waiter, service::wait_response(exit));
        }
    }

    /// Serves a client that is connected already.
    pub(crate) fn connected(&mut self, socket: UnixStream) {
        let id = self.next_key();
        self.connections.push(Connection::new(id, socket));
    }

    /// Descriptors that came with a request of `from`.
    pub(crate) fn sent_with(&mut self, from: Waiter) -> Vec<OwnedFd> {
        let connection = self.connection(from.connection);
        connection.map(Connection::take_sent).unwrap_or_default()
    }

    /// Whether nothing is left to do.
    fn is_over(&mut self) -> bool {
        if self.options.keeps {
            let has_machine = self.machine.as_ref().is_some_and(|one| !one.has_ended());
            // Without a container: it could not be made, or nobody asks for it any more.
            let is_wanted = self.tasks.is_empty() && !self.connections.is_empty();
            let mut processes = self.tasks.iter_mut().flat_map(Task::processes_mut);
            let is_ended = processes.all(|process| process.exit().is_some());
            return is_ended && !has_machine && !is_wanted;
        }
        // Who deleted the last container has died before it could say `Shutdown`: nobody else will.
        self.is_deleted && self.tasks.is_empty() && self.connections.is_empty()
    }

    fn connection(&mut self, id: u64) -> Option<&mut Connection> {
        self.connections
            .iter_mut()
            .find(|connection| connection.id == id)
    }

    fn is_done(&self) -> bool {
        let Some(until) = self.quit_by else {
            return false;
        };
        let is_busy = self.connections.iter().any(Connection::has_output)
            || self.events.publisher().is_some_and(|p| p.is_busy())
            || self.tasks.iter().any(|task| task.init.stdio.owes())
            || !self.lingering.is_empty();
        !is_busy || Instant::now() >= until
    }

    fn poll(&self) -> Vec<(Token, PollFlags)> {
        let mut tokens = Vec::with_capacity(16);
        let mut fds = Vec::with_capacity(16);
        let mut add = |token, fd, flags| {
            tokens.push(token);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        };
        add(Token::Signals, self.signals.as_fd(), PollFlags::IN);
        if let Some(listener) = &self.listener {
            add(Token::Listener, listener.as_fd(), PollFlags::IN);
        }
        for connection in &self.connections {
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, connection.has_output());
            add(Token::Connection(connection.id), connection.as_fd(), flags);
        }
        if let Some((fd, writes)) = self.events.publisher().and_then(|p| p.interest()) {
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, writes);
            add(Token::Publisher, fd, flags);
        }
        self.stream_interests(&mut add);
        let wake_at = self.wake_at();
        let timeout = wake_at.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        // Interrupted or failed: looking again is right for both.
        if rustix::event::poll(&mut fds, timeout.as_ref()).is_err() {
            return Vec::new();
        }
        tokens
            .into_iter()
            .zip(&fds)
            .map(|(token, fd)| (token, fd.revents()))
            .filter(|(_, flags)| !flags.is_empty())
            .collect()
    }

    fn stream_interests<'a>(&'a self, mut add: impl FnMut(Token, BorrowedFd<'a>, PollFlags)) {
        for task in &self.tasks {
            let key = task.key;
            task.init
                .stdio
                .interests(|token, fd, flags| add(Token::Init(key, token), fd, flags));
            for exec in &task.execs {
                exec.process
                    .stdio
                    .interests(|token, fd, flags| add(Token::Exec(exec.key, token), fd, flags));
            }
            if let Some(oom) = &task.oom {
                add(Token::Oom(key), oom.as_fd(), PollFlags::IN);
            }
        }
        if let Some(machine) = &self.machine {
            machine.interests(|token, fd, flags| add(Token::Machine(token), fd, flags));
        }
        for (key, stdio, _) in &self.lingering {
            stdio.interests(|token, fd, flags| add(Token::Lingering(*key, token), fd, flags));
        }
    }

    /// When to go on although nothing is ready.
    fn wake_at(&self) -> Option<Instant> {
        let processes = self.tasks.iter().flat_map(|task| {
            std::iter::once(&task.init).chain(task.execs.iter().map(|exec| &exec.process))
        });
        processes
            .filter_map(|process| process.wake_at())
            .chain(self.events.publisher().and_then(|p| p.wake_at()))
            .chain(self.lingering.iter().map(|(.., until)| *until))
            .chain(self.quit_by)
            .chain(self.machine.iter().filter_map(|machine| machine.wake_at()))
            .chain(self.is_warm.then(|| Instant::now() + IDLE))
            .min()
    }

    fn handle(&mut self, token: Token, flags: PollFlags) {
        match token {
            Token::Signals => self.reap(),
            Token::Listener => self.accept(),
            Token::Connection(id) => self.serve(id, flags),
            Token::Publisher => {}
            Token::Oom(key) => {
                let task = self.tasks.iter_mut().find(|task| task.key == key);
                if let Some(task) = task
                    && task.noticed_oom()
                {
                    self.events.out_of_memory(&task.id);
                }
            }
            Token::Machine(token) => self.machine_event(token),
            Token::Init(key, token) => {
                let mut buffer = self.take_buffer();
                if let Some(task) = self.by_key(key)
                    && task.init.stdio.handle(token, flags, &mut buffer)
                {
                    task.init.heard();
                }
                self.buffer = buffer;
            }
            Token::Exec(key, token) => {
                let mut buffer = self.take_buffer();
                let mut execs = self.tasks.iter_mut().flat_map(|task| &mut task.execs);
                if let Some(exec) = execs.find(|exec| exec.key == key)
                    && exec.process.stdio.handle(token, flags, &mut buffer)
                {
                    exec.process.heard();
                }
                self.buffer = buffer;
            }
            Token::Lingering(key, token) => {
                let mut buffer = self.take_buffer();
                let found = self.lingering.iter_mut().find(|(known, ..)| *known == key);
                if let Some((_, stdio, _)) = found {
                    stdio.handle(token, flags, &mut buffer);
                }
                self.buffer = buffer;
            }
        }
        if let Some(publisher) = self.events.publisher_mut()
            && (token == Token::Publisher || publisher.is_busy())
        {
            publisher.advance();
        }
    }

    fn take_buffer(&mut self) -> Vec<u8> {
        let mut buffer = std::mem::take(&mut self.buffer);
        if buffer.is_empty() {
            // Zero pages of the kernel: only what is read into takes memory.
            buffer = vec![0; READ_SIZE];
        }
        buffer
    }

    /// After a while without events: buffers of a burst go, and the code that made the container.
    fn give_memory_back(&mut self) {
        if let Some(publisher) = self.events.publisher_mut() {
            publisher.advance();
        }
        if !std::mem::take(&mut self.is_warm) {
            return;
        }
        self.buffer = Vec::new();
        let mut had_burst = false;
        for process in self.tasks.iter_mut().flat_map(Task::processes_mut) {
            had_burst |= process.stdio.shrink();
        }
        if had_burst {
            atoll_sys::allocator::trim();
        }
        // Pages that stay only cost memory.
        drop(atoll_sys::allocator::release_code());
    }

    /// Serves clients at `listener`, too.
    ///
    /// * `listener`: non-blocking.
    pub(crate) fn listen(&mut self, listener: UnixListener) {
        self.listener = Some(listener);
    }

    fn accept(&mut self) {
        while let Some(Ok((socket, _))) = self.listener.as_ref().map(UnixListener::accept) {
            if socket.set_nonblocking(true).is_ok() {
                self.connected(socket);
            }
        }
    }

    fn serve(&mut self, id: u64, flags: PollFlags) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        if flags.contains(PollFlags::OUT) {
            connection.flush();
        }
        if !flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        for (stream, request) in connection.receive() {
            let from = Waiter {
                connection: id,
                stream,
            };
            let answer = request.and_then(|request| service::dispatch(self, from, &request));
            let answer = match answer {
                Ok(None) => continue,
                Ok(Some(payload)) => Ok(payload),
                Err(failure) => Err(failure),
            };
            self.answer(from, answer);
        }
    }

    pub(crate) fn answer(&mut self, to: Waiter, answer: Result<Vec<u8>, Failure>) {
        if let Some(connection) = self.connection(to.connection) {
            connection.answer(to.stream, answer);
        }
    }

    /// Takes pending signals; reaps every child that ended, ours and orphans alike.
    fn reap(&mut self) {
        while let Some(signal) = self.signals.take() {
            // SIGTERM and SIGINT are ignored: a shim ends when its container has.
            if self.options.keeps && signal != libc::SIGCHLD {
                self.pass_on(signal);
            }
        }
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let pid = pid.as_raw_nonzero().get().cast_unsigned();
                    if let Some(exit) = Exit::from_wait(status)
                        && !self.monitor_ended(pid, exit)
                    {
                        // A process id is unique among those that are not reaped.
                        for task in &mut self.tasks {
                            task.child_ended(pid, exit);
                        }
                    }
                }
                Ok(None) | Err(rustix::io::Errno::CHILD) => return,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    report(format_args!("cannot wait for children: {error}"));
                    return;
                }
            }
        }
    }

    /// Reports processes that have ended and whose output is read.
    fn finish_ended(&mut self) {
        let mut finished: Vec<(u64, String)> = Vec::new();
        for task in &mut self.tasks {
            if let Some(exit) = task.init.try_finish() {
                // An OOM kill that ended the container is news before the end.
                if task.noticed_oom() {
                    self.events.out_of_memory(&task.id);
                }
                // Whoever hears of the end may want the ports.
                self.options.held.clear();
                task.record_exit(exit);
                self.events.exited(&task.id, &task.init, exit);
                // A pod's goes with its sandbox.
                if let Some(machine) = &mut self.machine
                    && machine.first == task.id
                {
                    machine.finish();
                }
                finished.push((task.key, String::new()));
            }
            for exec in &mut task.execs {
                if let Some(exit) = exec.process.try_finish() {
                    self.events.exited(&task.id, &exec.process, exit);
                    finished.push((task.key, exec.process.exec_id.clone()));
                }
            }
        }
        for (key, exec_id) in finished {
            self.answer_waiters(key, &exec_id);
            if self.options.keeps
                && !exec_id.is_empty()
                && let Some(Ok((process, _))) =
                    self.by_key(key).map(|task| task.delete_exec(&exec_id))
            {
                // Nobody deletes it.
                self.linger(process.stdio);
            }
        }
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        for task in &self.tasks {
            if !matches!(task.init.phase, Phase::Exited(_)) {
                report(format_args!("quitting with container {} left", task.id));
            }
        }
    }
}
