//! Work for virtio devices off the CPUs' threads: host ends that are ready and, with a backend that turns doorbells into
//! events, queues the guest has filled.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use atoll_cpu_api::Accelerated;
use atoll_virtio::{MmioTransport, QUEUE_NOTIFY, WINDOW};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use super::bus::DEVICES_BASE;
use super::control::{Control, Outcome};
use crate::error::MachineError;

const WATCH: &str = "watch the devices";

/// A thread that tells devices what is ready for them; none as long as nothing ever is. Dropping it ends the machine and
/// the thread.
pub(super) struct Watch {
    control: Arc<Control>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread looks at.
struct Shared {
    sources: Mutex<Vec<Arc<Source>>>,
    /// Signalled when there are more sources, and at the end; there with the thread.
    changed: OnceLock<OwnedFd>,
    is_over: AtomicBool,
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
    /// Watches what `devices` have, in the order of their addresses ([`Watch::add`]), while `control` lets the machine run.
    ///
    /// # Errors
    /// [`MachineError::Io`], [`MachineError::Cpu`] when the backend refuses a doorbell.
    pub(super) fn new(
        devices: &[Arc<MmioTransport>],
        accelerated: Option<&dyn Accelerated>,
        control: &Arc<Control>,
    ) -> Result<Self, MachineError> {
        let mut sources = Vec::new();
        for (number, device) in (0..).zip(devices) {
            sources.extend(sources_of(device, number, accelerated)?);
        }
        let shared = Shared {
            sources: Mutex::new(sources),
            changed: OnceLock::new(),
            is_over: AtomicBool::new(false),
        };
        let watch = Self {
            control: Arc::clone(control),
            shared: Arc::new(shared),
            thread: Mutex::default(),
        };
        watch.look_again()?;
        Ok(watch)
    }

    /// Watches the descriptors that `device` has now, which are its for life, and the doorbells that `accelerated` takes
    /// off the bus.
    ///
    /// * `number`: of its window, from 0.
    ///
    /// # Errors
    /// As [`Watch::new`].
    pub(super) fn add(
        &self,
        device: &Arc<MmioTransport>,
        number: u64,
        accelerated: Option<&dyn Accelerated>,
    ) -> Result<(), MachineError> {
        let sources = sources_of(device, number, accelerated)?;
        lock(&self.shared.sources).extend(sources);
        self.look_again()
    }

    /// Has the thread look at all sources; starts it when it is needed for the first time.
    fn look_again(&self) -> Result<(), MachineError> {
        let mut thread = lock(&self.thread);
        if thread.is_some() {
            self.shared.signal();
        } else if !lock(&self.shared.sources).is_empty() {
            let changed = event().map_err(MachineError::io(WATCH))?;
            // Under the lock of the thread that comes.
            let _ = self.shared.changed.set(changed);
            let (shared, control) = (Arc::clone(&self.shared), Arc::clone(&self.control));
            let started = thread::Builder::new()
                .name("devices".to_owned())
                .spawn(move || watch(&shared, &control));
            *thread = Some(started.map_err(MachineError::io(WATCH))?);
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The thread may wait for the machine to run.
        self.control.end(Outcome::Stopped);
        self.shared.is_over.store(true, Ordering::Release);
        self.shared.signal();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn signal(&self) {
        if let Some(changed) = self.changed.get() {
            // It counts to 2^64 - 2 before it blocks or fails.
            let _ = rustix::io::write(changed, &1u64.to_ne_bytes());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All that is watched of the device with window `number`.
fn sources_of(
    device: &Arc<MmioTransport>,
    number: u64,
    accelerated: Option<&dyn Accelerated>,
) -> Result<Vec<Arc<Source>>, MachineError> {
    let mut sources = Vec::new();
    if let Some(accelerated) = accelerated {
        let address = DEVICES_BASE + number * WINDOW + QUEUE_NOTIFY;
        sources.extend(doorbells(device, address, accelerated)?);
    }
    if let Some(event) = device.host_fd().map_err(MachineError::io(WATCH))? {
        sources.push(Arc::new(Source {
            event,
            device: Arc::clone(device),
            meaning: Meaning::HostEnd,
        }));
    }
    Ok(sources)
}

fn event() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// An event for each queue of `device`, whose doorbell is at `address`.
fn doorbells(
    device: &Arc<MmioTransport>,
    address: u64,
    accelerated: &dyn Accelerated,
) -> Result<Vec<Arc<Source>>, MachineError> {
    let connect = |queue| {
        let event = event().map_err(MachineError::io(WATCH))?;
        accelerated.connect_doorbell(address, queue, event.as_fd())?;
        Ok(Arc::new(Source {
            event,
            device: Arc::clone(device),
            meaning: Meaning::Doorbell(queue),
        }))
    };
    (0..device.queues()).map(connect).collect()
}

fn watch(shared: &Shared, control: &Control) {
    let Some(changed) = shared.changed.get() else {
        return;
    };
    while !shared.is_over.load(Ordering::Acquire) {
        let sources = lock(&shared.sources).clone();
        let fds = sources
            .iter()
            .map(|source| &source.event)
            .chain(Some(changed));
        let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        if !serve_until_changed(&sources, &mut fds, control) {
            return;
        }
        let _ = rustix::io::read(changed, &mut [0; 8]);
    }
}

/// Serves `sources` until the last of `fds` is signalled; `false` when the machine has ended.
fn serve_until_changed(sources: &[Arc<Source>], fds: &mut [PollFd<'_>], control: &Control) -> bool {
    loop {
        match poll(fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            // Without memory for a poll there is nothing to be done for the devices.
            Err(_) => return false,
        }
        // What else is ready stays so.
        if !fds[sources.len()].revents().is_empty() {
            return true;
        }
        let Some(_serving) = control.serve() else {
            return false;
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
