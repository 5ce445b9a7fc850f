//! Packed shifts (Intel SDM vol. 2, "PSLLW/PSLLD/PSLLQ" and its neighbours).
//!
//! `count` is the whole 64-bit count: the immediate, or the low quadword of the count operand. Counts over the width
//! clear an element, or fill it with its sign.

use super::vector::Vector;

macro_rules! shifts {
    ($($(#[$doc:meta])* $name:ident: $type:ty, $method:ident, $over:expr;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        #[must_use]
        pub fn $name<const N: usize>(a: Vector<N>, count: u64) -> Vector<N> {
            if count >= u64::from(<$type>::BITS) {
                return a.map::<$type>($over);
            }
            let count = count as u32;
            a.map::<$type>(|element| element.$method(count))
        }
    )*};
}

shifts! {
    /// PSLLW.
    psllw: u16, wrapping_shl, |_| 0;
    /// PSLLD.
    pslld: u32, wrapping_shl, |_| 0;
    /// PSLLQ.
    psllq: u64, wrapping_shl, |_| 0;
    /// PSRLW.
    psrlw: u16, wrapping_shr, |_| 0;
    /// PSRLD.
    psrld: u32, wrapping_shr, |_| 0;
    /// PSRLQ.
    psrlq: u64, wrapping_shr, |_| 0;
    /// PSRAW.
    psraw: i16, wrapping_shr, |element| element >> 15;
    /// PSRAD.
    psrad: i32, wrapping_shr, |element| element >> 31;
}

/// PSLLDQ: left by `count` bytes.
#[inline(always)]
#[must_use]
pub fn pslldq(a: Vector<16>, count: u8) -> Vector<16> {
    if count > 15 {
        return Vector::ZERO;
    }
    (u128::from(a) << (8 * u32::from(count))).into()
}

/// PSRLDQ: right by `count` bytes.
#[inline(always)]
#[must_use]
pub fn psrldq(a: Vector<16>, count: u8) -> Vector<16> {
    if count > 15 {
        return Vector::ZERO;
    }
    (u128::from(a) >> (8 * u32::from(count))).into()
}
