//! Memory balloon (virtio 1.3 §5.5): pages the guest does not need go back to the host.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use atoll_memory::{GuestMemory, PAGE};
use serde::{Deserialize, Serialize};

use crate::chain::{Buffers, Chain};
use crate::device::{DeviceState, DeviceType, RestoreError, VirtioDevice, read_config_bytes};
use crate::ring::{Broken, Queues};

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
/// The reporting queue's index is 4 by the specification (§5.5.2); Linux gives queues that exist consecutive numbers
/// on this transport, which makes it 2. There is no other queue, so 2 to 4 all report.
const QUEUES: [u16; 5] = [128; 5];

/// Feature bits (§5.5.3).
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
const F_REPORTING: u64 = 1 << 5;

/// What balloon and monitor tell each other.
#[derive(Debug, Default)]
struct Shared {
    wanted: AtomicU32,
    actual: AtomicU32,
}

/// The monitor's hand on a balloon; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct BalloonControl(Arc<Shared>);

impl BalloonControl {
    /// Asks the guest for `pages` of 4 KiB; call
    /// [`MmioTransport::config_changed`](crate::MmioTransport::config_changed) after it.
    pub fn want(&self, pages: u32) {
        self.0.wanted.store(pages, Ordering::Release);
    }

    /// How many pages the guest says to have given.
    pub fn actual(&self) -> u32 {
        self.0.actual.load(Ordering::Acquire)
    }
}

/// A balloon in a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BalloonState {
    /// Pages asked for.
    pub wanted: u32,
    /// Pages given, as the guest says.
    pub actual: u32,
}

/// A balloon, with free page reporting.
///
/// A page given up is a hole in the memory's file until it is touched again; the guest may touch it at any time, and
/// finds zeroes (or, in a copy of a template, the template's bytes).
#[derive(Debug, Default)]
pub struct BalloonDevice {
    control: BalloonControl,
}

impl BalloonDevice {
    /// A flat balloon.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that `control` is the hand on; what that wants stays wanted.
    pub fn over(control: BalloonControl) -> Self {
        Self { control }
    }

    /// The monitor's hand on it.
    pub fn control(&self) -> BalloonControl {
        self.control.clone()
    }

    fn config(&self) -> [u8; 8] {
        let mut config = [0; 8];
        let wanted = self.control.0.wanted.load(Ordering::Acquire);
        config[..4].copy_from_slice(&wanted.to_le_bytes());
        config[4..].copy_from_slice(&self.control.actual().to_le_bytes());
        config
    }
}

/// Gives up the pages whose numbers are in `numbers`, neighbours together.
fn inflate(memory: &GuestMemory, numbers: &mut Buffers<'_>) {
    let mut run: Option<(u64, u64)> = None;
    while let Some(number) = numbers.read_array::<4>() {
        let page = u64::from(u32::from_le_bytes(number)) * PAGE;
        run = match run {
            Some((start, len)) if start + len == page => Some((start, len + PAGE)),
            Some((start, len)) if page + PAGE == start => Some((page, len + PAGE)),
            Some((start, len)) => {
                discard(memory, start, len);
                Some((page, PAGE))
            }
            None => Some((page, PAGE)),
        };
    }
    if let Some((start, len)) = run {
        discard(memory, start, len);
    }
}

/// A page that cannot be given up stays: the guest does not care.
fn discard(memory: &GuestMemory, start: u64, len: u64) {
    let _ = memory.discard(start, len);
}

/// Gives up the free pages that are the chain's buffers.
fn report(memory: &GuestMemory, chain: &Chain<'_>) {
    for (address, len) in chain.writable.ranges(memory) {
        discard(memory, address, len);
    }
}

impl VirtioDevice for BalloonDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Balloon
    }

    fn features(&self) -> u64 {
        F_DEFLATE_ON_OOM | F_REPORTING
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUES
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_config_bytes(&self.config(), offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        // Only `actual` is the driver's (§5.5.6.1).
        if let (4, Ok(actual)) = (offset, data.try_into()) {
            let actual = u32::from_le_bytes(actual);
            self.control.0.actual.store(actual, Ordering::Release);
        }
    }

    fn activate(&mut self, _features: u64) {}

    fn process(&mut self, queue: usize, queues: &mut Queues<'_>) -> Result<(), Broken> {
        while let Some(mut chain) = queues.pop(queue)? {
            match queue {
                INFLATE => inflate(queues.memory(), &mut chain.readable),
                DEFLATE => {}
                _ => report(queues.memory(), &chain),
            }
            queues.push(queue, chain.head(), 0)?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.control.0.actual.store(0, Ordering::Release);
    }

    fn save(&self) -> DeviceState {
        DeviceState::Balloon(BalloonState {
            wanted: self.control.0.wanted.load(Ordering::Acquire),
            actual: self.control.actual(),
        })
    }

    fn restore(&mut self, state: &DeviceState, _features: Option<u64>) -> Result<(), RestoreError> {
        let DeviceState::Balloon(state) = state else {
            return Err(RestoreError::Device(DeviceType::Balloon));
        };
        self.control.want(state.wanted);
        self.control.0.actual.store(state.actual, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::driver::{Driver, WRITE};

    fn blocks(driver: &Driver) -> u64 {
        let stat = rustix::fs::fstat(driver.memory.file().unwrap()).unwrap();
        stat.st_blocks.cast_unsigned()
    }

    #[test]
    fn pages_given_up_are_holes_and_deflating_needs_nothing() {
        let mut driver = Driver::start(Box::new(BalloonDevice::new()));
        for page in 1024..1034u64 {
            driver
                .memory
                .write_obj(7u8, GuestAddress(page * PAGE))
                .unwrap();
        }
        // Rings and buffers take their pages now.
        driver.request(DEFLATE, &[&[0; 16]], &[]);
        driver.request(INFLATE, &[&[0; 3]], &[]);
        let before = blocks(&driver);
        let numbers: Vec<u8> = [1025u32, 1026, 1024, 1030, u32::MAX, 0xF_FFFF]
            .iter()
            .flat_map(|page| page.to_le_bytes())
            .collect();
        driver.request(INFLATE, &[&numbers[..6], &numbers[6..], &[1, 2, 3]], &[]);
        assert_eq!(before - blocks(&driver), 4 * 8);
        let kept: u8 = driver.memory.read_obj(GuestAddress(1027 * PAGE)).unwrap();
        let gone: u8 = driver.memory.read_obj(GuestAddress(1030 * PAGE)).unwrap();
        assert_eq!((kept, gone), (7, 0));
    }

    #[test]
    fn reported_free_pages_are_holes_on_either_queue_number() {
        for queue in [2, 4] {
            let mut driver = Driver::start(Box::new(BalloonDevice::new()));
            let start = 6 << 20;
            driver
                .memory
                .write_slice(&[7; 8 * PAGE as usize], GuestAddress(start))
                .unwrap();
            let before = blocks(&driver);
            driver.descriptor(queue, 0, (start + PAGE, 4 * PAGE as u32, WRITE, 0));
            driver.make_available(queue, 0);
            driver.kick(queue);
            assert_eq!(driver.used(queue), Some((0, 0)));
            // The rings took up to three pages.
            assert!(before + 3 * 8 - blocks(&driver) >= 4 * 8);
            let gone: u8 = driver.memory.read_obj(GuestAddress(start + PAGE)).unwrap();
            let kept: u8 = driver.memory.read_obj(GuestAddress(start)).unwrap();
            assert_eq!((gone, kept), (0, 7));
        }
    }

    #[test]
    fn monitor_and_guest_tell_each_other_numbers() {
        let device = BalloonDevice::new();
        let control = device.control();
        let driver = Driver::start(Box::new(device));
        control.want(300);
        driver.transport.config_changed();
        assert_eq!(driver.read(0x60), 2);
        assert_eq!(driver.read(0x100), 300);
        driver.write(0x104, 299);
        driver.write(0x100, 5);
        assert_eq!((control.actual(), driver.read(0x100)), (299, 300));
        let state = driver.transport.save();
        driver.write(0x70, 0);
        assert_eq!(control.actual(), 0);
        driver.transport.restore(&state).unwrap();
        assert_eq!(control.actual(), 299);
    }
}
