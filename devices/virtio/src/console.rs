//! Console (virtio 1.3 §5.3): one port, with any pair of descriptors as its host end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::chain::Buffers;
use crate::device::{
    DeviceError, DeviceState, DeviceType, RestoreError, VirtioDevice, read_config_bytes,
};
use crate::poller::{Interest, Poller, Watched};
use crate::ring::{Broken, Queues};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

const INPUT: u64 = 0;
const OUTPUT: u64 = 1;

/// `VIRTIO_CONSOLE_F_SIZE` (§5.3.3).
const F_SIZE: u64 = 1;

/// Bytes written at once: what a pipe that is writable takes without blocking (`PIPE_BUF`).
const STEP: u64 = 4096;

/// A console.
///
/// The host's descriptors may be shared with other programs, so they are not made non-blocking: reads and writes are
/// done after asking poll(2), in steps that a ready descriptor takes. Output the host does not take waits in the
/// guest's own buffers; the guest then waits too. Output is dropped once the host end is gone.
#[derive(Debug)]
pub struct ConsoleDevice {
    poller: Poller,
    input: Option<Watched>,
    output: Option<Watched>,
    // How much of the chain at the head of the transmit queue the host has already taken.
    sent: u64,
    size: ConsoleSize,
}

/// The terminal's size as the guest sees it; change it, then call
/// [`MmioTransport::config_changed`](crate::MmioTransport::config_changed).
#[derive(Clone, Debug, Default)]
pub struct ConsoleSize(Arc<AtomicU32>);

impl ConsoleSize {
    /// Sets columns and rows.
    pub fn set(&self, columns: u16, rows: u16) {
        let both = u32::from(rows) << 16 | u32::from(columns);
        self.0.store(both, Ordering::Release);
    }
}

/// A console in a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConsoleState {
    /// How many bytes of the chain at the head of the transmit queue the host has already taken.
    pub sent: u64,
    /// Rows in the upper half, columns in the lower.
    pub size: u32,
}

impl ConsoleDevice {
    /// A console that reads from `input` and writes to `output`.
    ///
    /// # Errors
    /// [`DeviceError::Kernel`] when descriptors ran out.
    pub fn new(input: Option<OwnedFd>, output: Option<OwnedFd>) -> Result<Self, DeviceError> {
        Ok(Self {
            poller: Poller::new()?,
            input: input.map(|fd| Watched::new(fd, INPUT)),
            output: output.map(|fd| Watched::new(fd, OUTPUT)),
            sent: 0,
            size: ConsoleSize::default(),
        })
    }

    /// The handle to the terminal's size.
    pub fn size(&self) -> ConsoleSize {
        self.size.clone()
    }

    /// Moves what the host has for the guest, as far as the guest has room.
    fn receive(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        let mut interest = Interest::NONE;
        while let Some(input) = &self.input {
            let Some(mut chain) = queues.pop(RECEIVE)? else {
                break;
            };
            if !is_ready(input.as_fd(), PollFlags::IN) {
                queues.undo_pop(RECEIVE);
                interest = Interest::READABLE;
                break;
            }
            // A chain without room would read nothing, which means the end.
            if chain.writable.is_empty() {
                queues.push(RECEIVE, chain.head(), 0)?;
                continue;
            }
            match chain.writable.fill_once(input.as_fd()) {
                Ok(0) => {
                    queues.undo_pop(RECEIVE);
                    self.end_input();
                }
                Ok(count) => queues.push(RECEIVE, chain.head(), count as u64)?,
                Err(why) if is_transient(&why) => {
                    queues.undo_pop(RECEIVE);
                    interest = Interest::READABLE;
                    break;
                }
                Err(_) => {
                    queues.undo_pop(RECEIVE);
                    self.end_input();
                }
            }
        }
        if let Some(input) = &mut self.input {
            // A file that is always ready cannot be watched, and was read above.
            let _ = self.poller.watch(input, interest);
        }
        Ok(())
    }

    fn end_input(&mut self) {
        if let Some(mut input) = self.input.take() {
            let _ = self.poller.watch(&mut input, Interest::NONE);
        }
    }

    /// Moves what the guest has for the host, as far as the host takes it.
    fn transmit(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        let mut interest = Interest::NONE;
        while let Some(mut chain) = queues.pop(TRANSMIT)? {
            let _ = chain.readable.split_front(self.sent);
            if !self.send(&mut chain.readable) {
                queues.undo_pop(TRANSMIT);
                interest = Interest::WRITABLE;
                break;
            }
            self.sent = 0;
            queues.push(TRANSMIT, chain.head(), 0)?;
        }
        if let Some(output) = &mut self.output {
            let _ = self.poller.watch(output, interest);
        }
        Ok(())
    }

    /// Sends `bytes`, counting them in `sent`; says whether all are gone.
    fn send(&mut self, bytes: &mut Buffers<'_>) -> bool {
        while let Some(output) = self.output.as_ref().filter(|_| !bytes.is_empty()) {
            if !is_ready(output.as_fd(), PollFlags::OUT) {
                return false;
            }
            let mut step = bytes.split_front(STEP);
            match step.drain_once(output.as_fd()) {
                Ok(count) => self.sent += count as u64,
                Err(why) if is_transient(&why) => return false,
                Err(_) => {
                    if let Some(mut output) = self.output.take() {
                        let _ = self.poller.watch(&mut output, Interest::NONE);
                    }
                }
            }
            if !step.is_empty() && self.output.is_some() {
                return false;
            }
        }
        true
    }
}

impl VirtioDevice for ConsoleDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Console
    }

    fn features(&self) -> u64 {
        F_SIZE
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64, 64]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let size = self.size.0.load(Ordering::Acquire);
        read_config_bytes(&size.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, _features: u64) {}

    fn process(&mut self, queue: usize, queues: &mut Queues<'_>) -> Result<(), Broken> {
        match queue {
            RECEIVE => self.receive(queues),
            _ => self.transmit(queues),
        }
    }

    fn host_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.poller.fd())
    }

    fn host_ready(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        for ready in self.poller.wait() {
            match ready.token {
                INPUT => self.receive(queues)?,
                _ => self.transmit(queues)?,
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.sent = 0;
        for end in [&mut self.input, &mut self.output].into_iter().flatten() {
            let _ = self.poller.watch(end, Interest::NONE);
        }
    }

    fn save(&self) -> DeviceState {
        DeviceState::Console(ConsoleState {
            sent: self.sent,
            size: self.size.0.load(Ordering::Acquire),
        })
    }

    fn restore(&mut self, state: &DeviceState, _features: Option<u64>) -> Result<(), RestoreError> {
        let DeviceState::Console(state) = state else {
            return Err(RestoreError::Device(DeviceType::Console));
        };
        self.sent = state.sent;
        self.size.0.store(state.size, Ordering::Release);
        Ok(())
    }
}

/// Whether `fd` can be read or written without blocking, or has an end to report.
fn is_ready(fd: BorrowedFd<'_>, wanted: PollFlags) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(&fd, wanted)];
    matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(1..))
}

fn is_transient(why: &io::Error) -> bool {
    matches!(Errno::from_io_error(why), Some(Errno::AGAIN | Errno::INTR))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;
    use crate::driver::{Driver, Part};

    fn start() -> (Driver, File, File) {
        let (input, to_guest) = rustix::pipe::pipe().unwrap();
        let (from_guest, output) = rustix::pipe::pipe().unwrap();
        let device = ConsoleDevice::new(Some(input), Some(output)).unwrap();
        let driver = Driver::start(Box::new(device));
        (driver, to_guest.into(), from_guest.into())
    }

    #[test]
    fn bytes_go_both_ways() {
        let (mut driver, mut to_guest, mut from_guest) = start();
        driver.request(TRANSMIT, &[b"boot", b"ing\n"], &[]);
        let mut line = [0; 8];
        from_guest.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"booting\n");

        to_guest.write_all(b"ls\n").unwrap();
        // Without room in the guest, nobody is woken.
        assert!(!driver.is_host_ready());
        driver.submit(RECEIVE, &[Part::In(2)]);
        driver.submit(RECEIVE, &[Part::In(64)]);
        driver.kick(RECEIVE);
        assert_eq!(driver.received(RECEIVE).unwrap(), b"ls");
        assert_eq!(driver.received(RECEIVE).unwrap(), b"\n");
        driver.submit(RECEIVE, &[Part::In(64)]);
        driver.kick(RECEIVE);
        assert!(!driver.is_host_ready());
        to_guest.write_all(b"exit\n").unwrap();
        let mut line = None;
        driver.poll_until(|driver| {
            line = driver.received(RECEIVE);
            line.is_some()
        });
        assert_eq!(line.unwrap(), b"exit\n");
    }

    #[test]
    fn a_host_that_does_not_read_makes_the_guest_wait_and_loses_nothing() {
        let (mut driver, _to_guest, mut from_guest) = start();
        let bytes: Vec<u8> = (0..200_000u32).map(|at| (at % 251) as u8).collect();
        driver.submit(TRANSMIT, &[Part::Out(&bytes)]);
        driver.submit(TRANSMIT, &[Part::Out(b"end")]);
        driver.kick(TRANSMIT);
        assert_eq!(driver.used(TRANSMIT), None);
        assert!(!driver.is_host_ready());
        let mut got = vec![0; bytes.len() + 3];
        let mut done = 0;
        driver.poll_until(|_| {
            if done < got.len() && is_ready(from_guest.as_fd(), PollFlags::IN) {
                done += from_guest.read(&mut got[done..]).unwrap();
            }
            done == got.len()
        });
        assert_eq!(got[..bytes.len()], bytes);
        assert_eq!(&got[bytes.len()..], b"end");
        assert!(driver.used(TRANSMIT).is_some() && driver.used(TRANSMIT).is_some());
        assert!(!driver.is_host_ready());
    }

    #[test]
    fn ends_that_are_gone_leave_the_guest_running() {
        let (mut driver, to_guest, from_guest) = start();
        driver.submit(RECEIVE, &[Part::In(8)]);
        driver.kick(RECEIVE);
        drop((to_guest, from_guest));
        driver.poll_until(|driver| !driver.is_host_ready());
        assert_eq!(driver.used(RECEIVE), None);
        driver.request(TRANSMIT, &[b"into the void"], &[]);
        assert!(!driver.is_broken() && !driver.is_host_ready());
    }

    #[test]
    fn files_that_are_always_ready_serve_as_ends() {
        let mut input = tempfile::tempfile().unwrap();
        input.write_all(b"script").unwrap();
        rustix::fs::seek(&input, rustix::fs::SeekFrom::Start(0)).unwrap();
        let mut output = tempfile::tempfile().unwrap();
        let kept = output.try_clone().unwrap();
        let device = ConsoleDevice::new(Some(input.into()), Some(kept.into())).unwrap();
        let mut driver = Driver::start(Box::new(device));
        driver.submit(RECEIVE, &[Part::In(64)]);
        driver.kick(RECEIVE);
        assert_eq!(driver.received(RECEIVE).unwrap(), b"script");
        driver.request(TRANSMIT, &[&[b'x'; 10_000]], &[]);
        let mut text = String::new();
        rustix::fs::seek(&output, rustix::fs::SeekFrom::Start(0)).unwrap();
        output.read_to_string(&mut text).unwrap();
        assert_eq!(text.len(), 10_000);
    }

    #[test]
    fn the_size_is_shown_and_a_half_sent_chain_survives_a_snapshot() {
        let mut device = ConsoleDevice::new(None, None).unwrap();
        let size = device.size();
        size.set(80, 24);
        device.sent = 17;
        let state = device.save();
        let mut other = ConsoleDevice::new(None, None).unwrap();
        other.restore(&state, None).unwrap();
        assert_eq!(other.save(), state);
        assert!(other.restore(&DeviceState::Stateless, None).is_err());
        let driver = Driver::start(Box::new(other));
        assert_eq!(driver.config(6), [80, 0, 24, 0, 0, 0]);
        size.set(1, 1);
        assert_eq!(driver.config(4), [80, 0, 24, 0]);
    }
}
