//! Ranges of descriptors at once.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::{Result, check};

/// Marks every descriptor from `first` on close-on-exec. Child-safe.
///
/// # Errors
/// The kernel's; `EINVAL` before Linux 5.11.
pub fn set_cloexec_from(first: u32) -> Result<()> {
    // SAFETY: close_range takes no pointers, and with CLOSE_RANGE_CLOEXEC closes nothing now.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })?;
    Ok(())
}

/// Closes every descriptor of `first..=last`, whoever owns it. Child-safe.
///
/// # Safety
/// No value in the process may use a descriptor of the range afterwards: for a process that is
/// about to execute another program and keeps only descriptors outside of it.
///
/// # Errors
/// The kernel's.
pub unsafe fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: no pointers; the caller promises that nothing uses the closed descriptors.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
    Ok(())
}

/// Makes `number` refer to what `fd` does; `number` was free or belongs to the caller.
/// Child-safe.
///
/// # Safety
/// Nothing else in the process owns `number`.
///
/// # Errors
/// The kernel's.
pub unsafe fn place(fd: BorrowedFd<'_>, number: RawFd, cloexec: bool) -> Result<()> {
    if fd.as_raw_fd() == number {
        let flags = if cloexec { libc::FD_CLOEXEC } else { 0 };
        // SAFETY: F_SETFD takes an int; `number` is open, it is `fd`.
        check(unsafe { libc::syscall(libc::SYS_fcntl, number, libc::F_SETFD, flags) })?;
        return Ok(());
    }
    let flags = if cloexec { libc::O_CLOEXEC } else { 0 };
    // SAFETY: no pointers; the caller promises that nobody owns `number`.
    check(unsafe { libc::syscall(libc::SYS_dup3, fd.as_raw_fd(), number, flags) })?;
    Ok(())
}

/// A duplicate with a number of at least `lowest`, close-on-exec. Child-safe.
///
/// # Errors
/// The kernel's.
pub fn duplicate_above(fd: BorrowedFd<'_>, lowest: RawFd) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, lowest)
}
