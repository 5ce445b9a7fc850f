//! The integers that instructions operate on.

use std::ops::{BitAnd, BitOr, BitXor, Not};

/// An operand of 8, 16, 32 or 64 bits.
pub trait Integer:
    Copy
    + Eq
    + Ord
    + BitAnd<Output = Self>
    + BitOr<Output = Self>
    + BitXor<Output = Self>
    + Not<Output = Self>
    + 'static
{
    /// Its width.
    const BITS: u32;
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;

    /// The low bits of `value`.
    fn low(value: u64) -> Self;
    /// Itself, zero-extended.
    fn zero_extended(self) -> u64;
    /// Itself, sign-extended.
    fn sign_extended(self) -> u64;
    /// Sum modulo 2^BITS.
    fn plus(self, other: Self) -> Self;
    /// Difference modulo 2^BITS.
    fn minus(self, other: Self) -> Self;

    /// The top bit.
    #[inline(always)]
    fn is_negative(self) -> bool {
        self.sign_extended() >> 63 != 0
    }
}

macro_rules! integer {
    ($type:ty) => {
        impl Integer for $type {
            const BITS: u32 = <$type>::BITS;
            const ZERO: Self = 0;
            const ONE: Self = 1;

            #[inline(always)]
            fn low(value: u64) -> Self {
                value as $type
            }

            #[inline(always)]
            fn zero_extended(self) -> u64 {
                u64::from(self)
            }

            #[inline(always)]
            fn sign_extended(self) -> u64 {
                self.cast_signed() as i64 as u64
            }

            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
        }
    };
}

integer!(u8);
integer!(u16);
integer!(u32);
integer!(u64);
