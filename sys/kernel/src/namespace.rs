//! Entering and leaving namespaces.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Result, check};

/// Moves the calling thread into new namespaces (`CLONE_NEW…`) or unshares `CLONE_FS`,
/// `CLONE_FILES`. Child-safe.
///
/// # Errors
/// The kernel's.
pub fn unshare(flags: i32) -> Result<()> {
    // SAFETY: unshare takes no pointers. Unsharing CLONE_FILES detaches this thread's descriptor
    // table; descriptors stay valid in it, so owned ones still refer to what they did.
    check(unsafe { libc::syscall(libc::SYS_unshare, flags) })?;
    Ok(())
}

/// Moves the calling thread into a namespace, or for a pidfd into those of `kinds` of its
/// process. Child-safe.
///
/// For PID and time namespaces only children are affected. Joining a mount namespace needs an
/// unshared `CLONE_FS`, a user namespace a process of one thread.
///
/// # Errors
/// The kernel's; `ESRCH` for the pidfd of a dead process.
pub fn enter(fd: BorrowedFd<'_>, kinds: i32) -> Result<()> {
    // SAFETY: setns takes no pointers; the descriptor is open for the call's duration.
    check(unsafe { libc::syscall(libc::SYS_setns, fd.as_raw_fd(), kinds) })?;
    Ok(())
}
