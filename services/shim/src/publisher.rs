//! Events for containerd, over ttrpc to the address it gave us.
//!
//! One event is under way at a time, so that they arrive in order. When containerd is away they
//! wait; the oldest go when too many do.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use ttrpc::Request;

use crate::clock;
use crate::connection::{TYPE_REQUEST, frame, parse_frame};

/// Events kept while containerd is away.
const KEPT: usize = 512;

/// Pause before the next try to reach containerd.
const RETRY: Duration = Duration::from_secs(1);

/// How long containerd may take to take one event.
const TIMEOUT_NS: i64 = 5_000_000_000;

/// Sends events; made only when there is somebody to send them to.
pub(crate) struct Publisher {
    address: PathBuf,
    namespace: String,
    queue: VecDeque<Request>,
    connection: Option<UnixStream>,
    output: Vec<u8>,
    input: Vec<u8>,
    is_waiting: bool,
    next_stream: u32,
    retry_at: Option<Instant>,
}

impl Publisher {
    /// * `address`: containerd's ttrpc socket.
    pub(crate) fn new(address: &str, namespace: &str) -> Self {
        Self {
            address: address.strip_prefix("unix://").unwrap_or(address).into(),
            namespace: namespace.to_owned(),
            queue: VecDeque::new(),
            connection: None,
            output: Vec::new(),
            input: Vec::new(),
            is_waiting: false,
            next_stream: 1,
            retry_at: None,
        }
    }

    /// Queues an event and starts sending it.
    ///
    /// * `name`: the message's full name, e.g. `containerd.events.TaskStart`.
    pub(crate) fn publish(&mut self, topic: &str, name: &str, event: &impl Message) {
        let envelope = Envelope {
            timestamp: MessageField::some(clock::timestamp(SystemTime::now())),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: MessageField::some(Any {
                type_url: name.to_owned(),
                value: event.write_to_bytes().unwrap_or_default(),
                ..Any::default()
            }),
            ..Envelope::default()
        };
        let forward = ForwardRequest {
            envelope: MessageField::some(envelope),
            ..ForwardRequest::default()
        };
        let mut request = Request::new();
        request.service = "containerd.services.events.ttrpc.v1.Events".into();
        request.method = "Forward".into();
        request.timeout_nano = TIMEOUT_NS;
        request.payload = forward.write_to_bytes().unwrap_or_default();
        if self.queue.len() >= KEPT {
            self.queue.pop_front();
        }
        self.queue.push_back(request);
        self.advance();
    }

    /// Whether events are on their way.
    pub(crate) fn is_busy(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The connection, and whether there is something to write to it.
    pub(crate) fn interest(&self) -> Option<(BorrowedFd<'_>, bool)> {
        let connection = self.connection.as_ref()?;
        Some((connection.as_fd(), !self.output.is_empty()))
    }

    /// When to call [`Self::advance`] although nothing happened.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        self.retry_at.filter(|_| self.is_busy())
    }

    /// Goes on after the connection became ready, or the time of [`Self::wake_at`] came.
    pub(crate) fn advance(&mut self) {
        self.read_answers();
        if !self.is_waiting && !self.queue.is_empty() {
            self.send_next();
        }
        self.write();
    }

    fn send_next(&mut self) {
        if self.connection.is_none() && !self.connect() {
            return;
        }
        let Some(request) = self.queue.front() else {
            return;
        };
        let payload = request.write_to_bytes().unwrap_or_default();
        self.output = frame(TYPE_REQUEST, self.next_stream, &payload);
        // Clients use odd stream numbers.
        self.next_stream = self.next_stream.wrapping_add(2) | 1;
        self.is_waiting = true;
    }

    fn connect(&mut self) -> bool {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        let connected = atoll_sys::unix::connect_at(&self.address)
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        match connected {
            Ok(socket) => {
                self.connection = Some(socket);
                self.retry_at = None;
                self.next_stream = 1;
                true
            }
            Err(_) => {
                self.retry_at = Some(Instant::now() + RETRY);
                false
            }
        }
    }

    fn write(&mut self) {
        while !self.output.is_empty() {
            let Some(connection) = &mut self.connection else {
                return;
            };
            match connection.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.disconnect(),
            }
        }
    }

    fn read_answers(&mut self) {
        let mut buffer = [0u8; 1024];
        while let Some(connection) = &mut self.connection {
            match connection.read(&mut buffer) {
                Ok(0) => self.disconnect(),
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.disconnect(),
            }
        }
        while let Ok(Some(frame)) = parse_frame(&self.input) {
            self.input.drain(..frame.len);
            // Taken or refused: sending it again would not change the answer.
            if std::mem::take(&mut self.is_waiting) {
                self.queue.pop_front();
            }
        }
    }

    /// Forgets the connection; the event under way is sent again on the next one.
    fn disconnect(&mut self) {
        self.connection = None;
        self.output.clear();
        self.input.clear();
        self.is_waiting = false;
        self.retry_at = Some(Instant::now() + RETRY);
    }
}
