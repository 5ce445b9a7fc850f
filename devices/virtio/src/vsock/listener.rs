//! Where the host connects.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::net::{SocketAddrUnix, SocketFlags};

use super::unix_socket;
use crate::device::DeviceError;
use crate::poller::{Interest, Poller, Watched};

/// A listening socket; removes its path when dropped, if it made it.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Watched,
    path: Option<PathBuf>,
}

impl Listener {
    pub(super) fn bind(path: &Path) -> Result<Self, DeviceError> {
        let failed = |errno: rustix::io::Errno| {
            DeviceError::Kernel("listen at the vsock device's path", errno.into())
        };
        let address = SocketAddrUnix::new(path).map_err(failed)?;
        let socket = unix_socket().map_err(failed)?;
        rustix::net::bind(&socket, &address).map_err(failed)?;
        rustix::net::listen(&socket, 64).map_err(failed)?;
        Ok(Self {
            socket: Watched::new(socket, super::LISTENER),
            path: Some(path.to_owned()),
        })
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
