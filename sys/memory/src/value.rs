//! The values CPUs load and store.

mod sealed {
    pub trait Sealed {}
}

/// An unsigned integer of 1, 2, 4 or 8 bytes.
pub trait Value: sealed::Sealed + Copy + Eq + 'static {
    /// Its size in bytes.
    const BYTES: u64;

    /// Loads it from `pointer`, at any alignment, by one machine instruction.
    ///
    /// # Safety
    /// `pointer` is readable for [`Self::BYTES`] bytes.
    unsafe fn load(pointer: *const u8) -> Self;

    /// Stores it to `pointer`, at any alignment, by one machine instruction.
    ///
    /// # Safety
    /// `pointer` is writable for [`Self::BYTES`] bytes.
    unsafe fn store(self, pointer: *mut u8);

    /// Atomically replaces `old` by `new` at `pointer`; gives what was there.
    ///
    /// # Safety
    /// `pointer` is writable for [`Self::BYTES`] bytes and aligned to them.
    unsafe fn compare_exchange(pointer: *mut u8, old: Self, new: Self) -> Self;
}

macro_rules! value {
    ($type:ty, $atomic:ty, $class:ident, $pattern:literal, $bytes:literal) => {
        impl sealed::Sealed for $type {}

        impl Value for $type {
            const BYTES: u64 = $bytes;

            #[inline(always)]
            unsafe fn load(pointer: *const u8) -> Self {
                let value: $type;
                // SAFETY: the caller vouches for the pointer. Assembly, because the guest may write at the same time
                // and the address may be unaligned: the processor defines both, the language neither.
                unsafe {
                    core::arch::asm!(
                        concat!("mov {0", $pattern, "}, [{1}]"),
                        out($class) value, in(reg) pointer,
                        options(nostack, preserves_flags, readonly)
                    );
                }
                value
            }

            #[inline(always)]
            unsafe fn store(self, pointer: *mut u8) {
                // SAFETY: as for `load`.
                unsafe {
                    core::arch::asm!(
                        concat!("mov [{1}], {0", $pattern, "}"),
                        in($class) self, in(reg) pointer,
                        options(nostack, preserves_flags)
                    );
                }
            }

            #[inline]
            unsafe fn compare_exchange(pointer: *mut u8, old: Self, new: Self) -> Self {
                // SAFETY: the caller vouches for pointer and alignment; guest memory is only ever reached by atomic
                // accesses or by assembly.
                let place = unsafe { <$atomic>::from_ptr(pointer.cast()) };
                use std::sync::atomic::Ordering::SeqCst;
                match place.compare_exchange(old, new, SeqCst, SeqCst) {
                    Ok(seen) | Err(seen) => seen,
                }
            }
        }
    };
}

value!(u8, std::sync::atomic::AtomicU8, reg_byte, "", 1);
value!(u16, std::sync::atomic::AtomicU16, reg, ":x", 2);
value!(u32, std::sync::atomic::AtomicU32, reg, ":e", 4);
value!(u64, std::sync::atomic::AtomicU64, reg, ":r", 8);
