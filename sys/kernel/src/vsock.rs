//! Stream sockets between guests and their hosts (vsock(7)), for the guest's side.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::{Result, check};

/// The host's context ID (`VMADDR_CID_HOST`).
pub const HOST: u32 = libc::VMADDR_CID_HOST;

#[expect(clippy::cast_possible_truncation, reason = "it is 40")]
const FAMILY: libc::sa_family_t = libc::AF_VSOCK.cast_unsigned() as libc::sa_family_t;
#[expect(clippy::cast_possible_truncation, reason = "it is 16")]
const LEN: libc::socklen_t = size_of::<libc::sockaddr_vm>() as libc::socklen_t;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Connects to a port of the machine whose context ID is `cid`.
///
/// # Errors
/// `EAFNOSUPPORT` when the kernel has no vsock, `ENODEV` without a transport, `ECONNRESET` when nobody listens.
pub fn connect(cid: u32, port: u32) -> Result<OwnedFd> {
    let (socket, address) = (socket()?, address(cid, port));
    // SAFETY: connect reads `LEN` bytes at the address, which is a whole sockaddr_vm that lives across the call.
    let outcome = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), LEN) };
    check(outcome.into())?;
    Ok(socket)
}

/// Listens at a port, for whoever connects.
///
/// # Errors
/// `EADDRINUSE` when someone listens there; `EAFNOSUPPORT` when the kernel has no vsock.
pub fn listen(port: u32) -> Result<OwnedFd> {
    let (socket, address) = (socket()?, address(libc::VMADDR_CID_ANY, port));
    // SAFETY: bind reads `LEN` bytes at the address, which is a whole sockaddr_vm that lives across the call.
    let outcome = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), LEN) };
    check(outcome.into())?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn socket() -> Result<OwnedFd> {
    let (family, kind) = (AddressFamily::VSOCK, SocketType::STREAM);
    rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)
}

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: sockaddr_vm is plain data for which all zeroes are valid.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = FAMILY;
    address.svm_cid = cid;
    address.svm_port = port;
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_as_the_kernel_has_it() {
        // linux/vm_sockets.h: family, reserved, port, CID, flags and zeroes.
        let address = address(3, 1024);
        assert_eq!((LEN, address.svm_family), (16, 40));
        assert_eq!((address.svm_cid, address.svm_port), (3, 1024));
    }
}
