//! Socket device (virtio 1.3 §5.10) whose host end are Unix sockets, by Firecracker's documented convention.
//!
//! ```text
//!   guest connects to host port P   →  we connect to <path>_P
//!   host connects to <path>, sends "CONNECT P\n"  →  connection to guest port P, "OK <host port>\n", then data
//! ```
//!
//! Everything is bounded: connections, bytes waiting for the host (the guest's credit), bytes of the host's greeting,
//! control packets waiting for the guest. When the guest gives no buffers, nothing is read from the host.
//!
//! After a snapshot is restored, the guest is told that all its connections are gone (`TRANSPORT_RESET`, §5.10.6.7).

mod connection;
mod greeting;
mod listener;
mod packet;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use self::connection::{Connection, Phase};
use self::greeting::{Greeting, Progress};
use self::listener::Listener;
use self::packet::{HEADER, HOST_CID, Header, Operation, STREAM};
use crate::chain::Chain;
use crate::device::{
    DeviceError, DeviceState, DeviceType, RestoreError, VirtioDevice, read_config_bytes,
};
use crate::poller::{Interest, Poller, Ready};
use crate::ring::{Broken, Queues};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const EVENT: usize = 2;

/// The first port given to host connections; the guest sees it as their source.
const FIRST_HOST_PORT: u32 = 1 << 30;
/// Control packets that may wait for the guest's buffers before the guest's own packets wait too.
const MAX_CONTROLS: usize = 1024;
/// Connections from the host whose greeting is not complete.
const MAX_GREETINGS: usize = 64;
/// Bytes of one packet to the guest.
const MAX_PAYLOAD: u64 = 64 << 10;
/// Host connections accepted at one event.
const ACCEPTS: usize = 16;

/// Token of the listening socket; connections and greetings use their serial numbers.
const LISTENER: u64 = 0;

/// How sockets are shown to the guest.
#[derive(Clone, Debug)]
pub struct VsockOptions {
    /// The guest's context ID, 3 or more and below 2³².
    pub guest_cid: u64,
    /// Where the host connects; guest connections to port P go to this path with `_P` appended.
    pub path: PathBuf,
    /// How many connections there may be at once, both ways together.
    pub max_connections: usize,
}

/// Which connection: the host's port and the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ports {
    host: u32,
    guest: u32,
}

/// Sockets.
#[derive(Debug)]
pub struct VsockDevice {
    options: VsockOptions,
    poller: Poller,
    listener: Listener,
    connections: BTreeMap<Ports, Connection>,
    tokens: BTreeMap<u64, Ports>,
    greetings: BTreeMap<u64, Greeting>,
    // Connections that may have data for the guest, in turn.
    receiving: VecDeque<Ports>,
    controls: VecDeque<Header>,
    next_token: u64,
    next_port: u32,
    owes_reset: bool,
    is_active: bool,
}

/// Sockets in a snapshot: connections don't survive it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VsockState {
    /// The guest's context ID.
    pub guest_cid: u64,
    /// Whether the guest has still to be told that connections are gone.
    pub owes_reset: bool,
}

impl VsockDevice {
    /// Listens at the options' path, which must be free.
    ///
    /// # Errors
    /// [`DeviceError::ContextId`] for a reserved context ID; [`DeviceError::Kernel`] when the path cannot be listened
    /// at.
    pub fn new(options: VsockOptions) -> Result<Self, DeviceError> {
        let listener = Listener::bind(&options.path)?;
        Self::with_listener(options, listener)
    }

    /// Uses `listener`, a listening Unix stream socket made by someone else (who also removes it).
    ///
    /// # Errors
    /// [`DeviceError::ContextId`] for a reserved context ID; [`DeviceError::Kernel`] when descriptors ran out.
    pub fn over(options: VsockOptions, listener: OwnedFd) -> Result<Self, DeviceError> {
        Self::with_listener(options, Listener::over(listener)?)
    }

    fn with_listener(options: VsockOptions, listener: Listener) -> Result<Self, DeviceError> {
        if options.guest_cid <= HOST_CID || options.guest_cid >= u64::from(u32::MAX) {
            return Err(DeviceError::ContextId(options.guest_cid));
        }
        Ok(Self {
            options,
            poller: Poller::new()?,
            listener,
            connections: BTreeMap::new(),
            tokens: BTreeMap::new(),
            greetings: BTreeMap::new(),
            receiving: VecDeque::new(),
            controls: VecDeque::new(),
            next_token: LISTENER + 1,
            next_port: FIRST_HOST_PORT,
            owes_reset: false,
            is_active: false,
        })
    }

    /// A packet of a connection to the guest, without payload.
    fn header(&self, ports: Ports, operation: Operation) -> Header {
        let forwarded = self
            .connections
            .get(&ports)
            .map_or(0, Connection::forwarded);
        Header {
            source_cid: HOST_CID,
            target_cid: self.options.guest_cid,
            source_port: ports.host,
            target_port: ports.guest,
            len: 0,
            kind: STREAM,
            operation: operation as u16,
            flags: 0,
            buffer: connection::BUFFER,
            forwarded,
        }
    }

    fn say(&mut self, ports: Ports, operation: Operation) {
        let header = self.header(ports, operation);
        self.controls.push_back(header);
    }

    /// Ends a connection at once, both ways.
    fn reset_connection(&mut self, ports: Ports) {
        self.say(ports, Operation::Reset);
        self.forget(ports);
    }

    fn forget(&mut self, ports: Ports) {
        if let Some(mut connection) = self.connections.remove(&ports) {
            self.tokens.remove(&connection.token());
            connection.watch(&self.poller, Interest::NONE);
            if connection.is_queued {
                self.receiving.retain(|queued| *queued != ports);
            }
        }
    }

    /// Serves the guest's packets, while there is room for what they cause.
    fn transmit(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        while self.controls.len() < MAX_CONTROLS {
            let Some(mut chain) = queues.pop(TRANSMIT)? else {
                break;
            };
            self.take_packet(&mut chain);
            queues.push(TRANSMIT, chain.head(), 0)?;
        }
        Ok(())
    }

    fn take_packet(&mut self, chain: &mut Chain<'_>) {
        let Some(bytes) = chain.readable.read_array::<HEADER>() else {
            return;
        };
        let header = Header::parse(&bytes);
        // Packets in someone else's name, or for someone else, are dropped (§5.10.6.4).
        if header.source_cid != self.options.guest_cid || header.target_cid != HOST_CID {
            return;
        }
        let ports = Ports {
            host: header.target_port,
            guest: header.source_port,
        };
        let operation = Operation::from_code(header.operation);
        if header.kind != STREAM || u64::from(header.len) > chain.readable.len() {
            if operation != Some(Operation::Reset) {
                self.reset_connection(ports);
            }
            return;
        }
        let Some(connection) = self.connections.get_mut(&ports) else {
            match operation {
                Some(Operation::Request) => self.connect(ports, &header),
                Some(Operation::Reset) => {}
                _ => self.say(ports, Operation::Reset),
            }
            return;
        };
        connection.take_credit(&header);
        match (operation, connection.phase()) {
            (Some(Operation::Reset), _) => {
                self.forget(ports);
                return;
            }
            (Some(Operation::Response), Phase::AwaitsGuest) => connection.greet_host(),
            (Some(Operation::Data), Phase::Open) => {
                let data = chain.readable.split_front(u64::from(header.len));
                if !connection.take_data(data) {
                    self.reset_connection(ports);
                    return;
                }
            }
            (Some(Operation::Shutdown), Phase::Open) => connection.guest_shuts_down(header.flags),
            (Some(Operation::CreditUpdate), _) => {}
            (Some(Operation::CreditRequest), Phase::Open) => {
                self.say(ports, Operation::CreditUpdate);
            }
            // A request for a connection there is, or anything out of order.
            _ => {
                self.reset_connection(ports);
                return;
            }
        }
        self.settle(ports);
    }

    /// The guest connects: so do we, to the host's socket for that port.
    fn connect(&mut self, ports: Ports, header: &Header) {
        if self.connections.len() >= self.options.max_connections {
            self.say(ports, Operation::Reset);
            return;
        }
        let mut path = self.options.path.clone().into_os_string();
        path.push(format!("_{}", ports.host));
        let token = self.token();
        let Some(mut connection) = Connection::to_host(&PathBuf::from(path), token) else {
            self.say(ports, Operation::Reset);
            return;
        };
        connection.take_credit(header);
        self.add(ports, connection);
        self.say(ports, Operation::Response);
        self.settle(ports);
    }

    fn add(&mut self, ports: Ports, connection: Connection) {
        self.tokens.insert(connection.token(), ports);
        self.connections.insert(ports, connection);
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// After anything happened to a connection: moves bytes to the host, tells the guest what it must know, and waits
    /// for what is next.
    fn settle(&mut self, ports: Ports) {
        let Some(connection) = self.connections.get_mut(&ports) else {
            return;
        };
        if connection.flush().is_err() || connection.is_over() {
            self.reset_connection(ports);
            return;
        }
        if connection.owes_credit_update() {
            self.say(ports, Operation::CreditUpdate);
            if let Some(connection) = self.connections.get_mut(&ports) {
                connection.credit_told();
            }
        }
        self.watch(ports);
    }

    /// Waits at the host's socket for what the connection can use. While it is in turn for the guest's buffers, it does
    /// not wait for input.
    fn watch(&mut self, ports: Ports) {
        let Some(connection) = self.connections.get_mut(&ports) else {
            return;
        };
        let interest = Interest {
            readable: connection.can_receive() && !connection.is_queued,
            writable: connection.has_backlog(),
        };
        connection.watch(&self.poller, interest);
    }

    /// Fills the guest's buffers: control packets first, then data of the connections in turn.
    fn receive(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        while !self.controls.is_empty() || !self.receiving.is_empty() {
            let Some(mut chain) = queues.pop(RECEIVE)? else {
                break;
            };
            // Room for a header and some data.
            if chain.writable.len() <= HEADER as u64 {
                return Err(Broken::Request);
            }
            let written = if let Some(header) = self.controls.pop_front() {
                chain.writable.write(&header.bytes()) as u64
            } else {
                self.receive_data(&mut chain)
            };
            if written == 0 {
                queues.undo_pop(RECEIVE);
            } else {
                queues.push(RECEIVE, chain.head(), written)?;
            }
        }
        Ok(())
    }

    /// Reads from the next connection in turn into `chain`; gives the bytes of the packet, 0 when there is none.
    fn receive_data(&mut self, chain: &mut Chain<'_>) -> u64 {
        let Some(ports) = self.receiving.pop_front() else {
            return 0;
        };
        let Some(connection) = self.connections.get_mut(&ports) else {
            return 0;
        };
        connection.is_queued = false;
        if !connection.can_receive() {
            self.watch(ports);
            return 0;
        }
        let mut room = chain.writable.split_front(HEADER as u64);
        let most = u64::from(connection.credit()).min(MAX_PAYLOAD);
        let mut data = chain.writable.split_front(most);
        let (operation, len) = match connection.read(&mut data) {
            Ok(0) => (Operation::Shutdown, 0),
            Ok(len) => (Operation::Data, len),
            Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => {
                self.watch(ports);
                return 0;
            }
            Err(_) => (Operation::Reset, 0),
        };
        let mut header = self.header(ports, operation);
        header.len = len;
        if operation == Operation::Shutdown {
            header.flags = packet::SHUT_SEND;
        }
        room.write(&header.bytes());
        self.after_receive(ports, operation);
        HEADER as u64 + u64::from(len)
    }

    /// Where a connection stands after a packet of `operation` went to the guest.
    fn after_receive(&mut self, ports: Ports, operation: Operation) {
        if operation == Operation::Reset {
            self.forget(ports);
            return;
        }
        let Some(connection) = self.connections.get_mut(&ports) else {
            return;
        };
        connection.credit_told();
        if operation == Operation::Shutdown {
            connection.host_ended();
            self.settle(ports);
            return;
        }
        // More may be there: it goes to the end of the turn, without another wait.
        if connection.can_receive() {
            connection.is_queued = true;
            self.receiving.push_back(ports);
        }
        self.watch(ports);
    }

    fn host_event(&mut self, ready: Ready) {
        if ready.token == LISTENER {
            self.accept();
        } else if let Some(ports) = self.tokens.get(&ready.token).copied() {
            if let Some(connection) = self.connections.get_mut(&ports)
                && ready.readable
                && connection.can_receive()
                && !connection.is_queued
            {
                connection.is_queued = true;
                self.receiving.push_back(ports);
            }
            self.settle(ports);
        } else if self.greetings.contains_key(&ready.token) {
            self.hear_greeting(ready.token);
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            let Some(stream) = self.listener.accept() else {
                break;
            };
            // Too many: closing is the answer.
            if self.greetings.len() >= MAX_GREETINGS
                || self.controls.len() >= MAX_CONTROLS
                || self.connections.len() + self.greetings.len() >= self.options.max_connections
            {
                continue;
            }
            let token = self.token();
            let mut greeting = Greeting::new(stream, token);
            if greeting.watch(&self.poller, Interest::READABLE) {
                self.greetings.insert(token, greeting);
            }
        }
    }

    fn hear_greeting(&mut self, token: u64) {
        let Some(mut greeting) = self.greetings.remove(&token) else {
            return;
        };
        match greeting.hear() {
            Progress::Waiting => {
                self.greetings.insert(token, greeting);
            }
            Progress::Over => {
                greeting.watch(&self.poller, Interest::NONE);
            }
            Progress::Port(guest) => {
                greeting.watch(&self.poller, Interest::NONE);
                let host = self.free_port(guest);
                let ports = Ports { host, guest };
                let connection = Connection::from_host(greeting.into_fd(), token, host);
                self.add(ports, connection);
                self.say(ports, Operation::Request);
                self.watch(ports);
            }
        }
    }

    /// A host port not in use with guest port `guest`; there are far more ports than connections.
    fn free_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_port;
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_HOST_PORT);
            if !self.connections.contains_key(&Ports { host, guest }) {
                return host;
            }
        }
    }

    /// Tells the guest that all connections are gone, when that is due.
    fn send_event(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        if !self.owes_reset {
            return Ok(());
        }
        if let Some(mut chain) = queues.pop(EVENT)? {
            // VIRTIO_VSOCK_EVENT_TRANSPORT_RESET is 0.
            let written = chain.writable.write(&[0; 4]) as u64;
            queues.push(EVENT, chain.head(), written)?;
            self.owes_reset = false;
        }
        Ok(())
    }

    fn watch_listener(&mut self) {
        let interest = if self.is_active {
            Interest::READABLE
        } else {
            Interest::NONE
        };
        self.listener.watch(&self.poller, interest);
    }

    fn work(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        self.send_event(queues)?;
        self.receive(queues)?;
        self.transmit(queues)?;
        self.receive(queues)
    }
}

impl VirtioDevice for VsockDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Vsock
    }

    fn features(&self) -> u64 {
        // Without VIRTIO_VSOCK_F_STREAM (§5.10.3) only streams are offered, too; older drivers know no bits.
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[128, 128, 16]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_config_bytes(&self.options.guest_cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, _features: u64) {
        self.is_active = true;
        self.watch_listener();
    }

    fn process(&mut self, _queue: usize, queues: &mut Queues<'_>) -> Result<(), Broken> {
        self.work(queues)
    }

    fn host_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.poller.fd())
    }

    fn host_ready(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        for ready in self.poller.wait() {
            self.host_event(ready);
        }
        self.work(queues)
    }

    fn reset(&mut self) {
        self.connections.clear();
        self.tokens.clear();
        self.greetings.clear();
        self.receiving.clear();
        self.controls.clear();
        self.owes_reset = false;
        self.is_active = false;
        self.watch_listener();
    }

    fn save(&self) -> DeviceState {
        DeviceState::Vsock(VsockState {
            guest_cid: self.options.guest_cid,
            owes_reset: self.owes_reset || self.is_active,
        })
    }

    fn restore(&mut self, state: &DeviceState, features: Option<u64>) -> Result<(), RestoreError> {
        let DeviceState::Vsock(state) = state else {
            return Err(RestoreError::Device(DeviceType::Vsock));
        };
        // The guest asks for its context ID again after the reset event, so a clone may have another.
        self.owes_reset = state.owes_reset;
        if let Some(features) = features {
            self.activate(features);
        }
        Ok(())
    }
}

/// A non-blocking Unix stream socket.
fn unix_socket() -> Result<OwnedFd, rustix::io::Errno> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
}

#[cfg(test)]
mod tests;
