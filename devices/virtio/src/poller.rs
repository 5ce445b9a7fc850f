//! The host descriptors of one device, in an epoll instance that is itself pollable.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use crate::device::DeviceError;

/// How many events one [`Poller::wait`] gives; the rest stay ready.
const BATCH: usize = 64;

/// What to wait for at a descriptor; neither means to leave it alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interest {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

impl Interest {
    pub(crate) const NONE: Self = Self {
        readable: false,
        writable: false,
    };
    pub(crate) const READABLE: Self = Self {
        readable: true,
        writable: false,
    };

    pub(crate) const WRITABLE: Self = Self {
        readable: false,
        writable: true,
    };

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.readable);
        flags.set(EventFlags::OUT, self.writable);
        flags
    }
}

/// A descriptor in a [`Poller`], and what is waited for there now.
#[derive(Debug)]
pub(crate) struct Watched {
    fd: OwnedFd,
    token: u64,
    interest: Interest,
}

impl Watched {
    /// `fd`, not waited for yet.
    pub(crate) fn new(fd: OwnedFd, token: u64) -> Self {
        Self {
            fd,
            token,
            interest: Interest::NONE,
        }
    }

    /// The descriptor itself, after it was watched for the last time.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Readiness of one descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) token: u64,
    /// Data, the end of it, or an error can be read.
    pub(crate) readable: bool,
    /// Data can be written, or an error found by trying.
    pub(crate) writable: bool,
}

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    pub(crate) fn new() -> Result<Self, DeviceError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)
            .map_err(|errno| DeviceError::Kernel("make an epoll instance", errno.into()))?;
        Ok(Self { epoll })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Waits for `interest` at `watched` from now on.
    ///
    /// A descriptor without interest is taken out: the kernel reports hang-ups even when nothing is asked for.
    ///
    /// # Errors
    /// epoll_ctl(2)'s; `EPERM` for files that are always ready.
    pub(crate) fn watch(&self, watched: &mut Watched, interest: Interest) -> io::Result<()> {
        if watched.interest == interest {
            return Ok(());
        }
        let data = EventData::new_u64(watched.token);
        let outcome = match (watched.interest, interest) {
            (Interest::NONE, _) => epoll::add(&self.epoll, &watched.fd, data, interest.flags()),
            (_, Interest::NONE) => epoll::delete(&self.epoll, &watched.fd),
            _ => epoll::modify(&self.epoll, &watched.fd, data, interest.flags()),
        };
        outcome?;
        watched.interest = interest;
        Ok(())
    }

    /// What is ready now; never blocks.
    pub(crate) fn wait(&self) -> Vec<Ready> {
        let mut events: Vec<Event> = Vec::with_capacity(BATCH);
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let spare = rustix::buffer::spare_capacity(&mut events);
        if epoll::wait(&self.epoll, spare, Some(&now)).is_err() {
            return Vec::new();
        }
        events
            .iter()
            .map(|event| {
                let flags = event.flags;
                let failed = flags.intersects(EventFlags::ERR | EventFlags::HUP);
                Ready {
                    token: event.data.u64(),
                    readable: failed || flags.contains(EventFlags::IN),
                    writable: failed || flags.contains(EventFlags::OUT),
                }
            })
            .collect()
    }
}
