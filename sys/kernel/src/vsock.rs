//! Stream sockets between guests and their hosts (vsock(7)), for the guest's side.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::{Result, check};

/// The host's context ID (`VMADDR_CID_HOST`).
pub const HOST: u32 = libc::VMADDR_CID_HOST;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Connects to a port of the machine whose context ID is `cid`.
///
/// # Errors
/// `EAFNOSUPPORT` when the kernel has no vsock, `ENODEV` without a transport, `ECONNRESET` when nobody listens.
pub fn connect(cid: u32, port: u32) -> Result<OwnedFd> {
    let (socket, address, len) = (socket()?, address(cid, port), len());
    // SAFETY: connect reads `len` bytes at the address, which is a whole sockaddr_vm that lives across the call.
    let outcome = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) };
    check(outcome.into())?;
    Ok(socket)
}

/// Listens at a port, for whoever connects.
///
/// # Errors
/// `EADDRINUSE` when someone listens there; `EAFNOSUPPORT` when the kernel has no vsock.
pub fn listen(port: u32) -> Result<OwnedFd> {
    let (socket, address, len) = (socket()?, address(libc::VMADDR_CID_ANY, port), len());
    // SAFETY: bind reads `len` bytes at the address, which is a whole sockaddr_vm that lives across the call.
    let outcome = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    check(outcome.into())?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn socket() -> Result<OwnedFd> {
    let (family, kind) = (AddressFamily::VSOCK, SocketType::STREAM);
    rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)
}

#[expect(clippy::cast_possible_truncation, reason = "the constant is 40")]
fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: sockaddr_vm is plain data for which all zeroes are valid.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = cid;
    address.svm_port = port;
    address
}

#[expect(clippy::cast_possible_truncation, reason = "16 bytes")]
fn len() -> libc::socklen_t {
    size_of::<libc::sockaddr_vm>() as libc::socklen_t
}
