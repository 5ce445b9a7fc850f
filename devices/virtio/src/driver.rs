//! A small driver for tests: negotiates, builds rings in a guest's memory, sends and collects chains.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use atoll_memory::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use crate::device::VirtioDevice;
use crate::transport::{Interrupt, MmioTransport, status};

/// Entries of each queue.
pub(crate) const SIZE: u16 = 16;
const MEMORY: u64 = 8 << 20;
const BUFFERS: u64 = 1 << 20;

/// Descriptor flags (virtio 1.3 §2.7.5).
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// Counts interrupts.
#[derive(Clone, Default)]
pub(crate) struct Line(pub(crate) Arc<AtomicU32>);

impl Interrupt for Line {
    fn raise(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// One descriptor's worth of a chain.
pub(crate) enum Part<'a> {
    Out(&'a [u8]),
    In(usize),
}

/// Where a queue's rings lie.
pub(crate) fn descriptors_at(queue: usize) -> u64 {
    0x10000 + queue as u64 * 0x4000
}

pub(crate) fn available_at(queue: usize) -> u64 {
    descriptors_at(queue) + 0x1000
}

pub(crate) fn used_at(queue: usize) -> u64 {
    descriptors_at(queue) + 0x2000
}

pub(crate) struct Driver {
    pub(crate) memory: GuestMemory,
    pub(crate) transport: MmioTransport,
    pub(crate) line: Line,
    queues: Vec<Queue>,
    next_buffer: u64,
}

#[derive(Default)]
struct Queue {
    next_descriptor: u16,
    available: u16,
    used: u16,
    // Where the writable parts of the chain with a head lie.
    rooms: Vec<(u16, Vec<(u64, usize)>)>,
}

impl Driver {
    /// A driver that accepts everything offered but event indices, and is ready.
    pub(crate) fn start(device: Box<dyn VirtioDevice>) -> Self {
        Self::with_features(device, !crate::transport::RING_EVENT_IDX)
    }

    /// A driver that accepts what is offered of `wanted`, and is ready.
    pub(crate) fn with_features(device: Box<dyn VirtioDevice>, wanted: u64) -> Self {
        let memory = GuestMemory::new(MEMORY).unwrap();
        let mut driver = Self::over(device, memory);
        driver.negotiate(wanted);
        driver.set_up_queues();
        driver.write(0x70, driver.read(0x70) | status::DRIVER_OK);
        assert_eq!(driver.read(0x70), 0xF);
        driver
    }

    /// A driver that has done nothing yet.
    pub(crate) fn over(device: Box<dyn VirtioDevice>, memory: GuestMemory) -> Self {
        let queues = device.queue_sizes().len();
        let line = Line::default();
        Self {
            transport: MmioTransport::new(device, memory.clone(), Box::new(line.clone())),
            memory,
            line,
            queues: (0..queues).map(|_| Queue::default()).collect(),
            next_buffer: BUFFERS,
        }
    }

    pub(crate) fn negotiate(&mut self, wanted: u64) {
        self.write(0x70, status::ACKNOWLEDGE);
        self.write(0x70, status::ACKNOWLEDGE | status::DRIVER);
        for half in 0..2 {
            self.write(0x14, half);
            self.write(0x24, half);
            let offered = self.read(0x10);
            self.write(0x20, offered & (wanted >> (32 * half)) as u32);
        }
        self.write(0x70, self.read(0x70) | status::FEATURES_OK);
    }

    pub(crate) fn set_up_queues(&mut self) {
        for queue in 0..self.queues.len() {
            self.write(0x30, queue as u32);
            self.write(0x38, u32::from(SIZE));
            self.write(0x80, descriptors_at(queue) as u32);
            self.write(0x90, available_at(queue) as u32);
            self.write(0xA0, used_at(queue) as u32);
            self.write(0x44, 1);
            assert_eq!(self.read(0x44), 1);
        }
    }

    pub(crate) fn read(&self, offset: u64) -> u32 {
        let mut data = [0xEE; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn write(&self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    pub(crate) fn config(&self, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.transport.read(0x100, &mut data);
        data
    }

    pub(crate) fn interrupts(&self) -> u32 {
        self.line.0.load(Ordering::SeqCst)
    }

    /// Room in memory for a buffer, zeroed.
    pub(crate) fn buffer(&mut self, len: usize) -> u64 {
        if self.next_buffer + len as u64 > MEMORY {
            self.next_buffer = BUFFERS;
        }
        let address = self.next_buffer;
        self.next_buffer += (len as u64).next_multiple_of(16);
        let zeroes = vec![0; len];
        self.memory
            .write_slice(&zeroes, GuestAddress(address))
            .unwrap();
        address
    }

    /// Writes descriptor `index` of `queue` as it stands.
    pub(crate) fn descriptor(&self, queue: usize, index: u16, of: (u64, u32, u16, u16)) {
        write_descriptor(
            &self.memory,
            descriptors_at(queue) + u64::from(index) * 16,
            of,
        );
    }

    /// Makes the chain at `head` available.
    pub(crate) fn make_available(&mut self, queue: usize, head: u16) {
        let state = &mut self.queues[queue];
        let slot = available_at(queue) + 4 + u64::from(state.available % SIZE) * 2;
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        state.available = state.available.wrapping_add(1);
        self.set_available_index(queue, self.queues[queue].available);
    }

    pub(crate) fn set_available_index(&self, queue: usize, index: u16) {
        let address = GuestAddress(available_at(queue) + 2);
        self.memory.write_obj(index, address).unwrap();
    }

    /// Puts a chain into `queue`; gives its head.
    pub(crate) fn submit(&mut self, queue: usize, parts: &[Part<'_>]) -> u16 {
        assert!(!parts.is_empty() && parts.len() <= usize::from(SIZE));
        let mut first = self.queues[queue].next_descriptor;
        if usize::from(first) + parts.len() > usize::from(SIZE) {
            first = 0;
        }
        self.queues[queue].next_descriptor = first + parts.len() as u16;
        let mut rooms = Vec::new();
        for (position, part) in parts.iter().enumerate() {
            let index = first + position as u16;
            let goes_on = if position + 1 < parts.len() { NEXT } else { 0 };
            let (address, len, flags) = match part {
                Part::Out(bytes) => {
                    let address = self.buffer(bytes.len());
                    self.memory
                        .write_slice(bytes, GuestAddress(address))
                        .unwrap();
                    (address, bytes.len(), goes_on)
                }
                Part::In(len) => {
                    let address = self.buffer(*len);
                    rooms.push((address, *len));
                    (address, *len, goes_on | WRITE)
                }
            };
            self.descriptor(queue, index, (address, len as u32, flags, index + 1));
        }
        self.queues[queue].rooms.retain(|(head, _)| *head != first);
        self.queues[queue].rooms.push((first, rooms));
        self.make_available(queue, first);
        first
    }

    pub(crate) fn kick(&self, queue: usize) {
        self.write(0x50, queue as u32);
    }

    /// The next used chain: head and bytes written.
    pub(crate) fn used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let index: u16 = self
            .memory
            .read_obj(GuestAddress(used_at(queue) + 2))
            .unwrap();
        let state = &mut self.queues[queue];
        if state.used == index {
            return None;
        }
        let slot = used_at(queue) + 4 + u64::from(state.used % SIZE) * 8;
        state.used = state.used.wrapping_add(1);
        let head: u32 = self.memory.read_obj(GuestAddress(slot)).unwrap();
        let written: u32 = self.memory.read_obj(GuestAddress(slot + 4)).unwrap();
        Some((head as u16, written))
    }

    /// The whole writable part of the chain with `head`.
    pub(crate) fn room(&self, queue: usize, head: u16) -> Vec<u8> {
        let (_, rooms) = self.queues[queue]
            .rooms
            .iter()
            .find(|(known, _)| *known == head)
            .unwrap();
        let mut all = Vec::new();
        for (address, len) in rooms {
            let mut bytes = vec![0; *len];
            self.memory
                .read_slice(&mut bytes, GuestAddress(*address))
                .unwrap();
            all.extend(bytes);
        }
        all
    }

    /// The next used chain's answer, cut to what was written.
    pub(crate) fn received(&mut self, queue: usize) -> Option<Vec<u8>> {
        let (head, written) = self.used(queue)?;
        let mut bytes = self.room(queue, head);
        bytes.truncate(written as usize);
        Some(bytes)
    }

    /// Sends `out`, offers `room`, and waits for the answer: bytes written, and the whole room.
    pub(crate) fn request(
        &mut self,
        queue: usize,
        out: &[&[u8]],
        room: &[usize],
    ) -> (u32, Vec<u8>) {
        let out = out.iter().map(|bytes| Part::Out(bytes));
        let room = room.iter().map(|len| Part::In(*len));
        let parts: Vec<Part<'_>> = out.chain(room).collect();
        let head = self.submit(queue, &parts);
        self.kick(queue);
        let (used, written) = self.used(queue).expect("the request is answered");
        assert_eq!(used, head);
        (written, self.room(queue, head))
    }

    /// Polls the device's host end until `done`, for at most ten seconds.
    pub(crate) fn poll_until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        use rustix::event::{PollFd, PollFlags, Timespec};
        let fd = self.transport.host_fd().unwrap().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !done(self) {
            assert!(std::time::Instant::now() < deadline, "nothing happened");
            let step = Timespec {
                tv_sec: 0,
                tv_nsec: 20_000_000,
            };
            let mut fds = [PollFd::new(&fd, PollFlags::IN)];
            if rustix::event::poll(&mut fds, Some(&step)).unwrap() > 0 {
                self.transport.host_ready();
            }
        }
    }

    /// Whether the device's host end has something to do now.
    pub(crate) fn is_host_ready(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec};
        let fd = self.transport.host_fd().unwrap().unwrap();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut fds, Some(&now)).unwrap() > 0
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.read(0x70) & status::NEEDS_RESET != 0
    }
}

/// Writes a descriptor: address, length, flags, next.
pub(crate) fn write_descriptor(
    memory: &GuestMemory,
    at: u64,
    (address, len, flags, next): (u64, u32, u16, u16),
) {
    memory.write_obj(address, GuestAddress(at)).unwrap();
    memory.write_obj(len, GuestAddress(at + 8)).unwrap();
    memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
    memory.write_obj(next, GuestAddress(at + 14)).unwrap();
}
