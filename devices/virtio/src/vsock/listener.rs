//! Where the host connects.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use atoll_sys::unix;
use rustix::net::SocketFlags;

use crate::device::DeviceError;
use crate::poller::{Interest, Poller, Watched};

/// A listening socket; removes its path when dropped, if it made it.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Watched,
    path: Option<PathBuf>,
}

impl Listener {
    /// Listens at `path`; a socket there that nobody listens at, as a killed monitor leaves, is replaced.
    pub(super) fn bind(path: &Path) -> Result<Self, DeviceError> {
        let listener = unix::listen_at(path)
            .map_err(|why| DeviceError::Kernel("listen at the vsock device's path", why))?;
        let mut listener = Self::over(listener.into())?;
        listener.path = Some(path.to_owned());
        Ok(listener)
    }

    pub(super) fn over(socket: OwnedFd) -> Result<Self, DeviceError> {
        rustix::io::ioctl_fionbio(&socket, true).map_err(|errno| {
            DeviceError::Kernel("make the vsock listener non-blocking", errno.into())
        })?;
        Ok(Self {
            socket: Watched::new(socket, super::LISTENER),
            path: None,
        })
    }

    pub(super) fn accept(&self) -> Option<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::accept_with(&self.socket, flags).ok()
    }

    pub(super) fn watch(&mut self, poller: &Poller, interest: Interest) {
        let _ = poller.watch(&mut self.socket, interest);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_socket_that_was_left_behind_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v");
        // Dropped, the standard library's leaves its file, as a process that is killed.
        drop(UnixListener::bind(&path).unwrap());
        assert!(UnixStream::connect(&path).is_err());
        let listener = Listener::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(listener);
        assert!(!path.exists(), "ours is removed");
    }
}
