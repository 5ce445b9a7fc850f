//! Scattered reads and writes of host files straight into and out of guest memory.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;
use vm_memory::bitmap::Bitmap;

use crate::code_pages::PageTracker;

/// A range of guest memory, checked to lie in it, as `vm-memory` hands it out.
pub type GuestSlice<'a> = VolatileSlice<'a, PageTracker>;

/// The most slices one system call takes (`IOV_MAX`); further ones are left for the next call.
pub const MAX_SLICES: usize = 1024;

/// Reads from `fd` at byte `offset` into `into`; gives how many bytes came, 0 at the end of the file.
///
/// # Errors
/// preadv(2)'s.
pub fn read_vectored_at(
    fd: BorrowedFd<'_>,
    into: &[GuestSlice<'_>],
    offset: u64,
) -> io::Result<usize> {
    let vectors = vectors(into);
    let offset = file_offset(offset)?;
    // SAFETY: each vector is a slice of a guest memory mapping, which lives as long as the slice does; that the guest
    // changes the bytes meanwhile is what such memory is for. The count is at most MAX_SLICES, so it fits.
    let count = unsafe {
        libc::preadv64(
            fd.as_raw_fd(),
            vectors.as_ptr(),
            vectors.len() as i32,
            offset,
        )
    };
    came(into, count)
}

/// Writes `from` to `fd` at byte `offset`; gives how many bytes went.
///
/// # Errors
/// pwritev(2)'s.
pub fn write_vectored_at(
    fd: BorrowedFd<'_>,
    from: &[GuestSlice<'_>],
    offset: u64,
) -> io::Result<usize> {
    let vectors = vectors(from);
    let offset = file_offset(offset)?;
    // SAFETY: as in `read_vectored_at`; the kernel only reads.
    let count = unsafe {
        libc::pwritev64(
            fd.as_raw_fd(),
            vectors.as_ptr(),
            vectors.len() as i32,
            offset,
        )
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Reads from a stream, a packet device or a socket into `into`; gives how many bytes came, 0 at its end.
///
/// # Errors
/// readv(2)'s.
pub fn read_vectored(fd: BorrowedFd<'_>, into: &[GuestSlice<'_>]) -> io::Result<usize> {
    let vectors = vectors(into);
    // SAFETY: as in `read_vectored_at`.
    let count = unsafe { libc::readv(fd.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32) };
    came(into, count)
}

/// Writes `from` to a stream, a packet device or a socket; gives how many bytes went.
///
/// # Errors
/// writev(2)'s.
pub fn write_vectored(fd: BorrowedFd<'_>, from: &[GuestSlice<'_>]) -> io::Result<usize> {
    let vectors = vectors(from);
    // SAFETY: as in `read_vectored_at`; the kernel only reads.
    let count = unsafe { libc::writev(fd.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

fn vectors(slices: &[GuestSlice<'_>]) -> Vec<libc::iovec> {
    slices
        .iter()
        .take(MAX_SLICES)
        .map(|slice| libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        })
        .collect()
}

fn file_offset(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Reports the bytes that came to the page trackers.
fn came(into: &[GuestSlice<'_>], count: isize) -> io::Result<usize> {
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    let mut left = count;
    for slice in into {
        let here = left.min(slice.len());
        slice.bitmap().mark_dirty(0, here);
        left -= here;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use rustix::fs::MemfdFlags;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

    use super::*;
    use crate::{GuestMemory, PAGE};

    #[test]
    fn a_file_is_read_into_and_written_from_scattered_memory() {
        let memory = GuestMemory::new(16 * PAGE).unwrap();
        let fd = rustix::fs::memfd_create("file", MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(fd);
        memory.write_slice(b"hello, ", GuestAddress(100)).unwrap();
        memory.write_slice(b"world", GuestAddress(9000)).unwrap();
        let parts = [
            memory.get_slice(GuestAddress(100), 7).unwrap(),
            memory.get_slice(GuestAddress(9000), 5).unwrap(),
        ];
        assert_eq!(write_vectored_at(file.as_fd(), &parts, 3).unwrap(), 12);
        memory.code_pages().mark(PAGE, 64);
        let into = [
            memory.get_slice(GuestAddress(PAGE - 2), 4).unwrap(),
            memory.get_slice(GuestAddress(3 * PAGE), 100).unwrap(),
        ];
        assert_eq!(read_vectored_at(file.as_fd(), &into, 3).unwrap(), 12);
        let mut bytes = [0; 8];
        memory
            .read_slice(&mut bytes, GuestAddress(3 * PAGE))
            .unwrap();
        assert_eq!(&bytes, b"o, world");
        assert_eq!(memory.code_pages().version(1), 1);
        assert_eq!(read_vectored_at(file.as_fd(), &into, 15).unwrap(), 0);
        assert!(read_vectored_at(file.as_fd(), &into, u64::MAX).is_err());
    }

    #[test]
    fn a_pipe_carries_guest_memory() {
        let memory = GuestMemory::new(PAGE).unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        memory.write_slice(b"ping", GuestAddress(0)).unwrap();
        let from = [memory.get_slice(GuestAddress(0), 4).unwrap()];
        assert_eq!(write_vectored(writer.as_fd(), &from).unwrap(), 4);
        let into = [memory.get_slice(GuestAddress(64), 64).unwrap()];
        assert_eq!(read_vectored(reader.as_fd(), &into).unwrap(), 4);
        let mut bytes = [0; 4];
        memory.read_slice(&mut bytes, GuestAddress(64)).unwrap();
        assert_eq!(&bytes, b"ping");
    }
}
