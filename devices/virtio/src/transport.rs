//! The memory-mapped transport (virtio 1.3 §4.2, version 2).

mod registers;
mod state;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use atoll_memory::GuestMemory;

use self::registers::Register;
use crate::device::{DeviceError, DeviceType, VirtioDevice};
use crate::net::NetOptions;
use crate::ring::{Broken, Queues, Ring};

pub use self::state::TransportState;

/// Bytes of a device's register window.
pub const WINDOW: u64 = 0x1000;
/// Offset of the doorbell: a 32-bit store of a queue's index (§4.2.2, `QueueNotify`).
pub const QUEUE_NOTIFY: u64 = 0x50;
/// Offset of the device's configuration space.
const CONFIG: u64 = 0x100;

/// "virt" (§4.2.2, `MagicValue`).
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "ATOL": who made the device; drivers don't ask.
const VENDOR: u32 = 0x4C4F_5441;

/// General feature bits (§6).
const RING_INDIRECT_DESC: u64 = 1 << 28;
pub(crate) const RING_EVENT_IDX: u64 = 1 << 29;
pub(crate) const VERSION_1: u64 = 1 << 32;
const GENERAL: u64 = VERSION_1 | RING_EVENT_IDX | RING_INDIRECT_DESC;

/// Device status bits (§2.1).
pub(crate) mod status {
    pub(crate) const ACKNOWLEDGE: u32 = 1;
    pub(crate) const DRIVER: u32 = 2;
    pub(crate) const DRIVER_OK: u32 = 4;
    pub(crate) const FEATURES_OK: u32 = 8;
    pub(crate) const NEEDS_RESET: u32 = 64;
    pub(crate) const FAILED: u32 = 128;
}

/// Interrupt status bits (§4.2.2, `InterruptStatus`).
const USED_BUFFER: u32 = 1;
const CONFIG_CHANGE: u32 = 2;

/// A device's interrupt line, edge-triggered.
///
/// Called with the device locked, so it must not call back into the transport.
pub trait Interrupt: Send + Sync {
    /// Raises the interrupt once.
    fn raise(&self);
}

/// Reads at `offset` the window of a place that never had a device: one without function, which drivers leave alone
/// (§4.2.2, `DeviceID`).
pub fn read_placeholder(offset: u64, data: &mut [u8]) {
    data.fill(0);
    let value = match Register::at(offset) {
        Some(Register::Magic) => MAGIC,
        Some(Register::Version) => VERSION,
        Some(Register::Vendor) => VENDOR,
        _ => 0,
    };
    if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
        *data = value.to_le_bytes();
    }
}

/// Where the guest's doorbells go when the vCPU's thread is not to do the work.
pub trait Doorbell: Send + Sync {
    /// Has some thread call [`MmioTransport::notify`] with `queue` soon.
    fn ring(&self, queue: u32);
}

/// One device's register window.
pub struct MmioTransport {
    memory: GuestMemory,
    interrupt: Box<dyn Interrupt>,
    doorbell: Option<Box<dyn Doorbell>>,
    // Outside the lock: an interrupt handler must not wait for a disk.
    interrupt_status: AtomicU32,
    generation: AtomicU32,
    core: Mutex<Core>,
}

/// What the device's lock protects.
struct Core {
    device: Box<dyn VirtioDevice>,
    rings: Vec<Ring>,
    offered: u64,
    accepted: u64,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u32,
    status: u32,
}

impl fmt::Debug for MmioTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmioTransport").finish_non_exhaustive()
    }
}

impl MmioTransport {
    /// Puts `device` of a guest with `memory` behind registers.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemory,
        interrupt: Box<dyn Interrupt>,
    ) -> Self {
        let rings = device.queue_sizes().iter().copied().map(Ring::new);
        let core = Core {
            rings: rings.collect(),
            offered: device.features() | GENERAL,
            device,
            accepted: 0,
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
            status: 0,
        };
        Self {
            memory,
            interrupt,
            doorbell: None,
            interrupt_status: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            core: Mutex::new(core),
        }
    }

    /// Sends doorbells written through [`MmioTransport::write`] to `doorbell` instead of serving them in place.
    #[must_use]
    pub fn with_doorbell(mut self, doorbell: Box<dyn Doorbell>) -> Self {
        self.doorbell = Some(doorbell);
        self
    }

    /// Reads `data.len()` bytes of the window at `offset`.
    ///
    /// Registers are read by aligned 32-bit accesses; any other width reads zero there (§4.2.2.2). The configuration
    /// space takes any width.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(CONFIG) {
            let offset = usize::try_from(offset).unwrap_or(usize::MAX);
            self.lock().device.read_config(offset, data);
        } else if let (Some(register), Ok(data)) =
            (Register::at(offset), <&mut [u8; 4]>::try_from(data))
        {
            *data = self.read_register(register).to_le_bytes();
        }
    }

    /// Writes `data` to the window at `offset`; accesses no register allows are ignored.
    pub fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            let offset = usize::try_from(offset).unwrap_or(usize::MAX);
            self.lock().device.write_config(offset, data);
        } else if let (Some(register), Ok(data)) = (Register::at(offset), <[u8; 4]>::try_from(data))
        {
            self.write_register(register, u32::from_le_bytes(data));
        }
    }

    /// Serves the doorbell of `queue`: what the driver put there is worked on.
    pub fn notify(&self, queue: u32) {
        let mut core = self.lock();
        let queue = queue as usize;
        if queue < core.rings.len() {
            self.work(&mut core, |device, queues| device.process(queue, queues));
        }
    }

    /// Queues that the device has; each has a doorbell of its own.
    pub fn queues(&self) -> u32 {
        self.lock().rings.len() as u32
    }

    /// Which device is there now.
    pub fn device_type(&self) -> DeviceType {
        self.lock().device.device_type()
    }

    /// Puts a network card into this place, or takes out the one that is there; a driver that has it finds it reset.
    ///
    /// # Errors
    /// As [`VirtioDevice::exchange`].
    pub fn exchange(&self, card: Option<(OwnedFd, NetOptions)>) -> Result<(), DeviceError> {
        let mut core = self.lock();
        let is_there = core.device.device_type();
        if card.is_none() && matches!(is_there, DeviceType::Net | DeviceType::Placeholder) {
            self.reset(&mut core);
        }
        // What it refuses it refuses undisturbed.
        core.device.exchange(card)?;
        self.reset(&mut core);
        core.offered = core.device.features() | GENERAL;
        Ok(())
    }

    /// A duplicate of the descriptor to poll for input (level-triggered), if the device has a host end.
    ///
    /// # Errors
    /// When no descriptor is free.
    pub fn host_fd(&self) -> io::Result<Option<OwnedFd>> {
        let core = self.lock();
        core.device
            .host_fd()
            .map(|fd| fd.try_clone_to_owned())
            .transpose()
    }

    /// Serves what made [`MmioTransport::host_fd`] readable.
    pub fn host_ready(&self) {
        let mut core = self.lock();
        self.work(&mut core, |device, queues| device.host_ready(queues));
    }

    /// Tells the driver that the configuration space changed.
    pub fn config_changed(&self) {
        let core = self.lock();
        if core.status & status::DRIVER_OK != 0 {
            self.generation.fetch_add(1, Ordering::AcqRel);
            self.raise(CONFIG_CHANGE);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the device work, if the driver is ready; then raises the interrupts that are due.
    fn work(
        &self,
        core: &mut Core,
        step: impl FnOnce(&mut dyn VirtioDevice, &mut Queues<'_>) -> Result<(), Broken>,
    ) {
        if core.status & status::DRIVER_OK == 0 || core.status & status::NEEDS_RESET != 0 {
            return;
        }
        let mut queues = Queues::new(&self.memory, &mut core.rings);
        let mut outcome = step(core.device.as_mut(), &mut queues);
        let mut due = false;
        for ring in &mut core.rings {
            match ring.take_signal(&self.memory) {
                Ok(wanted) => due |= wanted,
                Err(why) => outcome = outcome.and(Err(why)),
            }
        }
        if due {
            self.raise(USED_BUFFER);
        }
        if outcome.is_err() {
            self.demand_reset(core);
        }
    }

    /// Gives up on the driver until it resets the device (§2.1.2).
    fn demand_reset(&self, core: &mut Core) {
        core.status |= status::NEEDS_RESET;
        core.device.reset();
        if core.status & status::DRIVER_OK != 0 {
            self.raise(CONFIG_CHANGE);
        }
    }

    fn raise(&self, bit: u32) {
        self.interrupt_status.fetch_or(bit, Ordering::AcqRel);
        self.interrupt.raise();
    }

    fn read_register(&self, register: Register) -> u32 {
        match register {
            Register::Magic => return MAGIC,
            Register::Version => return VERSION,
            Register::Vendor => return VENDOR,
            Register::InterruptStatus => return self.interrupt_status.load(Ordering::Acquire),
            Register::ConfigGeneration => return self.generation.load(Ordering::Acquire),
            _ => {}
        }
        let core = self.lock();
        let selected = core.rings.get(core.queue_select as usize);
        match register {
            Register::DeviceId => core.device.device_type() as u32,
            Register::DeviceFeatures => half(core.offered, core.device_features_select),
            Register::QueueSizeMax => selected.map_or(0, |ring| u32::from(ring.max_size())),
            Register::QueueReady => selected.map_or(0, |ring| u32::from(ring.is_ready())),
            Register::Status => core.status,
            // No shared memory region: length and address are all ones (§4.2.2).
            Register::SharedMemory => u32::MAX,
            _ => 0,
        }
    }

    fn write_register(&self, register: Register, value: u32) {
        match register {
            Register::InterruptAck => {
                self.interrupt_status.fetch_and(!value, Ordering::AcqRel);
                return;
            }
            Register::QueueNotify => {
                match &self.doorbell {
                    Some(doorbell) => doorbell.ring(value),
                    None => self.notify(value),
                }
                return;
            }
            _ => {}
        }
        let mut core = self.lock();
        match register {
            Register::DeviceFeaturesSelect => core.device_features_select = value,
            Register::DriverFeaturesSelect => core.driver_features_select = value,
            Register::DriverFeatures => core.accept(value),
            Register::QueueSelect => core.queue_select = value,
            Register::QueueReady => self.write_queue_ready(&mut core, value),
            Register::Status => self.write_status(&mut core, value),
            _ => core.write_queue(register, value),
        }
    }

    fn write_queue_ready(&self, core: &mut Core, value: u32) {
        let event_index = core.accepted & RING_EVENT_IDX != 0;
        let may_start = core.in_setup();
        let Some(ring) = core.rings.get_mut(core.queue_select as usize) else {
            return;
        };
        if value == 0 {
            ring.stop();
            return;
        }
        let Some(registers) = ring.registers().filter(|_| may_start) else {
            return;
        };
        let mut state = *registers;
        state.next_available = 0;
        state.next_used = 0;
        if ring.start(&self.memory, state, event_index).is_err() {
            self.demand_reset(core);
        }
    }

    /// The status state machine (§2.1, §3.1.1): a driver goes forward bit by bit, or back to 0.
    fn write_status(&self, core: &mut Core, value: u32) {
        if value == 0 {
            self.reset(core);
            return;
        }
        let settable = status::ACKNOWLEDGE
            | status::DRIVER
            | status::FEATURES_OK
            | status::DRIVER_OK
            | status::FAILED;
        // A driver must not clear a bit (§2.1.1).
        if core.status & settable & !value != 0 {
            return;
        }
        core.status |= value & (status::ACKNOWLEDGE | status::DRIVER | status::FAILED);
        let is_new = |core: &Core, bit| value & !core.status & bit != 0;
        let agreed = core.accepted & !core.offered == 0 && core.accepted & VERSION_1 != 0;
        if is_new(core, status::FEATURES_OK) && core.status & status::DRIVER != 0 && agreed {
            core.status |= status::FEATURES_OK;
        }
        if is_new(core, status::DRIVER_OK)
            && core.status & status::FEATURES_OK != 0
            && core.status & (status::NEEDS_RESET | status::FAILED) == 0
        {
            core.status |= status::DRIVER_OK;
            core.device.activate(core.accepted);
            self.process_all(core);
        }
    }

    /// Looks into every queue: a driver may have filled some before it was ready.
    fn process_all(&self, core: &mut Core) {
        for queue in 0..core.rings.len() {
            self.work(core, |device, queues| device.process(queue, queues));
        }
    }

    fn reset(&self, core: &mut Core) {
        core.device.reset();
        for ring in &mut core.rings {
            *ring = Ring::new(ring.max_size());
        }
        core.accepted = 0;
        core.device_features_select = 0;
        core.driver_features_select = 0;
        core.queue_select = 0;
        core.status = 0;
        self.interrupt_status.store(0, Ordering::Release);
    }
}

impl Core {
    /// Whether the driver is between feature negotiation and being ready, when queues are set up (§3.1.1).
    fn in_setup(&self) -> bool {
        self.status & status::FEATURES_OK != 0
            && self.status & (status::DRIVER_OK | status::NEEDS_RESET) == 0
    }

    fn accept(&mut self, value: u32) {
        if self.status & status::FEATURES_OK != 0 {
            return;
        }
        let value = u64::from(value);
        match self.driver_features_select {
            0 => self.accepted = self.accepted & !0xFFFF_FFFF | value,
            1 => self.accepted = self.accepted & 0xFFFF_FFFF | value << 32,
            _ => {}
        }
    }

    fn write_queue(&mut self, register: Register, value: u32) {
        let selected = self.rings.get_mut(self.queue_select as usize);
        let Some(registers) = selected.and_then(Ring::registers) else {
            return;
        };
        match register {
            // A size that is none is found out when the queue is made ready.
            Register::QueueSize => registers.size = u16::try_from(value).unwrap_or(0),
            Register::QueueDescLow => set_low(&mut registers.descriptors, value),
            Register::QueueDescHigh => set_high(&mut registers.descriptors, value),
            Register::QueueDriverLow => set_low(&mut registers.available, value),
            Register::QueueDriverHigh => set_high(&mut registers.available, value),
            Register::QueueDeviceLow => set_low(&mut registers.used, value),
            Register::QueueDeviceHigh => set_high(&mut registers.used, value),
            _ => {}
        }
    }
}

/// The 32 bits of `value` that `select` names; there are 128, the upper half zero.
fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_low(field: &mut u64, value: u32) {
    *field = *field & !0xFFFF_FFFF | u64::from(value);
}

fn set_high(field: &mut u64, value: u32) {
    *field = *field & 0xFFFF_FFFF | u64::from(value) << 32;
}

#[cfg(test)]
mod tests;
