//! Unix sockets: paths of any depth, file descriptors as messages.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Listens at `path`, however long it is.
///
/// The kernel allows 107 bytes; longer paths are reached through `/proc/self/fd/<folder>/name`.
/// An existing socket file is not removed: the caller decides whether it is stale.
///
/// # Errors
/// The kernel's; `EADDRINUSE` when something exists at `path`.
pub fn bind_at(path: &Path) -> io::Result<UnixListener> {
    let (_folder, short) = shorten(path)?;
    UnixListener::bind(short)
}

/// Receives datagrams at `path`, however long it is.
///
/// # Errors
/// As [`bind_at`].
pub fn bind_datagram_at(path: &Path) -> io::Result<UnixDatagram> {
    let (_folder, short) = shorten(path)?;
    UnixDatagram::bind(short)
}

/// Listens at `path`, however long it is; a socket there that nobody listens at, as a killed process leaves, is replaced.
///
/// Everything else that is there stays.
///
/// # Errors
/// The kernel's; `EADDRINUSE` when something is at `path` that is in use or no socket.
pub fn listen_at(path: &Path) -> io::Result<UnixListener> {
    // Whoever binds in this folder does so alone, from looking for a listener to being one.
    let _alone = File::open(folder_of(path)).and_then(|folder| {
        rustix::fs::flock(&folder, FlockOperation::LockExclusive)?;
        Ok(folder)
    })?;
    match bind_at(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path)? => {
            std::fs::remove_file(path)?;
            bind_at(path)
        }
        bound => bound,
    }
}

/// Whether `path` is a socket that nobody listens at.
fn is_abandoned(path: &Path) -> io::Result<bool> {
    // Other files refuse a connection, too.
    if !path.symlink_metadata()?.file_type().is_socket() {
        return Ok(false);
    }
    let (_folder, short) = shorten(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let connected = rustix::net::connect(socket, &SocketAddrUnix::new(short)?);
    Ok(connected == Err(rustix::io::Errno::CONNREFUSED))
}

/// Connects to the socket at `path`, however long it is.
///
/// # Errors
/// The kernel's; `ECONNREFUSED` when nobody listens.
pub fn connect_at(path: &Path) -> io::Result<UnixStream> {
    let (_folder, short) = shorten(path)?;
    UnixStream::connect(short)
}

/// Sends `bytes` (at least one) and up to 16 descriptors as one message.
///
/// # Errors
/// `EINVAL` with more than 16 descriptors, else the kernel's.
pub fn send_fds(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let parts = [IoSlice::new(bytes)];
    Ok(rustix::net::sendmsg(
        socket,
        &parts,
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?)
}

/// Receives one message of at most `bytes.len()` bytes and up to 16 descriptors (close-on-exec).
///
/// Returns the number of bytes; 0 means the other end is closed.
///
/// # Errors
/// The kernel's.
pub fn recv_fds(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(bytes)];
    let message = loop {
        match rustix::net::recvmsg(&socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    Ok((message.bytes, fds))
}

/// The folder `path` is in.
fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// `path` itself when it fits into a socket address, else a short equivalent and the folder that
/// must stay open while it is used.
fn shorten(path: &Path) -> io::Result<(Option<File>, PathBuf)> {
    const LONGEST: usize = 107;
    if path.as_os_str().len() <= LONGEST {
        return Ok((None, path.to_owned()));
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(folder_of(path))?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    Ok((Some(folder), short))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn deep_paths_bind_and_connect() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("x".repeat(100)).join("y".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        let path = deep.join("a.sock");
        let listener = bind_at(&path).unwrap();
        assert!(bind_at(&path).is_err());
        bind_datagram_at(&deep.join("d.sock")).unwrap();
        assert!(deep.join("d.sock").exists());
        let mut client = connect_at(&path).unwrap();
        client.write_all(b"hi").unwrap();
        drop(client);
        let mut text = String::new();
        listener
            .accept()
            .unwrap()
            .0
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "hi");
    }

    #[test]
    fn descriptors_travel() {
        let (left, right) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send_fds(&left, b"x", &[writer.as_fd()]).unwrap();
        drop(writer);
        let mut bytes = [0; 8];
        let (count, fds) = recv_fds(&right, &mut bytes).unwrap();
        assert_eq!((count, fds.len()), (1, 1));
        for fd in fds {
            File::from(fd).write_all(b"through").unwrap();
        }
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn a_socket_that_was_left_behind_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("x".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        for path in [folder.path().join("v"), deep.join("v")] {
            // Dropped, the standard library's leaves its file, as a process that is killed.
            drop(bind_at(&path).unwrap());
            assert!(connect_at(&path).is_err());
            let _listener = listen_at(&path).unwrap();
            connect_at(&path).unwrap();
        }
    }

    #[test]
    fn what_is_in_use_or_no_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v");
        let other = UnixListener::bind(&path).unwrap();
        assert!(listen_at(&path).is_err());
        assert!(other.accept().is_ok(), "asked, and still there");
        let file = folder.path().join("f");
        std::fs::write(&file, "text").unwrap();
        assert!(listen_at(&file).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"text");
        let link = folder.path().join("l");
        drop(UnixListener::bind(folder.path().join("stale")).unwrap());
        std::os::unix::fs::symlink("stale", &link).unwrap();
        assert!(listen_at(&link).is_err());
        assert!(link.is_symlink());
    }

    #[test]
    fn of_several_that_come_at_once_one_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v");
        drop(UnixListener::bind(&path).unwrap());
        // Each round leaves what the next one finds.
        for _ in 0..20 {
            let bound: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| listen_at(&path))).collect();
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
