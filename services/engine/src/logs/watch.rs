//! Waiting for a log to grow or rotate, without polling.

use std::{io, path::Path};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::{io::AsyncReadExt as _, net::unix::pipe};

/// A watch on the directory of a log.
#[derive(Debug)]
pub(super) struct Watch {
    /// Not a pipe, but read in the same way: non-blocking, with readiness told by epoll.
    inotify: pipe::Receiver,
}

impl Watch {
    /// Watches `directory` from now on.
    ///
    /// # Errors
    /// When the user's inotify instances are used up.
    pub(super) fn new(directory: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let events = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&inotify, directory, events)?;
        Ok(Self {
            inotify: pipe::Receiver::from_owned_fd_unchecked(inotify)?,
        })
    }

    /// Waits for the next change since the last call.
    ///
    /// # Errors
    /// As read(2).
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        let mut events = [0; 4096];
        // One read takes all that are waiting, or most; what is left wakes us again.
        self.inotify.read(&mut events).await.map(drop)
    }
}
