//! Descriptors a process was started with.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use crate::{Errno, Result};

/// Numbers already taken by [`take`].
static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// Takes the descriptor `number` that this process was started with, and makes it close-on-exec.
///
/// Call at the start of a program, before anything else opens files: the number must mean what the
/// starter put there.
///
/// # Errors
/// `EBADF` when it is not open or was taken before.
pub fn take(number: RawFd) -> Result<OwnedFd> {
    let mut taken = TAKEN.lock().map_err(|_| Errno::BADF)?;
    if number < 0 || taken.contains(&number) {
        return Err(Errno::BADF);
    }
    // SAFETY: borrowed for this one call, which fails with EBADF when nothing is open there.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC)?;
    taken.push(number);
    // SAFETY: the call above proved it open, and TAKEN that this function gives it out only once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
