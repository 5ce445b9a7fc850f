//! The kernel's random number generator, for who has randomness to give to it.

use std::os::fd::AsRawFd;

use rustix::fs::{Mode, OFlags};

use crate::{Errno, Result, check};

/// `RNDADDENTROPY` (linux/random.h): `_IOW('R', 0x03, int[2])`.
const ADD_ENTROPY: libc::Ioctl = 0x4008_5203;
/// `RNDRESEEDCRNG`: `_IO('R', 0x07)`.
const RESEED: libc::Ioctl = 0x5207;

/// Bytes taken at once.
const MOST: usize = 256;

/// `struct rand_pool_info` with its bytes.
#[repr(C)]
struct Pool {
    bits: libc::c_int,
    bytes: libc::c_int,
    data: [u8; MOST],
}

/// Gives the kernel `bytes` (up to 256 of them) as wholly random, and has it use them at once: what it says from now on
/// differs from what a copy of this machine says.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN; `EINVAL` for more than 256 bytes.
pub fn add_entropy(bytes: &[u8]) -> Result<()> {
    let count = libc::c_int::try_from(bytes.len()).map_err(|_| Errno::INVAL)?;
    let mut pool = Pool {
        bits: count.saturating_mul(8),
        bytes: count,
        data: [0; MOST],
    };
    let room = pool.data.get_mut(..bytes.len()).ok_or(Errno::INVAL)?;
    room.copy_from_slice(bytes);
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let device = rustix::fs::open(c"/dev/urandom", flags, Mode::empty())?;
    // SAFETY: RNDADDENTROPY reads a pool header and as many bytes as it names, all of which `pool` has, alive across
    // the call.
    let outcome = unsafe { libc::ioctl(device.as_raw_fd(), ADD_ENTROPY, &raw const pool) };
    check(outcome.into())?;
    // SAFETY: RNDRESEEDCRNG takes no argument.
    let outcome = unsafe { libc::ioctl(device.as_raw_fd(), RESEED) };
    check(outcome.into())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_is_taken_up_to_its_limit() {
        assert_eq!(add_entropy(&[7; MOST + 1]), Err(Errno::INVAL));
        // As root, which the tests are.
        add_entropy(&[7; 32]).unwrap();
    }
}
