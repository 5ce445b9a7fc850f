//! Entropy device (virtio 1.3 §5.4).

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::device::{DeviceType, VirtioDevice};
use crate::ring::{Broken, Queues};

/// The most random bytes one request gets; a driver asks again for more.
const MAX_BYTES: u64 = 64 << 10;

/// Random bytes from the host's kernel.
#[derive(Debug, Default)]
pub struct RngDevice(());

impl RngDevice {
    /// An entropy source; needs no descriptor.
    pub fn new() -> Self {
        Self::default()
    }
}

impl VirtioDevice for RngDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Rng
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }

    fn read_config(&self, _offset: usize, _data: &mut [u8]) {}

    fn activate(&mut self, _features: u64) {}

    fn process(&mut self, queue: usize, queues: &mut Queues<'_>) -> Result<(), Broken> {
        while let Some(mut chain) = queues.pop(queue)? {
            let mut room = chain.writable.split_front(MAX_BYTES);
            let mut written = 0;
            let mut piece = [0; 4096];
            while !room.is_empty() {
                let count = room.len().min(piece.len() as u64) as usize;
                // The system call itself: libraries fall back on files, which a jailed monitor does not see. Without
                // entropy the rest stays unwritten, and is not reported as random.
                match getrandom(&mut piece[..count], GetRandomFlags::empty()) {
                    Ok(count) => written += room.write(&piece[..count]) as u64,
                    Err(Errno::INTR) => {}
                    Err(_) => break,
                }
            }
            queues.push(queue, chain.head(), written)?;
        }
        Ok(())
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{Driver, Part};

    #[test]
    fn requests_are_filled_with_different_bytes_up_to_the_limit() {
        let mut driver = Driver::start(Box::new(RngDevice::new()));
        let (written, first) = driver.request(0, &[], &[100, 200]);
        assert_eq!((written, first.len()), (300, 300));
        let (_, second) = driver.request(0, &[], &[300]);
        assert_ne!(first, second);
        let (written, bytes) = driver.request(0, &[], &[100_000]);
        assert_eq!(written, 65536);
        assert!(bytes[65536..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_request_without_room_is_returned_empty() {
        let mut driver = Driver::start(Box::new(RngDevice::new()));
        driver.submit(0, &[Part::Out(b"please")]);
        driver.kick(0);
        assert_eq!(driver.used(0), Some((0, 0)));
    }
}
