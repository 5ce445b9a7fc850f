//! Packed integer arithmetic, comparison and logic (Intel SDM vol. 2, the instructions of these names).
//!
//! Each is defined once for MMX's 8 bytes and SSE's 16. `a` is the destination's old value.

use super::vector::{Element, Vector};

macro_rules! elementwise {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $f:expr;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        #[must_use]
        pub fn $name<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
            a.zip::<$type>(b, $f)
        }
    )*};
}

/// All ones when `condition` holds.
macro_rules! mask {
    ($type:ty, $condition:expr) => {
        if $condition { <$type>::MAX } else { 0 }
    };
}

elementwise! {
    /// PADDB.
    paddb: u8 = u8::wrapping_add;
    /// PADDW.
    paddw: u16 = u16::wrapping_add;
    /// PADDD.
    paddd: u32 = u32::wrapping_add;
    /// PADDQ.
    paddq: u64 = u64::wrapping_add;
    /// PSUBB.
    psubb: u8 = u8::wrapping_sub;
    /// PSUBW.
    psubw: u16 = u16::wrapping_sub;
    /// PSUBD.
    psubd: u32 = u32::wrapping_sub;
    /// PSUBQ.
    psubq: u64 = u64::wrapping_sub;
    /// PADDSB.
    paddsb: i8 = i8::saturating_add;
    /// PADDSW.
    paddsw: i16 = i16::saturating_add;
    /// PADDUSB.
    paddusb: u8 = u8::saturating_add;
    /// PADDUSW.
    paddusw: u16 = u16::saturating_add;
    /// PSUBSB.
    psubsb: i8 = i8::saturating_sub;
    /// PSUBSW.
    psubsw: i16 = i16::saturating_sub;
    /// PSUBUSB.
    psubusb: u8 = u8::saturating_sub;
    /// PSUBUSW.
    psubusw: u16 = u16::saturating_sub;
    /// PMULLW.
    pmullw: u16 = u16::wrapping_mul;
    /// PMULLD.
    pmulld: u32 = u32::wrapping_mul;
    /// PMULHW.
    pmulhw: i16 = |a, b| ((i32::from(a) * i32::from(b)) >> 16) as i16;
    /// PMULHUW.
    pmulhuw: u16 = |a, b| ((u32::from(a) * u32::from(b)) >> 16) as u16;
    /// PMULHRSW.
    pmulhrsw: i16 = |a, b| ((((i32::from(a) * i32::from(b)) >> 14) + 1) >> 1) as i16;
    /// PMULUDQ.
    pmuludq: u64 = |a, b| (a & 0xFFFF_FFFF) * (b & 0xFFFF_FFFF);
    /// PMULDQ.
    pmuldq: i64 = |a, b| i64::from(a as i32) * i64::from(b as i32);
    /// PAVGB.
    pavgb: u8 = |a, b| (u16::from(a) + u16::from(b)).div_ceil(2) as u8;
    /// PAVGW.
    pavgw: u16 = |a, b| (u32::from(a) + u32::from(b)).div_ceil(2) as u16;
    /// PMINSB.
    pminsb: i8 = i8::min;
    /// PMINSW.
    pminsw: i16 = i16::min;
    /// PMINSD.
    pminsd: i32 = i32::min;
    /// PMINUB.
    pminub: u8 = u8::min;
    /// PMINUW.
    pminuw: u16 = u16::min;
    /// PMINUD.
    pminud: u32 = u32::min;
    /// PMAXSB.
    pmaxsb: i8 = i8::max;
    /// PMAXSW.
    pmaxsw: i16 = i16::max;
    /// PMAXSD.
    pmaxsd: i32 = i32::max;
    /// PMAXUB.
    pmaxub: u8 = u8::max;
    /// PMAXUW.
    pmaxuw: u16 = u16::max;
    /// PMAXUD.
    pmaxud: u32 = u32::max;
    /// PCMPEQB.
    pcmpeqb: u8 = |a, b| mask!(u8, a == b);
    /// PCMPEQW.
    pcmpeqw: u16 = |a, b| mask!(u16, a == b);
    /// PCMPEQD.
    pcmpeqd: u32 = |a, b| mask!(u32, a == b);
    /// PCMPEQQ.
    pcmpeqq: u64 = |a, b| mask!(u64, a == b);
    /// PCMPGTB.
    pcmpgtb: u8 = |a, b| mask!(u8, (a as i8) > b as i8);
    /// PCMPGTW.
    pcmpgtw: u16 = |a, b| mask!(u16, (a as i16) > b as i16);
    /// PCMPGTD.
    pcmpgtd: u32 = |a, b| mask!(u32, (a as i32) > b as i32);
    /// PCMPGTQ.
    pcmpgtq: u64 = |a, b| mask!(u64, (a as i64) > b as i64);
    /// PAND, ANDPS, ANDPD.
    pand: u64 = |a, b| a & b;
    /// POR, ORPS, ORPD.
    por: u64 = |a, b| a | b;
    /// PXOR, XORPS, XORPD.
    pxor: u64 = |a, b| a ^ b;
    /// PANDN, ANDNPS, ANDNPD: the destination is what is inverted.
    pandn: u64 = |a, b| !a & b;
    /// PSIGNB.
    psignb: i8 = |a, b| if b < 0 { a.wrapping_neg() } else if b == 0 { 0 } else { a };
    /// PSIGNW.
    psignw: i16 = |a, b| if b < 0 { a.wrapping_neg() } else if b == 0 { 0 } else { a };
    /// PSIGND.
    psignd: i32 = |a, b| if b < 0 { a.wrapping_neg() } else if b == 0 { 0 } else { a };
}

/// PABSB of the source.
#[inline(always)]
#[must_use]
pub fn pabsb<const N: usize>(source: Vector<N>) -> Vector<N> {
    source.map::<i8>(i8::wrapping_abs)
}

/// PABSW of the source.
#[inline(always)]
#[must_use]
pub fn pabsw<const N: usize>(source: Vector<N>) -> Vector<N> {
    source.map::<i16>(i16::wrapping_abs)
}

/// PABSD of the source.
#[inline(always)]
#[must_use]
pub fn pabsd<const N: usize>(source: Vector<N>) -> Vector<N> {
    source.map::<i32>(i32::wrapping_abs)
}

/// PMADDWD: products of signed words, added in pairs.
#[inline(always)]
#[must_use]
pub fn pmaddwd<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
    let product = |i| i32::from(a.get::<i16>(i)) * i32::from(b.get::<i16>(i));
    Vector::build(|i| product(2 * i).wrapping_add(product(2 * i + 1)))
}

/// PMADDUBSW: products of `a`'s unsigned and `b`'s signed bytes, added in pairs, saturated.
#[inline(always)]
#[must_use]
pub fn pmaddubsw<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
    let product = |i| i16::from(a.get::<u8>(i)) * i16::from(b.get::<i8>(i));
    Vector::build(|i| product(2 * i).saturating_add(product(2 * i + 1)))
}

/// PSADBW: sums of absolute differences of eight bytes.
#[inline(always)]
#[must_use]
pub fn psadbw<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
    Vector::build(|half| {
        (8 * half..8 * half + 8).fold(0u64, |sum, i| sum + u64::from(a.0[i].abs_diff(b.0[i])))
    })
}

/// MPSADBW: eight sums over neighbouring places of `a` against four bytes of `b`, both chosen by `control`.
#[inline(always)]
#[must_use]
pub fn mpsadbw(a: Vector<16>, b: Vector<16>, control: u8) -> Vector<16> {
    let first = usize::from(control >> 2 & 1) * 4;
    let second = usize::from(control & 3) * 4;
    Vector::build(|place| {
        (0..4).fold(0u16, |sum, i| {
            sum + u16::from(a.0[first + place + i].abs_diff(b.0[second + i]))
        })
    })
}

/// PHMINPOSUW: the smallest unsigned word of the source and its index.
#[inline(always)]
#[must_use]
pub fn phminposuw(source: Vector<16>) -> Vector<16> {
    let mut least = (u16::MAX, 7);
    for index in (0..8).rev() {
        let word = source.get::<u16>(index);
        if word <= least.0 {
            least = (word, index as u16);
        }
    }
    Vector::ZERO.with(0, least.0).with(1, least.1)
}

/// Neighbouring elements of `a` then of `b`, joined by `f`.
#[inline(always)]
fn horizontal<E: Element, const N: usize>(
    a: Vector<N>,
    b: Vector<N>,
    f: impl Fn(E, E) -> E,
) -> Vector<N> {
    let half = Vector::<N>::count::<E>() / 2;
    Vector::build(|i| {
        let (from, i) = if i < half { (a, i) } else { (b, i - half) };
        f(from.get(2 * i), from.get(2 * i + 1))
    })
}

macro_rules! horizontals {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $f:expr;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        #[must_use]
        pub fn $name<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
            horizontal::<$type, N>(a, b, $f)
        }
    )*};
}

horizontals! {
    /// PHADDW.
    phaddw: u16 = u16::wrapping_add;
    /// PHADDD.
    phaddd: u32 = u32::wrapping_add;
    /// PHADDSW.
    phaddsw: i16 = i16::saturating_add;
    /// PHSUBW.
    phsubw: u16 = u16::wrapping_sub;
    /// PHSUBD.
    phsubd: u32 = u32::wrapping_sub;
    /// PHSUBSW.
    phsubsw: i16 = i16::saturating_sub;
}

/// PTEST: (ZF, CF).
#[inline(always)]
#[must_use]
pub fn ptest(a: Vector<16>, b: Vector<16>) -> (bool, bool) {
    let (a, b) = (u128::from(a), u128::from(b));
    (a & b == 0, !a & b == 0)
}
