//! Waiting for the host ends of virtio devices.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use atoll_virtio::MmioTransport;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use super::control::{Control, Outcome};

/// A thread that tells devices when their host ends are ready; none when no device has one. Dropping it ends the machine
/// and the thread.
pub(super) struct Watch {
    control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
    stop: Option<OwnedFd>,
}

impl Watch {
    /// Watches the descriptors that `devices` have now, which are theirs for life, while `control` lets the machine run.
    pub(super) fn new(devices: &[Arc<MmioTransport>], control: &Arc<Control>) -> io::Result<Self> {
        let mut watched = Vec::new();
        for device in devices {
            if let Some(fd) = device.host_fd()? {
                watched.push((fd, Arc::clone(device)));
            }
        }
        if watched.is_empty() {
            let control = Arc::clone(control);
            let (thread, stop) = (None, None);
            return Ok(Self {
                control,
                thread,
                stop,
            });
        }
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let stopped = stop.try_clone()?;
        let thread_control = Arc::clone(control);
        let thread = thread::Builder::new()
            .name("devices".to_owned())
            .spawn(move || watch(&watched, &stopped, &thread_control))?;
        Ok(Self {
            control: Arc::clone(control),
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

fn watch(watched: &[(OwnedFd, Arc<MmioTransport>)], stopped: &OwnedFd, control: &Control) {
    loop {
        let fds = watched.iter().map(|(fd, _)| fd).chain(Some(stopped));
        let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            // Without memory for a poll there is nothing to be done for the devices.
            Err(_) => return,
        }
        if !fds[watched.len()].revents().is_empty() {
            return;
        }
        let Some(_serving) = control.serve() else {
            return;
        };
        for (fd, (_, device)) in fds.iter().zip(watched) {
            if !fd.revents().is_empty() {
                device.host_ready();
            }
        }
    }
}
