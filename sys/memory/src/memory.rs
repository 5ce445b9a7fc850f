//! The mapping itself, and guest physical addresses.

use std::fs::File;
use std::ops::{Deref, Range};
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, SeekFrom};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use thiserror::Error;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use crate::code_pages::{CodePages, PageTracker};
use crate::ram::Ram;

/// Bytes in a page.
pub const PAGE: u64 = 4096;
/// Guest physical address at which the hole for devices begins; memory below it is low.
pub const LOW_LIMIT: u64 = 0xC000_0000;
/// Guest physical address at which memory beyond [`LOW_LIMIT`] bytes continues.
pub const HIGH_BASE: u64 = 1 << 32;

/// Bytes of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// Why a guest's memory could not be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The size is zero, no multiple of a page, or over 1 TiB.
    #[error("memory of {0} bytes: a multiple of {PAGE} up to 1 TiB is needed")]
    Size(u64),
    /// The kernel refused.
    #[error("cannot {0} guest memory of {1} bytes")]
    Kernel(&'static str, u64, #[source] Errno),
    /// The region could not be described to `vm-memory`.
    #[error("cannot describe guest memory")]
    Region(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// One range of guest physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Guest physical address of its first byte.
    pub address: u64,
    /// Its bytes.
    pub len: u64,
    /// Offset of its first byte in the memory's mapping, and in its file.
    pub offset: u64,
}

/// The host's mapping; unmapped when dropped.
#[derive(Debug)]
struct Mapping {
    address: *mut u8,
    len: u64,
    /// None for anonymous memory.
    file: Option<File>,
    is_private: bool,
}

// SAFETY: the mapping is shared memory; whoever accesses it does so by atomics or assembly.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(file: File, len: u64, flags: MapFlags) -> Result<Self, MemoryError> {
        let bytes = usize::try_from(len).map_err(|_| MemoryError::Size(len))?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address the kernel chooses touches nothing of ours.
        let address = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                bytes,
                protection,
                flags | MapFlags::NORESERVE,
                &file,
                0,
            )
        }
        .map_err(|errno| MemoryError::Kernel("map", len, errno))?;
        Ok(Self {
            address: address.cast(),
            len,
            file: Some(file),
            is_private: flags.contains(MapFlags::PRIVATE),
        })
    }
}

impl Mapping {
    /// The file, if what is written goes there.
    fn shared_file(&self) -> Option<&File> {
        self.file.as_ref().filter(|_| !self.is_private)
    }

    /// Memory without a file, at a multiple of [`HUGE_PAGE`].
    fn anonymous(len: u64) -> Result<Self, MemoryError> {
        let bytes = usize::try_from(len).map_err(|_| MemoryError::Size(len))?;
        let kernel = |what| move |errno| MemoryError::Kernel(what, len, errno);
        let reserved = bytes.checked_add(HUGE_PAGE).ok_or(MemoryError::Size(len))?;
        // SAFETY: a fresh mapping at an address the kernel chooses touches nothing of ours.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                reserved,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .map_err(kernel("map"))?;
        let before = start.addr().next_multiple_of(HUGE_PAGE) - start.addr();
        let address = start.wrapping_byte_add(before);
        let after = reserved - before - bytes;
        for (unused, len) in [(start, before), (address.wrapping_byte_add(bytes), after)] {
            if len > 0 {
                // SAFETY: both ends lie in the mapping made above, outside the part that is kept; nobody knows of them.
                unsafe { rustix::mm::munmap(unused, len) }.map_err(kernel("trim"))?;
            }
        }
        // SAFETY: the range is the mapping made above; advice changes no contents. A host without huge pages refuses,
        // which is no fault.
        let _ = unsafe { rustix::mm::madvise(address, bytes, Advice::LinuxHugepage) };
        Ok(Self {
            address: address.cast(),
            len,
            file: None,
            is_private: true,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the address and length are those mmap gave; everything that points into the mapping holds the
        // `Inner` this value is in, so nobody is left. Failure would only leave it mapped.
        unsafe {
            let _ = rustix::mm::munmap(self.address.cast(), self.len as usize);
        }
    }
}

#[derive(Debug)]
struct Inner {
    // Before `mapping`: its regions point into it.
    regions: GuestMemoryMmap<PageTracker>,
    pages: Arc<CodePages>,
    mapping: Mapping,
    layout: Vec<Region>,
}

/// A guest's whole memory, one mapping of a file or of nothing. Cheap to clone: clones are the same memory.
///
/// Dereferences to `vm-memory`'s `GuestMemoryMmap`, which devices use.
#[derive(Clone, Debug)]
pub struct GuestMemory(Arc<Inner>);

impl GuestMemory {
    /// Fresh zeroed memory of `bytes`, in a memfd that only grows in pages actually touched.
    ///
    /// # Errors
    /// [`MemoryError::Size`]; [`MemoryError::Kernel`] when descriptors or address space ran out.
    pub fn new(bytes: u64) -> Result<Self, MemoryError> {
        check(bytes)?;
        let kernel = |what| move |errno| MemoryError::Kernel(what, bytes, errno);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("guest-memory", flags).map_err(kernel("create"))?;
        rustix::fs::ftruncate(&file, bytes).map_err(kernel("size"))?;
        // Nobody who receives the descriptor can pull the pages away under the mapping.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals).map_err(kernel("seal"))?;
        Self::over(Mapping::new(file.into(), bytes, MapFlags::SHARED)?)
    }

    /// Fresh zeroed memory of `bytes` that nobody else can be given, in huge pages where the host has them: a guest of
    /// the processor's virtualization then leaves it once for 2 MiB it touches, instead of 512 times.
    ///
    /// # Errors
    /// As [`GuestMemory::new`].
    pub fn in_huge_pages(bytes: u64) -> Result<Self, MemoryError> {
        check(bytes)?;
        Self::over(Mapping::anonymous(bytes)?)
    }

    /// Memory that begins with the contents of `file` (`bytes` long) and never writes to it: a page is copied when the
    /// guest first writes it.
    ///
    /// # Errors
    /// As [`GuestMemory::new`].
    pub fn private_copy_of(file: File, bytes: u64) -> Result<Self, MemoryError> {
        check(bytes)?;
        Self::over(Mapping::new(file, bytes, MapFlags::PRIVATE)?)
    }

    fn over(mapping: Mapping) -> Result<Self, MemoryError> {
        let bytes = mapping.len;
        let layout = layout(bytes);
        let pages = usize::try_from(bytes / PAGE).map_err(|_| MemoryError::Size(bytes))?;
        let pages = Arc::new(CodePages::new(pages));
        let mut regions = Vec::with_capacity(layout.len());
        for region in &layout {
            let tracker = PageTracker::new(Arc::clone(&pages), region.offset);
            let builder = MmapRegionBuilder::new_with_bitmap(region.len as usize, tracker);
            let start = mapping.address.wrapping_add(region.offset as usize);
            // SAFETY: `layout` splits exactly the mapping's length, so start and length lie in it; `Inner` drops the
            // regions before the mapping.
            let builder = unsafe { builder.with_raw_mmap_pointer(start) };
            let builder = builder
                .with_mmap_prot(libc_protection())
                .with_mmap_flags(MAP_SHARED);
            let described = builder
                .build()
                .map_err(|why| MemoryError::Region(Box::new(why)))?;
            regions.push(
                GuestRegionMmap::new(described, GuestAddress(region.address))
                    .ok_or(MemoryError::Size(bytes))?,
            );
        }
        let regions = GuestMemoryMmap::from_regions(regions)
            .map_err(|why| MemoryError::Region(Box::new(why)))?;
        Ok(Self(Arc::new(Inner {
            regions,
            pages,
            mapping,
            layout,
        })))
    }

    /// All memory in bytes.
    #[expect(clippy::len_without_is_empty, reason = "memory is never empty")]
    pub fn len(&self) -> u64 {
        self.0.mapping.len
    }

    /// Where it lies in the guest's physical address space: one range, or two when it is over [`LOW_LIMIT`].
    pub fn layout(&self) -> &[Region] {
        &self.0.layout
    }

    /// The host address of `region`, one of [`GuestMemory::layout`]: what KVM wants for a memory slot.
    ///
    /// Valid as long as a clone of this memory lives.
    pub fn host_address(&self, region: &Region) -> u64 {
        self.0.mapping.address as u64 + region.offset
    }

    /// The offset of guest physical `address`, when memory is there.
    #[inline]
    pub fn offset_of(&self, address: u64) -> Option<u64> {
        let len = self.0.mapping.len;
        if address < len.min(LOW_LIMIT) {
            return Some(address);
        }
        let offset = address.checked_sub(HIGH_BASE)?.checked_add(LOW_LIMIT)?;
        (offset < len).then_some(offset)
    }

    /// The file behind it, if there is one; writing to it changes the guest's memory unless this is a private copy.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.0.mapping.file.as_ref().map(File::as_fd)
    }

    /// Stretches of it, by offset, that cover all that is not zero. Reading the rest of a memfd would make pages of it.
    ///
    /// # Errors
    /// [`MemoryError::Kernel`] when the kernel cannot say.
    pub fn touched(&self) -> Result<Vec<Range<u64>>, MemoryError> {
        let mapping = &self.0.mapping;
        let mut stretches = Vec::new();
        let Some(file) = mapping.shared_file() else {
            // The pages of its own could be anywhere, and are not told apart from here.
            stretches.push(0..mapping.len);
            return Ok(stretches);
        };
        let seek = |to| match rustix::fs::seek(file, to) {
            Ok(offset) => Ok(offset),
            Err(Errno::NXIO) => Ok(mapping.len),
            Err(errno) => Err(MemoryError::Kernel("find pages of", mapping.len, errno)),
        };
        let mut end = 0;
        while end < mapping.len {
            let start = seek(SeekFrom::Data(end))?;
            end = seek(SeekFrom::Hole(start))?;
            if start < end {
                stretches.push(start..end);
            }
        }
        Ok(stretches)
    }

    /// Gives the whole pages within `len` bytes at guest physical `address` back to the host.
    ///
    /// Until the guest writes them again they read as zero, in a private copy as the file's contents. A range that is
    /// not all memory is left alone.
    ///
    /// # Errors
    /// [`MemoryError::Kernel`] when the kernel cannot take them.
    pub fn discard(&self, address: u64, len: u64) -> Result<(), MemoryError> {
        let (Some(start), Some(end)) = (
            address.checked_next_multiple_of(PAGE),
            address.checked_add(len),
        ) else {
            return Ok(());
        };
        let end = end - end % PAGE;
        if start >= end {
            return Ok(());
        }
        let (Some(offset), Some(last)) = (self.offset_of(start), self.offset_of(end - 1)) else {
            return Ok(());
        };
        let bytes = end - start;
        if last - offset != bytes - 1 {
            return Ok(());
        }
        let mapping = &self.0.mapping;
        let outcome = if let Some(file) = mapping.shared_file() {
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(file, hole, offset, bytes)
        } else {
            let first = mapping.address.wrapping_add(offset as usize);
            // SAFETY: `offset` and `last` were found in the mapping above, so the range lies in it; whoever reads guest
            // memory expects it to change at any time.
            unsafe { rustix::mm::madvise(first.cast(), bytes as usize, Advice::LinuxDontNeed) }
        };
        self.0.pages.written(offset, bytes);
        outcome.map_err(|errno| MemoryError::Kernel("discard", bytes, errno))
    }

    /// What software CPUs have decoded where.
    #[inline]
    pub fn code_pages(&self) -> &CodePages {
        &self.0.pages
    }

    /// The memory as a software CPU sees it.
    pub fn ram(&self) -> Ram {
        Ram::new(self.clone(), self.0.mapping.address)
    }
}

impl Deref for GuestMemory {
    type Target = GuestMemoryMmap<PageTracker>;

    fn deref(&self) -> &Self::Target {
        &self.0.regions
    }
}

/// `PROT_READ | PROT_WRITE`, as `vm-memory` wants it.
fn libc_protection() -> i32 {
    (ProtFlags::READ | ProtFlags::WRITE).bits().cast_signed()
}

/// `MAP_SHARED | MAP_NORESERVE`; only recorded, since the mapping exists.
const MAP_SHARED: i32 = (MapFlags::SHARED.bits() | MapFlags::NORESERVE.bits()).cast_signed();

fn check(bytes: u64) -> Result<(), MemoryError> {
    if bytes == 0 || !bytes.is_multiple_of(PAGE) || bytes > 1 << 40 {
        return Err(MemoryError::Size(bytes));
    }
    Ok(())
}

/// Splits `bytes` around the hole for devices.
fn layout(bytes: u64) -> Vec<Region> {
    let low = bytes.min(LOW_LIMIT);
    let mut layout = vec![Region {
        address: 0,
        len: low,
        offset: 0,
    }];
    if bytes > low {
        layout.push(Region {
            address: HIGH_BASE,
            len: bytes - low,
            offset: low,
        });
    }
    layout
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use vm_memory::Bytes;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn memory_over_three_gib_continues_above_the_hole() {
        let memory = GuestMemory::new(4096 * MIB).unwrap();
        assert_eq!(memory.layout().len(), 2);
        assert_eq!(memory.offset_of(LOW_LIMIT - 1), Some(LOW_LIMIT - 1));
        assert_eq!(memory.offset_of(LOW_LIMIT), None);
        assert_eq!(memory.offset_of(HIGH_BASE), Some(LOW_LIMIT));
        assert_eq!(memory.offset_of(HIGH_BASE + 1024 * MIB), None);
        memory
            .write_obj(77u32, GuestAddress(HIGH_BASE + 8))
            .unwrap();
        assert_eq!(memory.ram().load::<u32>(LOW_LIMIT + 8), 77);
    }

    #[test]
    fn sizes_that_are_none_are_refused() {
        for bytes in [0, 1, PAGE + 1, (1 << 40) + PAGE] {
            assert!(matches!(GuestMemory::new(bytes), Err(MemoryError::Size(_))));
        }
    }

    #[test]
    fn devices_writes_reach_the_code_pages() {
        let memory = GuestMemory::new(MIB).unwrap();
        memory.code_pages().mark(2 * PAGE, 64);
        memory
            .write_slice(&[1; 100], GuestAddress(2 * PAGE - 50))
            .unwrap();
        assert_eq!(memory.code_pages().version(2), 1);
    }

    #[test]
    fn a_private_copy_leaves_its_file_alone() {
        let fd = rustix::fs::memfd_create("template", MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(fd);
        file.write_all(&[7; 2 * PAGE as usize]).unwrap();
        let ram = GuestMemory::private_copy_of(file.try_clone().unwrap(), 2 * PAGE)
            .unwrap()
            .ram();
        ram.store(PAGE, 9u8);
        assert_eq!((ram.load::<u8>(PAGE), ram.load::<u8>(PAGE + 1)), (9, 7));
        let mut byte = [0];
        rustix::io::pread(&file, &mut byte, PAGE).unwrap();
        assert_eq!(byte, [7]);
    }

    #[test]
    fn what_was_never_touched_is_left_out() {
        let memory = GuestMemory::new(8 * MIB).unwrap();
        assert_eq!(memory.touched().unwrap(), []);
        for page in [3, 4, 2047] {
            memory.ram().store(page * PAGE, 5u8);
        }
        let stretches = [3 * PAGE..5 * PAGE, 2047 * PAGE..2048 * PAGE];
        assert_eq!(memory.touched().unwrap(), stretches);
        let file = File::from(memory.file().unwrap().try_clone_to_owned().unwrap());
        let copy = GuestMemory::private_copy_of(file, 8 * MIB).unwrap();
        let [all] = &copy.touched().unwrap()[..] else {
            panic!("more than one stretch");
        };
        assert_eq!(*all, 0..8 * MIB);
    }

    #[test]
    fn memory_in_huge_pages_is_aligned_zero_and_given_back() {
        let memory = GuestMemory::in_huge_pages(5 * MIB).unwrap();
        let region = memory.layout()[0];
        assert_eq!(memory.host_address(&region) % HUGE_PAGE as u64, 0);
        assert!(memory.file().is_none());
        let ram = memory.ram();
        for offset in [0, 3 * MIB + 1, 5 * MIB - 1] {
            assert_eq!(ram.load::<u8>(offset), 0);
            ram.store(offset, 9u8);
        }
        memory.discard(2 * MIB, 2 * MIB).unwrap();
        let found = [0, 3 * MIB + 1, 5 * MIB - 1].map(|offset| ram.load::<u8>(offset));
        assert_eq!(found, [9, 0, 9]);
        assert!(GuestMemory::in_huge_pages(1).is_err());
        assert!(GuestMemory::in_huge_pages(u64::MAX - 4095).is_err());
    }

    #[test]
    fn discarded_pages_return_to_the_host_and_to_their_first_contents() {
        let memory = GuestMemory::new(8 * PAGE).unwrap();
        let ram = memory.ram();
        for page in 0..8 {
            ram.store(page * PAGE + 8, 5u8);
        }
        let used =
            |memory: &GuestMemory| rustix::fs::fstat(memory.file().unwrap()).unwrap().st_blocks;
        assert_eq!(used(&memory), 64);
        memory.code_pages().mark(3 * PAGE, 8);
        memory.discard(2 * PAGE - 1, 3 * PAGE + 2).unwrap();
        assert_eq!(used(&memory), 64 - 3 * 8);
        let bytes: Vec<u8> = (0..8).map(|page| ram.load(page * PAGE + 8)).collect();
        assert_eq!(bytes, [5, 5, 0, 0, 0, 5, 5, 5]);
        assert_eq!(memory.code_pages().version(3), 1);
        for (address, len) in [(7 * PAGE, 2 * PAGE), (u64::MAX - 5, 100), (PAGE, 7)] {
            memory.discard(address, len).unwrap();
        }
        assert_eq!([1, 7].map(|page| ram.load::<u8>(page * PAGE + 8)), [5, 5]);

        let copy = GuestMemory::private_copy_of(
            File::from(memory.file().unwrap().try_clone_to_owned().unwrap()),
            8 * PAGE,
        )
        .unwrap();
        copy.ram().store(8, 9u8);
        copy.discard(0, PAGE).unwrap();
        assert_eq!(copy.ram().load::<u8>(8), 5);
    }

    #[test]
    fn only_zeros_are_all_zero() {
        let ram = GuestMemory::new(2 * PAGE).unwrap().ram();
        assert!(ram.is_zero(0, 2 * PAGE));
        ram.store(PAGE + 7, 1u8);
        assert!(ram.is_zero(0, PAGE) && ram.is_zero(PAGE + 8, PAGE - 8));
        assert!(!ram.is_zero(PAGE, 8) && !ram.is_zero(0, 2 * PAGE));
    }

    #[test]
    fn values_of_every_size_are_loaded_stored_and_exchanged_at_any_alignment() {
        let ram = GuestMemory::new(PAGE).unwrap().ram();
        for offset in [0, 1, 7, 63, PAGE - 8] {
            ram.store(offset, 0x1122_3344_5566_7788u64);
            assert_eq!(ram.load::<u64>(offset), 0x1122_3344_5566_7788);
            assert_eq!(ram.load::<u32>(offset + 4), 0x1122_3344);
            assert_eq!(ram.update(offset, |old: u16| old + 1), 0x7788);
            assert_eq!(ram.load::<u16>(offset), 0x7789);
            assert_eq!(ram.update(offset, |_: u8| 0xFF), 0x89);
            assert_eq!(ram.load::<u8>(offset), 0xFF);
        }
        ram.store_u128(16, 5);
        assert_eq!(ram.compare_exchange_u128(16, 4, 9), 5);
        assert_eq!(ram.compare_exchange_u128(16, 5, 9), 5);
        assert_eq!(ram.load_u128(16), 9);
    }

    #[test]
    #[should_panic(expected = "lies in memory")]
    fn an_offset_beyond_the_memory_is_no_access() {
        GuestMemory::new(PAGE).unwrap().ram().load::<u64>(PAGE - 7);
    }
}
