//! A hostile driver that an input steers: chains with contents, descriptors, registers, interrupted by snapshots.
//!
//! ```text
//!   input ─► device, operations ─► MmioTransport of that device ─► no panic, hang or growth
//! ```
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use atoll_memory::GuestMemory;
use atoll_virtio::{
    BalloonDevice, BlockDevice, BlockOptions, ConsoleDevice, FsDevice, FsOptions, Interrupt,
    MmioTransport, RngDevice, VirtioDevice, VsockDevice, VsockOptions,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};

const MEMORY: u64 = 1 << 20;
const SIZE: u16 = 16;
/// Where the rings of queue 0 lie; each queue has 0x4000 bytes.
const RINGS: u64 = 0x1_0000;
/// Where buffers begin.
const BUFFERS: u64 = 0x4_0000;
const MAX_OPERATIONS: usize = 200;

/// Bytes of the input, taken from the front; zeros when it is over.
#[derive(Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        front
    }

    fn number(&mut self, bytes: usize) -> u64 {
        let mut value = [0; 8];
        let front = self.take(bytes);
        value[..front.len()].copy_from_slice(front);
        u64::from_le_bytes(value)
    }
}

struct Nowhere;

impl Interrupt for Nowhere {
    fn raise(&self) {}
}

/// A device, and what must live as long.
struct Host {
    device: Box<dyn VirtioDevice>,
    peer: Option<OwnedFd>,
    _folder: TempDir,
}

fn host(number: u64) -> Host {
    let folder = tempfile::tempdir().expect("a folder for the device");
    let mut peer = None;
    let device: Box<dyn VirtioDevice> = match number % 7 {
        0 => Box::new(RngDevice::new()),
        1 => Box::new(BalloonDevice::new()),
        2 => {
            let file = tempfile::tempfile().expect("a disk");
            file.set_len(1 << 20).expect("a disk");
            Box::new(BlockDevice::new(file, &BlockOptions::default()).expect("a disk"))
        }
        3 => {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let kind = SocketType::STREAM;
            let pair = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None);
            let (ours, theirs) = pair.expect("a console");
            let output = ours.try_clone().expect("a console");
            peer = Some(theirs);
            Box::new(ConsoleDevice::new(Some(ours), Some(output)).expect("a console"))
        }
        4 => {
            let path = folder.path().join("v");
            // Where the guest's connections to port 1 go.
            let listener = std::os::unix::net::UnixListener::bind(folder.path().join("v_1"));
            peer = Some(listener.expect("a listener").into());
            let options = VsockOptions {
                guest_cid: 3,
                path,
                max_connections: 4,
            };
            Box::new(VsockDevice::new(options).expect("sockets"))
        }
        5 => {
            let layers = [700_000, 1].map(|bytes| {
                let file = tempfile::tempfile().expect("a layer");
                file.set_len(bytes).expect("a layer");
                file
            });
            Box::new(BlockDevice::of_layers(layers.into(), "").expect("a disk of layers"))
        }
        _ => {
            let root = folder.path().join("root");
            std::fs::create_dir_all(root.join("d")).expect("a share");
            std::fs::write(root.join("f"), "some text").expect("a share");
            std::os::unix::fs::symlink("../../..", root.join("l")).expect("a share");
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
            let share = rustix::fs::open(&root, flags, rustix::fs::Mode::empty());
            let mut options = FsOptions::new("x");
            // Files of the host must not grow with the inputs.
            options.read_only = true;
            Box::new(FsDevice::new(share.expect("a share"), options).expect("a share"))
        }
    };
    Host {
        device,
        peer,
        _folder: folder,
    }
}

/// Drives device `number` (modulo 7) as `input` says.
///
/// # Panics
/// When a device does, or breaks a promise: that a reset takes hold, that what it saved can be restored.
pub fn drive(number: u64, input: &mut Input<'_>) {
    let Host {
        device,
        peer,
        _folder,
    } = host(number);
    let queues = device.queue_sizes().len() as u64;
    let memory = GuestMemory::new(MEMORY).expect("memory");
    let transport = MmioTransport::new(device, memory.clone(), Box::new(Nowhere));
    let mut driver = Driver {
        transport,
        memory,
        queues,
        available: vec![0; queues as usize],
        next_buffer: BUFFERS,
    };
    driver.start(input.number(1) & 1 == 0);
    for _ in 0..MAX_OPERATIONS {
        if input.0.is_empty() {
            break;
        }
        driver.step(input, peer.as_ref());
    }
    driver.write(0x70, 0);
    assert_eq!(driver.read(0x70), 0, "a reset takes hold");
}

struct Driver {
    transport: MmioTransport,
    memory: GuestMemory,
    queues: u64,
    available: Vec<u16>,
    next_buffer: u64,
}

impl Driver {
    fn start(&mut self, event_index: bool) {
        self.write(0x70, 1);
        self.write(0x70, 3);
        for half in 0..2 {
            self.write(0x14, half);
            self.write(0x24, half);
            let hidden = if event_index || half == 1 { 0 } else { 1 << 29 };
            self.write(0x20, self.read(0x10) & !hidden);
        }
        self.write(0x70, 11);
        for queue in 0..self.queues {
            let rings = RINGS + queue * 0x4000;
            self.write(0x30, queue as u32);
            self.write(0x38, u32::from(SIZE));
            self.write(0x80, rings as u32);
            self.write(0x90, rings as u32 + 0x1000);
            self.write(0xA0, rings as u32 + 0x2000);
            self.write(0x44, 1);
        }
        self.write(0x70, 15);
    }

    fn step(&mut self, input: &mut Input<'_>, peer: Option<&OwnedFd>) {
        match input.number(1) % 9 {
            0..=2 => self.chain(input),
            3 => {
                let queue = input.number(1) % self.queues;
                let at = RINGS + queue * 0x4000 + input.number(1) % 0x300 * 8;
                self.put(input.take(16), at);
                self.write(0x50, queue as u32);
            }
            4 => self.write((input.number(1) * 4) % 0x110, input.number(4) as u32),
            5 => {
                let (offset, len) = (input.number(2) % 0x200, input.number(1) as usize % 9);
                self.transport.read(offset, &mut [0; 8][..len]);
                let bytes = input.take(len);
                self.transport.write(offset, bytes);
            }
            6 => self.transport.host_ready(),
            7 => {
                let state = self.transport.save();
                let text = serde_json::to_vec(&state).expect("a state is JSON");
                let state = serde_json::from_slice(&text).expect("JSON is a state");
                let restored = self.transport.restore(&state);
                assert!(restored.is_ok(), "{restored:?} of {state:?}");
                self.transport.resume();
            }
            _ => {
                if let Some(peer) = peer {
                    let len = input.number(1) as usize;
                    let _ = rustix::io::write(peer, input.take(len));
                    self.transport.host_ready();
                }
            }
        }
    }

    /// A chain of up to four buffers, those to be read by the device filled from the input.
    fn chain(&mut self, input: &mut Input<'_>) {
        let queue = input.number(1) % self.queues;
        let rings = RINGS + queue * 0x4000;
        let shape = input.number(1);
        let count = shape % 4 + 1;
        for index in 0..count {
            let is_writable = shape >> (4 + index) & 1 != 0;
            let len = input.number(1) * if is_writable { 32 } else { 1 };
            let address = self.buffer(len);
            if !is_writable {
                self.put(input.take(len as usize), address);
            }
            let flags = u16::from(index + 1 < count) | u16::from(is_writable) << 1;
            let mut descriptor = address.to_le_bytes().to_vec();
            descriptor.extend((len as u32).to_le_bytes());
            descriptor.extend(flags.to_le_bytes());
            descriptor.extend((index as u16 + 1).to_le_bytes());
            self.put(&descriptor, rings + index * 16);
        }
        let available = &mut self.available[queue as usize];
        let slot = rings + 0x1000 + 4 + u64::from(*available % SIZE) * 2;
        *available = available.wrapping_add(1);
        let index = *available;
        self.put(&0u16.to_le_bytes(), slot);
        self.put(&index.to_le_bytes(), rings + 0x1002);
        self.write(0x50, queue as u32);
    }

    fn buffer(&mut self, len: u64) -> u64 {
        if self.next_buffer + len > MEMORY {
            self.next_buffer = BUFFERS;
        }
        let address = self.next_buffer;
        self.next_buffer += len;
        address
    }

    fn put(&self, bytes: &[u8], at: u64) {
        let written = self.memory.write_slice(bytes, GuestAddress(at));
        written.expect("drivers write into memory");
    }

    fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }
}
