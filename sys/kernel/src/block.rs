//! Block devices.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Result, check};

/// `BLKRRPART` (linux/fs.h): `_IO(0x12, 95)`.
const REREAD: libc::Ioctl = 0x125f;

/// Has the kernel read the partition table of the whole disk `disk` again.
///
/// # Errors
/// `EBUSY` when one of its partitions is in use; `ENOTTY` when it is no disk.
pub fn reread_partitions(disk: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: BLKRRPART takes no argument.
    let outcome = unsafe { libc::ioctl(disk.as_raw_fd(), REREAD) };
    check(outcome.into())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::Errno;

    #[test]
    fn a_file_is_no_disk() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert_eq!(reread_partitions(file.as_fd()), Err(Errno::NOTTY));
    }
}
