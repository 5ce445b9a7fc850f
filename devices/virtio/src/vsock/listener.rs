//! Where the host connects.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, SocketFlags};

use super::unix_socket;
use crate::device::DeviceError;
use crate::poller::{Interest, Poller, Watched};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// A listening socket; removes its path when dropped, if it made it.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Watched,
    path: Option<PathBuf>,
}

impl Listener {
    /// Listens at `path`; a socket there that nobody listens at, as a killed monitor leaves, is replaced.
    pub(super) fn bind(path: &Path) -> Result<Self, DeviceError> {
        let socket = bind(path).map_err(|errno| {
            DeviceError::Kernel("listen at the vsock device's path", errno.into())
        })?;
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

fn bind(path: &Path) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path)?;
    // Whoever binds in this folder does so alone, from looking for a listener to being one.
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    rustix::fs::flock(&folder, FlockOperation::LockExclusive)?;
    let socket = unix_socket()?;
    match rustix::net::bind(&socket, &address) {
        Err(Errno::ADDRINUSE) if is_abandoned(path, &address)? => {
            rustix::fs::unlink(path)?;
            rustix::net::bind(&socket, &address)?;
        }
        bound => bound?,
    }
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Whether `path` is a socket that nobody listens at.
fn is_abandoned(path: &Path, address: &SocketAddrUnix) -> Result<bool, Errno> {
    let stat = rustix::fs::lstat(path)?;
    // Other files refuse a connection, too.
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Ok(false);
    }
    let connected = rustix::net::connect(unix_socket()?, address);
    Ok(connected == Err(Errno::CONNREFUSED))
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

    #[test]
    fn what_is_in_use_or_no_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v");
        let other = UnixListener::bind(&path).unwrap();
        assert!(Listener::bind(&path).is_err());
        assert!(other.accept().is_ok(), "asked, and still there");
        let file = folder.path().join("f");
        std::fs::write(&file, "text").unwrap();
        assert!(Listener::bind(&file).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"text");
        let link = folder.path().join("l");
        drop(UnixListener::bind(folder.path().join("stale")).unwrap());
        std::os::unix::fs::symlink("stale", &link).unwrap();
        assert!(Listener::bind(&link).is_err());
        assert!(link.is_symlink());
    }

    #[test]
    fn of_several_that_come_at_once_one_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v");
        for _ in 0..20 {
            drop(UnixListener::bind(&path).unwrap());
            let bound: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8)
                    .map(|_| scope.spawn(|| Listener::bind(&path)))
                    .collect();
                threads
                    .into_iter()
                    .filter_map(|thread| thread.join().unwrap().ok())
                    .collect()
            });
            assert_eq!(bound.len(), 1);
            UnixStream::connect(&path).unwrap();
        }
    }
}
