//! Records of one kind, one after the other, of which the first may be a file's: what nobody touches is never read.

use std::alloc::{Layout, handle_alloc_error};
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, ProtFlags};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::memory::PAGE;

/// Up to so many values of `T`, which has no padding and of which any bytes are one. They stay where they are.
///
/// Those from a file are as the file was when they were first touched, and private: a change stays here. The file must
/// neither shrink nor change meanwhile: a page that is gone is SIGBUS, as for a mapped program.
#[derive(Debug)]
pub struct Records<T> {
    /// Room for all of `capacity`; dangling until there is one.
    start: NonNull<T>,
    len: usize,
    capacity: usize,
    is_mapped: bool,
    values: PhantomData<T>,
}

// SAFETY: it owns its values, as a `Vec` does.
unsafe impl<T: Send> Send for Records<T> {}
// SAFETY: as above; a shared reference only reads them.
unsafe impl<T: Sync> Sync for Records<T> {}

impl<T: FromBytes + IntoBytes + Immutable + Copy> Records<T> {
    /// None, with room for `capacity`, of which nothing is taken yet.
    #[must_use]
    pub const fn new(capacity: usize) -> Self {
        Self {
            start: NonNull::dangling(),
            len: 0,
            capacity,
            is_mapped: false,
            values: PhantomData,
        }
    }

    /// The `len` that begin at byte `at` of `file`, with room for `capacity` in all.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] when `at` is no multiple of [`PAGE`], there is no room for so many, or the file is
    /// shorter; what mapping it says.
    pub fn of_file(file: &File, at: u64, len: usize, capacity: usize) -> io::Result<Self> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        let bytes = len.checked_mul(size_of::<T>());
        let bytes = bytes
            .filter(|_| len <= capacity)
            .ok_or_else(|| wrong("more records than there is room for"))?;
        let end = at.checked_add(bytes as u64);
        if !at.is_multiple_of(PAGE)
            || end.is_none_or(|end| file.metadata().is_ok_and(|is| is.len() < end))
        {
            return Err(wrong("the file does not have the records"));
        }
        let mut new = Self::new(capacity);
        if len == 0 {
            return Ok(new);
        }
        new.map()?;
        // SAFETY: the range is the start of the mapping made above, which holds `capacity` values and so `bytes`, rounded
        // up to a page as the mapping is; it is replaced, and nothing was in it.
        unsafe {
            rustix::mm::mmap(
                new.start.as_ptr().cast(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
                file.as_fd(),
                at,
            )?;
        }
        new.len = len;
        Ok(new)
    }

    /// Takes the address space.
    fn map(&mut self) -> io::Result<()> {
        // SAFETY: a fresh mapping at an address the kernel chooses touches nothing of ours.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                self.bytes(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        // A page is aligned for whatever has no larger alignment; mmap gives no null.
        const { assert!(align_of::<T>() <= PAGE as usize && size_of::<T>() > 0) };
        self.start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        self.is_mapped = true;
        Ok(())
    }

    /// Adds one; false when there is no room. Ends the process, as `Vec` does, when there is no memory.
    pub fn push(&mut self, value: T) -> bool {
        if self.len == self.capacity {
            return false;
        }
        if !self.is_mapped && self.map().is_err() {
            handle_alloc_error(Layout::new::<T>());
        }
        // SAFETY: the mapping holds `capacity` values, and `len` is less.
        unsafe { self.start.add(self.len).write(value) };
        self.len += 1;
        true
    }

    /// Adds all of `values` for which there is room.
    pub fn extend(&mut self, values: impl IntoIterator<Item = T>) {
        for value in values {
            self.push(value);
        }
    }

    /// Drops all but the first `len`, and gives their memory back.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        let bytes = |len: usize| (len * size_of::<T>()).next_multiple_of(PAGE as usize);
        let (from, to) = (bytes(len), bytes(self.len));
        self.len = len;
        if from < to {
            // SAFETY: the range is whole pages of the mapping, behind the records that are left: they hold nothing that is
            // looked at before it is written. Pages that keep their memory would do no harm.
            let _ = unsafe {
                rustix::mm::madvise(
                    self.start.as_ptr().byte_add(from).cast(),
                    to - from,
                    rustix::mm::Advice::LinuxDontNeed,
                )
            };
        }
    }
}

impl<T> Records<T> {
    /// Bytes of the mapping.
    fn bytes(&self) -> usize {
        (self.capacity * size_of::<T>()).next_multiple_of(PAGE as usize)
    }
}

impl<T> Deref for Records<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `len` values lie at `start`, each written by `push` or, being `FromBytes`, whatever the file has; the
        // mapping is ours alone, and who changed the file broke the promise above.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Records<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; the mapping is private.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for Records<T> {
    fn drop(&mut self) {
        if self.is_mapped {
            // SAFETY: the mapping is what `map` made, and nobody refers to it any more. Failure would only leave it.
            let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let file = rustix::fs::memfd_create("records", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(file);
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn records_of_a_file_are_followed_by_others_and_changed_here_only() {
        let mut bytes = vec![0; PAGE as usize];
        bytes.extend((1..=5u32).flat_map(u32::to_le_bytes));
        let file = file(&bytes);
        let mut records = Records::<u32>::of_file(&file, PAGE, 5, 3000).unwrap();
        assert_eq!(*records, [1, 2, 3, 4, 5]);
        records[1] = 20;
        records.extend(6..=4000);
        assert_eq!((records.len(), records[1], records[2999]), (3000, 20, 3000));
        assert!(!records.push(1));
        let other = Records::<u32>::of_file(&file, PAGE, 5, 5).unwrap();
        assert_eq!(*other, [1, 2, 3, 4, 5]);
        records.truncate(4000);
        records.truncate(6);
        assert_eq!(*records, [1, 20, 3, 4, 5, 6]);
        assert!(records.push(70));
        records.truncate(0);
        assert!(records.is_empty() && records.push(7));
        assert_eq!(*records, [7]);
        assert!(Records::<u32>::of_file(&file, 0, 0, 0).unwrap().is_empty());
    }

    #[test]
    fn what_the_file_does_not_have_is_refused() {
        let file = file(&[1; PAGE as usize + 8]);
        let ask = |at, len, capacity| Records::<u64>::of_file(&file, at, len, capacity).is_ok();
        assert!(ask(PAGE, 1, 1) && ask(0, 513, 513));
        assert!(!ask(PAGE, 2, 2) && !ask(PAGE, 1, 0) && !ask(8, 1, 1));
        assert!(!ask(2 * PAGE, 1, 1) && !ask(0, usize::MAX, usize::MAX) && !ask(u64::MAX, 1, 1));
    }
}
