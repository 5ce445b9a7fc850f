//! Memory as a software CPU sees it: loads and stores at an offset.

use std::sync::{Mutex, PoisonError};

use crate::code_pages::CodePages;
use crate::memory::GuestMemory;
use crate::value::Value;

/// A guest's memory as one range of offsets, for loads and stores that cost one bounds check.
///
/// An offset comes from [`GuestMemory::offset_of`]. Stores are not reported to [`CodePages`]: the CPU does that itself,
/// because it knows which pages hold no code. Cheap to clone; keeps the mapping alive.
#[derive(Clone, Debug)]
pub struct Ram {
    base: *mut u8,
    len: u64,
    memory: GuestMemory,
}

// SAFETY: the pointer is to a shared mapping that lives as long as `memory`; every access through it is an atomic or an
// assembly instruction, which may race with others.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

/// Serialises locked operations that are not aligned: two halves cannot be exchanged at once.
static SPLIT_LOCK: Mutex<()> = Mutex::new(());

impl Ram {
    pub(crate) fn new(memory: GuestMemory, base: *mut u8) -> Self {
        Self {
            base,
            len: memory.len(),
            memory,
        }
    }

    /// Bytes of memory.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "memory is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The offset of guest physical address `address`, when memory is there.
    #[inline]
    pub fn offset_of(&self, address: u64) -> Option<u64> {
        self.memory.offset_of(address)
    }

    /// What is decoded where.
    #[inline]
    pub fn code_pages(&self) -> &CodePages {
        self.memory.code_pages()
    }

    #[inline(always)]
    fn at(&self, offset: u64, bytes: u64) -> *mut u8 {
        assert!(
            bytes <= self.len && offset <= self.len - bytes,
            "an offset comes from offset_of, so it lies in memory"
        );
        self.base.wrapping_add(offset as usize)
    }

    /// Loads a value at `offset`, at any alignment.
    ///
    /// # Panics
    /// When it ends beyond the memory.
    #[inline(always)]
    pub fn load<T: Value>(&self, offset: u64) -> T {
        // SAFETY: `at` checked that the bytes lie in the mapping, which `self.memory` keeps.
        unsafe { T::load(self.at(offset, T::BYTES)) }
    }

    /// Stores a value at `offset`, at any alignment.
    ///
    /// # Panics
    /// When it ends beyond the memory.
    #[inline(always)]
    pub fn store<T: Value>(&self, offset: u64, value: T) {
        // SAFETY: as in `load`.
        unsafe { value.store(self.at(offset, T::BYTES)) }
    }

    /// Loads 16 bytes at `offset` as two halves, low first.
    ///
    /// # Panics
    /// When they end beyond the memory.
    #[inline(always)]
    pub fn load_u128(&self, offset: u64) -> u128 {
        u128::from(self.load::<u64>(offset)) | u128::from(self.load::<u64>(offset + 8)) << 64
    }

    /// Stores 16 bytes at `offset` as two halves, low first.
    ///
    /// # Panics
    /// When they end beyond the memory.
    #[inline(always)]
    pub fn store_u128(&self, offset: u64, value: u128) {
        self.store(offset, value as u64);
        self.store(offset + 8, (value >> 64) as u64);
    }

    /// Atomically replaces the value at `offset` by `change` of it; gives the old value.
    ///
    /// An unaligned value is exchanged under a lock of this process: other locked operations see it whole.
    ///
    /// # Panics
    /// When it ends beyond the memory.
    #[inline]
    pub fn update<T: Value>(&self, offset: u64, mut change: impl FnMut(T) -> T) -> T {
        let pointer = self.at(offset, T::BYTES);
        if !(pointer as u64).is_multiple_of(T::BYTES) {
            let _whole = SPLIT_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
            let old = self.load(offset);
            self.store(offset, change(old));
            return old;
        }
        let mut old: T = self.load(offset);
        loop {
            // SAFETY: `at` checked the bytes, the line above the alignment.
            let seen = unsafe { T::compare_exchange(pointer, old, change(old)) };
            if seen == old {
                return old;
            }
            old = seen;
        }
    }

    /// Atomically replaces 16 bytes at `offset`, a multiple of 16, by `new` if they are `old`; gives what was there.
    ///
    /// # Panics
    /// When the offset is no multiple of 16 or lies beyond the memory.
    pub fn compare_exchange_u128(&self, offset: u64, old: u128, new: u128) -> u128 {
        let pointer = self.at(offset, 16);
        assert!(
            (pointer as u64).is_multiple_of(16),
            "CMPXCHG16B's operand is aligned"
        );
        assert!(
            std::arch::is_x86_feature_detected!("cmpxchg16b"),
            "a host of x86-64-v2"
        );
        // SAFETY: bounds, alignment and the processor's feature were checked in the lines above.
        unsafe { exchange_16(pointer, old, new) }
    }

    /// Copies `data.len()` bytes out, from `offset`.
    ///
    /// # Panics
    /// When they end beyond the memory.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let from = self.at(offset, data.len() as u64);
        // SAFETY: `at` checked the source range; the destination is ours alone and does not overlap a mapping of its
        // own.
        unsafe { copy(from, data.as_mut_ptr(), data.len()) }
    }

    /// Whether `len` bytes from `offset` are all zero; `len` is a multiple of 8.
    ///
    /// # Panics
    /// When they end beyond the memory.
    pub fn is_zero(&self, offset: u64, len: u64) -> bool {
        (offset..offset + len)
            .step_by(8)
            .all(|word| self.load::<u64>(word) == 0)
    }

    /// Copies `data` in, to `offset`.
    ///
    /// # Panics
    /// When it ends beyond the memory.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let to = self.at(offset, data.len() as u64);
        // SAFETY: as in `read`, the other way round.
        unsafe { copy(data.as_ptr(), to, data.len()) }
    }

    /// Copies `len` bytes from offset `from` to offset `to`; the ranges don't overlap.
    ///
    /// # Panics
    /// When they overlap or end beyond the memory.
    pub fn copy_within(&self, from: u64, to: u64, len: u64) {
        assert!(
            from + len <= to || to + len <= from,
            "the ranges don't overlap"
        );
        let (source, target) = (self.at(from, len), self.at(to, len));
        // SAFETY: both ranges were checked by `at`, and that they don't overlap by the first line.
        unsafe { copy(source, target, len as usize) }
    }
}

/// Atomically replaces `old` by `new`; gives what was there.
///
/// # Safety
/// `pointer` is writable for 16 bytes and aligned to 16; the processor has CMPXCHG16B.
unsafe fn exchange_16(pointer: *mut u8, old: u128, new: u128) -> u128 {
    let (mut low, mut high) = (old as u64, (old >> 64) as u64);
    // SAFETY: the caller vouches for the pointer and the feature. RBX belongs to the compiler and is restored.
    unsafe {
        core::arch::asm!(
            "xchg rbx, {new_low}",
            "lock cmpxchg16b [{pointer}]",
            "mov rbx, {new_low}",
            new_low = inout(reg) new as u64 => _, pointer = in(reg) pointer,
            inout("rax") low, inout("rdx") high, in("rcx") (new >> 64) as u64,
            options(nostack)
        );
    }
    u128::from(low) | u128::from(high) << 64
}

/// Copies bytes by `rep movsb`: other parties may change either side meanwhile.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes.
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller vouches for both ranges; the direction flag is clear by the calling convention.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rsi") from => _, inout("rdi") to => _, inout("rcx") len => _,
            options(nostack, preserves_flags)
        );
    }
}
