//! Descriptors a process was started with.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use crate::{Errno, Result, descriptors};

/// The standard streams end here.
const FIRST: u32 = 3;

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

/// Closes every descriptor this process was started with but the standard streams and `kept`.
///
/// Call at the start of a program, before anything opens files: whatever is open now is taken for the starter's.
///
/// # Errors
/// The kernel's; `ENOSYS` before Linux 5.9.
pub fn close_others(kept: &[RawFd]) -> Result<()> {
    for (first, last) in gaps(kept) {
        // SAFETY: by this function's contract nothing in the process has opened a descriptor yet, so no value uses one
        // of the range; those that `take` will give out are in `kept`.
        unsafe { descriptors::close_range(first, last) }?;
    }
    Ok(())
}

/// The ranges of numbers from [`FIRST`] on that are not in `kept`, both ends included.
fn gaps(kept: &[RawFd]) -> Vec<(u32, u32)> {
    let mut kept: Vec<u32> = kept
        .iter()
        .filter_map(|fd| u32::try_from(*fd).ok())
        .collect();
    kept.sort_unstable();
    let mut gaps = Vec::new();
    let mut first = FIRST;
    for number in kept {
        if number < first {
            continue;
        }
        if number > first {
            gaps.push((first, number - 1));
        }
        first = number + 1;
    }
    gaps.push((first, u32::MAX));
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_lies_in_no_gap() {
        assert_eq!(gaps(&[]), [(3, u32::MAX)]);
        assert_eq!(gaps(&[1, 3, -1]), [(4, u32::MAX)]);
        assert_eq!(gaps(&[9, 5, 6, 5]), [(3, 4), (7, 8), (10, u32::MAX)]);
    }
}
