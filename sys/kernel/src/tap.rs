//! Tap devices as virtual network cards use them: frames with a virtio-net header in front.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::{Errno, Result, check};

bitflags::bitflags! {
    /// What the receiver of a tap's frames can take unfinished (`TUNSETOFFLOAD`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Offload: u32 {
        /// Frames without checksum.
        const CHECKSUM = libc::TUN_F_CSUM;
        /// TCP over IPv4 longer than a frame.
        const TSO4 = libc::TUN_F_TSO4;
        /// TCP over IPv6 longer than a frame.
        const TSO6 = libc::TUN_F_TSO6;
    }
}

/// Opens the tap `name`, making it if there is none: non-blocking, each frame behind a virtio-net header of
/// `header_bytes` (10 or 12).
///
/// A name with `%d` in it lets the kernel choose the number. The interface lives as long as the descriptor unless it
/// was made persistent.
///
/// # Errors
/// `EINVAL` for a name over 15 bytes; `EPERM` without CAP_NET_ADMIN; `EBUSY` when someone has it open.
pub fn open(name: &str, header_bytes: u8) -> Result<OwnedFd> {
    // SAFETY: ifreq is plain data for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(Errno::INVAL);
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(|_| Errno::INVAL)?;
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let tap = rustix::fs::open(c"/dev/net/tun", flags, Mode::empty())?;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives across the call.
    let outcome = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    check(outcome.into())?;
    let size = libc::c_int::from(header_bytes);
    // SAFETY: TUNSETVNETHDRSZ reads one int, which lives across the call.
    let outcome = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) };
    check(outcome.into())?;
    Ok(tap)
}

/// Says what whoever reads `tap` can take unfinished; the kernel finishes the rest.
///
/// # Errors
/// `EINVAL` for combinations the kernel does not know; `EBADFD` when it is no tap.
pub fn set_offload(tap: BorrowedFd<'_>, offload: Offload) -> Result<()> {
    let bits = libc::c_ulong::from(offload.bits());
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    let outcome = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, bits) };
    check(outcome.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_tap_is_opened_and_takes_offloads() {
        let tap = open("atoll-t%d", 12).unwrap();
        set_offload(tap.as_fd(), Offload::all()).unwrap();
        set_offload(tap.as_fd(), Offload::empty()).unwrap();
        assert_eq!(set_offload(tap.as_fd(), Offload::TSO4), Err(Errno::INVAL));
        let mut frame = [0; 64];
        assert_eq!(rustix::io::read(&tap, &mut frame), Err(Errno::AGAIN));
    }

    #[test]
    fn names_too_long_and_files_that_are_no_tap_are_refused() {
        assert_eq!(open("sixteen-bytes-xx", 12).unwrap_err(), Errno::INVAL);
        let file = tempfile::tempfile().unwrap();
        assert!(set_offload(file.as_fd(), Offload::empty()).is_err());
    }
}
