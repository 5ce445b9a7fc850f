//! virtio 1.3 devices over memory-mapped I/O (split queues), with everything a guest sends taken as hostile.
//!
//! ```text
//!   vCPU ── read/write at an offset ──▶ MmioTransport ──▶ VirtioDevice ◀── host_ready ── epoll thread
//!   I/O thread ── notify(queue) ───────▶   │  queues in GuestMemory            │
//!   guest ◀── Interrupt::raise ────────────┘                    host file, tap, sockets, terminal
//! ```
//!
//! The monitor makes a device ([`BlockDevice`], [`ConsoleDevice`], [`VsockDevice`], [`NetDevice`], [`RngDevice`],
//! [`FsDevice`], [`BalloonDevice`]), puts it into an [`MmioTransport`] and
//!
//! 1. routes the device's 4 KiB page to [`MmioTransport::read`] and [`MmioTransport::write`];
//! 2. gives it an [`Interrupt`], an edge-triggered line;
//! 3. polls [`MmioTransport::host_fd`] for input, level-triggered, and calls [`MmioTransport::host_ready`] when it is
//!    readable. There is one such descriptor a device at most, for its whole life: devices with many host
//!    descriptors keep them in an epoll instance of their own;
//! 4. may take doorbells (the 32-bit store of a queue's index at [`QUEUE_NOTIFY`]) off the vCPU thread: by ioeventfd,
//!    or by a [`Doorbell`] given to [`MmioTransport::with_doorbell`]. Some other thread then calls
//!    [`MmioTransport::notify`];
//! 5. saves with [`MmioTransport::save`] while no vCPU runs, and makes the same machine elsewhere with
//!    [`MmioTransport::restore`] and then [`MmioTransport::resume`].
//!
//! All methods take `&self` and may be called from any thread; a device is worked on by one thread at a time. They
//! may block for as long as the host's files do, and they never panic: a driver that breaks the rules finds
//! `DEVICE_NEEDS_RESET` in its status (§2.1.2).
//!
//! It expects SIGPIPE to be ignored, as it is in Rust programs: host ends may be gone.
//!
//! The crate starts no threads, knows no CPU and no interrupt controller, and opens no host path but those its
//! constructors are given.

#![forbid(unsafe_code)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "registers, ring indices and ports are the low bits of wider values; lengths are checked where they matter"
)]

mod balloon;
mod block;
mod chain;
mod console;
mod device;
mod fs;
mod net;
mod poller;
mod ring;
mod rng;
mod transport;
mod vsock;

#[cfg(test)]
mod driver;
#[cfg(test)]
mod hostile;

pub use balloon::{BalloonControl, BalloonDevice, BalloonState};
pub use block::{BlockDevice, BlockOptions, MAX_PARTITIONS, slots_for};
pub use chain::{Buffers, Chain};
pub use console::{ConsoleDevice, ConsoleSize, ConsoleState};
pub use device::{DeviceError, DeviceState, DeviceType, RestoreError, VirtioDevice};
pub use fs::{FsDevice, FsOptions, FsState, SavedHandle, SavedNode};
pub use net::{NetDevice, NetOptions};
pub use ring::{Broken, QueueState, Queues};
pub use rng::RngDevice;
pub use transport::{
    Doorbell, Interrupt, MmioTransport, QUEUE_NOTIFY, TransportState, WINDOW, read_placeholder,
};
pub use vsock::{VsockDevice, VsockOptions, VsockState};
