//! One descriptor chain, checked whole before a device sees it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use atoll_memory::{GuestMemory, GuestSlice};
use virtio_queue::DescriptorChain;
use virtio_queue::desc::split::Descriptor;
use vm_memory::GuestMemoryBackend;

use crate::ring::{Broken, Memory};

/// The most descriptors a chain may have. The rule is the queue's size (virtio 1.3 §2.7.5.3.1), also for indirect
/// tables; no queue here is larger than this.
const MAX_DESCRIPTORS: usize = 1024;

/// What a driver put into a queue: bytes for the device, then room for its answer.
#[derive(Debug)]
pub struct Chain<'m> {
    head: u16,
    /// What the driver sent.
    pub readable: Buffers<'m>,
    /// Where the device answers.
    pub writable: Buffers<'m>,
}

impl<'m> Chain<'m> {
    /// Walks `descriptors` to the end.
    ///
    /// # Errors
    /// [`Broken`] when the chain is empty, endless, too long, not all in memory, or has readable parts after writable
    /// ones (§2.7.4.2).
    pub(crate) fn collect(
        memory: &'m GuestMemory,
        mut descriptors: DescriptorChain<&'m Memory>,
    ) -> Result<Self, Broken> {
        let mut chain = Self {
            head: descriptors.head_index(),
            readable: Buffers::default(),
            writable: Buffers::default(),
        };
        let mut goes_on = true;
        for _ in 0..MAX_DESCRIPTORS {
            let Some(descriptor) = descriptors.next() else {
                break;
            };
            goes_on = descriptor.has_next();
            chain.add(memory, descriptor)?;
            if !goes_on {
                break;
            }
        }
        // The iterator ends early, without a word, at anything it finds wrong.
        if goes_on {
            return Err(Broken::Chain);
        }
        Ok(chain)
    }

    fn add(&mut self, memory: &'m GuestMemory, descriptor: Descriptor) -> Result<(), Broken> {
        let bytes = descriptor.len() as usize;
        if bytes == 0 {
            return Ok(());
        }
        let slice = memory
            .get_slice(descriptor.addr(), bytes)
            .map_err(|_| Broken::Address)?;
        if descriptor.is_write_only() {
            self.writable.push(slice);
        } else if self.writable.is_empty() {
            self.readable.push(slice);
        } else {
            return Err(Broken::Order);
        }
        Ok(())
    }

    /// The index by which the driver knows it.
    pub fn head(&self) -> u16 {
        self.head
    }
}

/// Scattered guest memory as one sequence of bytes, consumed from the front.
#[derive(Clone, Debug, Default)]
pub struct Buffers<'m> {
    slices: VecDeque<GuestSlice<'m>>,
    len: u64,
}

impl<'m> Buffers<'m> {
    fn push(&mut self, slice: GuestSlice<'m>) {
        self.len += slice.len() as u64;
        self.slices.push_back(slice);
    }

    /// Puts `other` behind itself.
    pub fn append(&mut self, other: Self) {
        self.len += other.len;
        self.slices.extend(other.slices);
    }

    /// The guest physical address and length of each part.
    pub(crate) fn ranges(&self, memory: &GuestMemory) -> Vec<(u64, u64)> {
        let places = self.slices.iter().filter_map(|slice| {
            let host = slice.ptr_guard().as_ptr() as u64;
            let len = slice.len() as u64;
            memory.layout().iter().find_map(|region| {
                let offset = host.checked_sub(memory.host_address(region))?;
                (offset < region.len).then_some((region.address + offset, len))
            })
        });
        places.collect()
    }

    /// Bytes left.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no byte is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies as many bytes out as there are and fit; gives how many.
    pub fn read(&mut self, data: &mut [u8]) -> usize {
        let mut done = 0;
        while done < data.len() {
            let Some(slice) = self.next_slice(data.len() - done) else {
                break;
            };
            done += slice.copy_to(&mut data[done..done + slice.len()]);
        }
        done
    }

    /// Copies exactly `N` bytes out, or none.
    pub fn read_array<const N: usize>(&mut self) -> Option<[u8; N]> {
        if self.len < N as u64 {
            return None;
        }
        let mut data = [0; N];
        self.read(&mut data);
        Some(data)
    }

    /// Copies out everything there is, if it is at most `limit` bytes.
    pub fn read_all(&mut self, limit: usize) -> Option<Vec<u8>> {
        let len = usize::try_from(self.len).ok().filter(|len| *len <= limit)?;
        let mut data = vec![0; len];
        self.read(&mut data);
        Some(data)
    }

    /// Copies as many bytes in as fit; gives how many.
    pub fn write(&mut self, data: &[u8]) -> usize {
        let mut done = 0;
        while done < data.len() {
            let Some(slice) = self.next_slice(data.len() - done) else {
                break;
            };
            slice.copy_from(&data[done..done + slice.len()]);
            done += slice.len();
        }
        done
    }

    /// Takes the first bytes off, at most `bytes`.
    #[must_use]
    pub fn split_front(&mut self, bytes: u64) -> Self {
        let mut front = Self::default();
        while front.len < bytes {
            let room = usize::try_from(bytes - front.len).unwrap_or(usize::MAX);
            let Some(slice) = self.next_slice(room) else {
                break;
            };
            front.push(slice);
        }
        front
    }

    /// Takes the last bytes off, at most `bytes`.
    #[must_use]
    pub fn split_back(&mut self, bytes: u64) -> Self {
        let front = self.split_front(self.len.saturating_sub(bytes));
        std::mem::replace(self, front)
    }

    /// Fills itself from `file` at `offset` by as few calls as it takes; gives how many bytes came before its end.
    ///
    /// # Errors
    /// preadv(2)'s, when nothing came.
    pub fn fill_from_file(&mut self, file: BorrowedFd<'_>, offset: u64) -> io::Result<u64> {
        self.transfer(|slices, done| {
            atoll_memory::read_vectored_at(file, slices, offset.saturating_add(done))
        })
    }

    /// Writes itself to `file` at `offset` by as few calls as it takes; gives how many bytes went.
    ///
    /// # Errors
    /// pwritev(2)'s, when nothing went.
    pub fn drain_to_file(&mut self, file: BorrowedFd<'_>, offset: u64) -> io::Result<u64> {
        self.transfer(|slices, done| {
            atoll_memory::write_vectored_at(file, slices, offset.saturating_add(done))
        })
    }

    /// Fills itself by one readv(2); gives how many bytes came.
    ///
    /// # Errors
    /// readv(2)'s.
    pub fn fill_once(&mut self, stream: BorrowedFd<'_>) -> io::Result<usize> {
        let count = atoll_memory::read_vectored(stream, self.slices.make_contiguous())?;
        let _ = self.split_front(count as u64);
        Ok(count)
    }

    /// Writes itself by one writev(2); gives how many bytes went.
    ///
    /// # Errors
    /// writev(2)'s.
    pub fn drain_once(&mut self, stream: BorrowedFd<'_>) -> io::Result<usize> {
        let count = atoll_memory::write_vectored(stream, self.slices.make_contiguous())?;
        let _ = self.split_front(count as u64);
        Ok(count)
    }

    fn transfer(
        &mut self,
        mut step: impl FnMut(&[GuestSlice<'_>], u64) -> io::Result<usize>,
    ) -> io::Result<u64> {
        let mut done = 0;
        while !self.is_empty() {
            match step(self.slices.make_contiguous(), done) {
                Ok(0) => break,
                Ok(count) => {
                    let _ = self.split_front(count as u64);
                    done += count as u64;
                }
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) if done == 0 => return Err(why),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Takes off the first slice, or its first `most` bytes.
    fn next_slice(&mut self, most: usize) -> Option<GuestSlice<'m>> {
        let first = self.slices.pop_front()?;
        let taken = if first.len() <= most {
            first
        } else {
            let (front, rest) = first.split_at(most).ok()?;
            self.slices.push_front(rest);
            front
        };
        self.len -= taken.len() as u64;
        Some(taken)
    }
}
