//! Work for virtio devices off the CPUs' threads: host ends that are ready and, with a backend that turns doorbells into
//! events, queues the guest has filled.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use atoll_cpu_api::Accelerated;
use atoll_virtio::{MmioTransport, QUEUE_NOTIFY, WINDOW};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use super::bus::DEVICES_BASE;
use super::control::{Control, Outcome};
use crate::error::MachineError;

/// A thread that tells devices what is ready for them; none when nothing ever is. Dropping it ends the machine and the
/// thread.
pub(super) struct Watch {
    control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
    stop: Option<OwnedFd>,
}

/// What is watched, for which device.
struct Source {
    event: OwnedFd,
    device: Arc<MmioTransport>,
    meaning: Meaning,
}

enum Meaning {
    HostEnd,
    /// An eventfd that the guest's stores to this queue's doorbell signal.
    Doorbell(u32),
}

impl Watch {
    /// Watches the descriptors that `devices` have now, which are theirs for life, and the doorbells that
    /// `accelerated` takes off the bus, while `control` lets the machine run.
    ///
    /// # Errors
    /// [`MachineError::Io`], [`MachineError::Cpu`] when the backend refuses a doorbell.
    pub(super) fn new(
        devices: &[Arc<MmioTransport>],
        accelerated: Option<&dyn Accelerated>,
        control: &Arc<Control>,
    ) -> Result<Self, MachineError> {
        let failed = || MachineError::io("watch the devices");
        let mut sources = Vec::new();
        for (number, device) in (0..).zip(devices) {
            if let Some(accelerated) = accelerated {
                let address = DEVICES_BASE + number * WINDOW + QUEUE_NOTIFY;
                sources.extend(doorbells(device, address, accelerated)?);
            }
            if let Some(event) = device.host_fd().map_err(failed())? {
                sources.push(Source {
                    event,
                    device: Arc::clone(device),
                    meaning: Meaning::HostEnd,
                });
            }
        }
        let control = Arc::clone(control);
        if sources.is_empty() {
            let (thread, stop) = (None, None);
            return Ok(Self {
                control,
                thread,
                stop,
            });
        }
        let stop = event().map_err(failed())?;
        let stopped = stop.try_clone().map_err(failed())?;
        let thread_control = Arc::clone(&control);
        let thread = thread::Builder::new()
            .name("devices".to_owned())
            .spawn(move || watch(&sources, &stopped, &thread_control))
            .map_err(failed())?;
        Ok(Self {
            control,
            thread: Some(thread),
            stop: Some(stop),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The thread may wait for the machine to run.
        self.control.end(Outcome::Stopped);
        if let Some(stop) = &self.stop {
            // It counts to 2^64 - 2 before it blocks or fails.
            let _ = rustix::io::write(stop, &1u64.to_ne_bytes());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn event() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// An event for each queue of `device`, whose doorbell is at `address`.
fn doorbells(
    device: &Arc<MmioTransport>,
    address: u64,
    accelerated: &dyn Accelerated,
) -> Result<Vec<Source>, MachineError> {
    let connect = |queue| {
        let event = event().map_err(MachineError::io("watch the devices"))?;
        accelerated.connect_doorbell(address, queue, event.as_fd())?;
        Ok(Source {
            event,
            device: Arc::clone(device),
            meaning: Meaning::Doorbell(queue),
        })
    };
    (0..device.queues()).map(connect).collect()
}

fn watch(sources: &[Source], stopped: &OwnedFd, control: &Control) {
    let fds = sources
        .iter()
        .map(|source| &source.event)
        .chain(Some(stopped));
    let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    loop {
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            // Without memory for a poll there is nothing to be done for the devices.
            Err(_) => return,
        }
        if !fds[sources.len()].revents().is_empty() {
            return;
        }
        let Some(_serving) = control.serve() else {
            return;
        };
        for (fd, source) in fds.iter().zip(sources) {
            if !fd.revents().is_empty() {
                source.serve();
            }
        }
    }
}

impl Source {
    fn serve(&self) {
        match self.meaning {
            Meaning::HostEnd => self.device.host_ready(),
            Meaning::Doorbell(queue) => {
                // First, so that a doorbell during the work is another event.
                let _ = rustix::io::read(&self.event, &mut [0; 8]);
                self.device.notify(queue);
            }
        }
    }
}
