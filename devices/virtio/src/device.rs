//! What a virtio device is, whatever the transport.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::balloon::BalloonState;
use crate::console::ConsoleState;
use crate::fs::FsState;
use crate::net::NetOptions;
use crate::ring::{Broken, Queues};
use crate::vsock::VsockState;

/// The devices of this crate; the value is the virtio device ID (virtio 1.3 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u32)]
pub enum DeviceType {
    /// None: a place without a device, which drivers leave alone (§4.2.2, `DeviceID`).
    Placeholder = 0,
    /// Network card (§5.1).
    Net = 1,
    /// Block device (§5.2).
    Block = 2,
    /// Console (§5.3).
    Console = 3,
    /// Entropy device (§5.4).
    Rng = 4,
    /// Traditional memory balloon (§5.5).
    Balloon = 5,
    /// Socket device (§5.10).
    Vsock = 19,
    /// File system device (§5.11).
    Fs = 26,
}

/// A device could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The backing file has a length a block device can't have.
    #[error("disk of {0} bytes: a multiple of 512 is needed")]
    DiskLength(u64),
    /// No disk has so many layers.
    #[error("{0} layers: a disk has 1 to {max}", max = crate::MAX_PARTITIONS)]
    LayerCount(usize),
    /// A file can't be a layer.
    #[error("layer {number} is unfit")]
    Layer {
        /// Which, from 1.
        number: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot {0}")]
    Kernel(&'static str, #[source] io::Error),
    /// A name the guest is to see is too long or empty.
    #[error("`{0}` cannot be shown to the guest: 1 to {1} bytes are needed")]
    Name(String, usize),
    /// The context ID is one of the reserved ones.
    #[error("vsock context ID {0} is reserved: 3 is the first a guest can have")]
    ContextId(u64),
    /// Nothing can be plugged in here, or taken out.
    #[error("a {0:?} cannot be exchanged while its machine is there")]
    Fixed(DeviceType),
    /// A network card is there already.
    #[error("there is a network card already")]
    Occupied,
}

/// A saved state does not fit the device it is restored into.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// It is another device's.
    #[error("state of another device than {0:?}")]
    Device(DeviceType),
    /// A queue's size, address or count is none this device can have.
    #[error("queue {0} cannot be restored")]
    Queue(usize),
    /// The guest negotiated features this device does not offer.
    #[error("features {0:#x} are not offered here")]
    Features(u64),
    /// The device's own part does not fit the host.
    #[error("cannot restore the device: {0}")]
    Host(String),
}

/// A device's own part of a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DeviceState {
    /// The device keeps nothing between two requests (block, net, rng).
    Stateless,
    /// Console.
    Console(ConsoleState),
    /// Sockets.
    Vsock(VsockState),
    /// Balloon.
    Balloon(BalloonState),
    /// Shared directory.
    Fs(FsState),
}

/// A virtio device behind some transport, which calls it from one thread at a time.
pub trait VirtioDevice: Send {
    /// Which device it is.
    fn device_type(&self) -> DeviceType;

    /// The device's own feature bits; the transport adds the general ones.
    fn features(&self) -> u64;

    /// For each queue, the largest size offered: powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// Reads the configuration space at `offset`; bytes beyond it stay as they are (zero).
    fn read_config(&self, offset: usize, data: &mut [u8]);

    /// Writes the configuration space at `offset`; fields that are none or not writable ignore it.
    fn write_config(&mut self, _offset: usize, _data: &[u8]) {}

    /// The driver is ready; `features` are those negotiated.
    fn activate(&mut self, features: u64);

    /// Works on queue `queue`, in which the driver may have put something.
    ///
    /// # Errors
    /// [`Broken`] when the driver broke the rules in a way only a reset mends.
    fn process(&mut self, queue: usize, queues: &mut Queues<'_>) -> Result<(), Broken>;

    /// A descriptor to poll for input, the same for the device's whole life.
    fn host_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Something happened at [`VirtioDevice::host_fd`]. Called only while the driver is ready.
    ///
    /// # Errors
    /// As [`VirtioDevice::process`].
    fn host_ready(&mut self, _queues: &mut Queues<'_>) -> Result<(), Broken> {
        Ok(())
    }

    /// Back to the state before [`VirtioDevice::activate`].
    fn reset(&mut self);

    /// Puts a network card into the place this is, or with `None` takes out the one that is there. Called after a reset,
    /// and followed by one: the driver finds another device.
    ///
    /// * `card`: a tap as [`NetDevice::new`](crate::NetDevice::new) takes it.
    ///
    /// # Errors
    /// [`DeviceError::Fixed`] for devices that are no such place, [`DeviceError::Occupied`], [`DeviceError::Kernel`] when
    /// the descriptor is no tap. All stays as it was then.
    fn exchange(&mut self, _card: Option<(OwnedFd, NetOptions)>) -> Result<(), DeviceError> {
        Err(DeviceError::Fixed(self.device_type()))
    }

    /// The device's part of a snapshot.
    fn save(&self) -> DeviceState {
        DeviceState::Stateless
    }

    /// Takes over a snapshot's part; `features` are those negotiated then, `None` when the driver was not ready.
    ///
    /// # Errors
    /// [`RestoreError`] when the state is another device's, or the host lacks what it names.
    fn restore(&mut self, state: &DeviceState, features: Option<u64>) -> Result<(), RestoreError> {
        if *state != DeviceState::Stateless {
            return Err(RestoreError::Device(self.device_type()));
        }
        if let Some(features) = features {
            self.activate(features);
        }
        Ok(())
    }
}

/// Reads from `config`, a configuration space's bytes, at `offset`.
pub(crate) fn read_config_bytes(config: &[u8], offset: usize, data: &mut [u8]) {
    let Some(rest) = config.get(offset..) else {
        return;
    };
    let count = rest.len().min(data.len());
    data[..count].copy_from_slice(&rest[..count]);
}
