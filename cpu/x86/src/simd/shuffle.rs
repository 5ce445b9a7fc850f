//! Moving elements about: unpack, pack, shuffle, blend, insert, extract, extend (Intel SDM vol. 2, the instructions
//! of these names). `a` is the destination's old value.

use super::vector::{Element, Mmx, Vector, Xmm};

/// Elements of `a` and `b` in turn, from element `first` on.
#[inline(always)]
fn interleave<E: Element, const N: usize>(a: Vector<N>, b: Vector<N>, first: usize) -> Vector<N> {
    Vector::build(|i| {
        if i % 2 == 0 {
            a.get::<E>(first + i / 2)
        } else {
            b.get(first + i / 2)
        }
    })
}

macro_rules! unpacks {
    ($($(#[$doc:meta])* $low:ident, $high:ident: $type:ty;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        #[must_use]
        pub fn $low<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
            interleave::<$type, N>(a, b, 0)
        }

        $(#[$doc])*
        #[inline(always)]
        #[must_use]
        pub fn $high<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
            interleave::<$type, N>(a, b, Vector::<N>::count::<$type>() / 2)
        }
    )*};
}

unpacks! {
    /// PUNPCKLBW or PUNPCKHBW.
    punpcklbw, punpckhbw: u8;
    /// PUNPCKLWD or PUNPCKHWD.
    punpcklwd, punpckhwd: u16;
    /// PUNPCKLDQ or PUNPCKHDQ, UNPCKLPS or UNPCKHPS.
    punpckldq, punpckhdq: u32;
    /// PUNPCKLQDQ or PUNPCKHQDQ, UNPCKLPD or UNPCKHPD. Of SSE only.
    punpcklqdq, punpckhqdq: u64;
}

macro_rules! packs {
    ($($(#[$doc:meta])* $name:ident: $from:ty => $to:ty;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        #[must_use]
        pub fn $name<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
            let (least, most) = (<$from>::from(<$to>::MIN), <$from>::from(<$to>::MAX));
            let mut result = [0; N];
            let (low, high) = result.split_at_mut(N / 2);
            for (from, to) in [(a, low), (b, high)] {
                for (i, bytes) in to.chunks_exact_mut(size_of::<$to>()).enumerate() {
                    let narrow = from.get::<$from>(i).clamp(least, most) as $to;
                    narrow.write(bytes);
                }
            }
            Vector(result)
        }
    )*};
}

packs! {
    /// PACKSSWB.
    packsswb: i16 => i8;
    /// PACKUSWB.
    packuswb: i16 => u8;
    /// PACKSSDW.
    packssdw: i32 => i16;
    /// PACKUSDW.
    packusdw: i32 => u16;
}

macro_rules! extensions {
    ($($(#[$doc:meta])* $name:ident: $from:ty => $to:ty;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        #[must_use]
        pub fn $name(source: Xmm) -> Xmm {
            Vector::build(|i| <$to>::from(source.get::<$from>(i)))
        }
    )*};
}

extensions! {
    /// PMOVSXBW.
    pmovsxbw: i8 => i16;
    /// PMOVSXBD.
    pmovsxbd: i8 => i32;
    /// PMOVSXBQ.
    pmovsxbq: i8 => i64;
    /// PMOVSXWD.
    pmovsxwd: i16 => i32;
    /// PMOVSXWQ.
    pmovsxwq: i16 => i64;
    /// PMOVSXDQ.
    pmovsxdq: i32 => i64;
    /// PMOVZXBW.
    pmovzxbw: u8 => u16;
    /// PMOVZXBD.
    pmovzxbd: u8 => u32;
    /// PMOVZXBQ.
    pmovzxbq: u8 => u64;
    /// PMOVZXWD.
    pmovzxwd: u16 => u32;
    /// PMOVZXWQ.
    pmovzxwq: u16 => u64;
    /// PMOVZXDQ.
    pmovzxdq: u32 => u64;
}

/// PSHUFB: each byte of `control` chooses one of `a`, or zero by its top bit.
#[inline(always)]
#[must_use]
pub fn pshufb<const N: usize>(a: Vector<N>, control: Vector<N>) -> Vector<N> {
    control.map::<u8>(|choice| {
        let zero = (choice.cast_signed() >> 7).cast_unsigned();
        a.0[usize::from(choice) % N] & !zero
    })
}

/// The two bits of `control` for element `index`.
#[inline(always)]
fn choice(control: u8, index: usize) -> usize {
    usize::from(control >> (2 * index) & 3)
}

/// PSHUFD.
#[inline(always)]
#[must_use]
pub fn pshufd(source: Xmm, control: u8) -> Xmm {
    Vector::build(|i| source.get::<u32>(choice(control, i)))
}

/// PSHUFHW.
#[inline(always)]
#[must_use]
pub fn pshufhw(source: Xmm, control: u8) -> Xmm {
    Vector::build(|i| source.get::<u16>(if i < 4 { i } else { 4 + choice(control, i - 4) }))
}

/// PSHUFLW.
#[inline(always)]
#[must_use]
pub fn pshuflw(source: Xmm, control: u8) -> Xmm {
    Vector::build(|i| source.get::<u16>(if i < 4 { choice(control, i) } else { i }))
}

/// PSHUFW.
#[inline(always)]
#[must_use]
pub fn pshufw(source: Mmx, control: u8) -> Mmx {
    Vector::build(|i| source.get::<u16>(choice(control, i)))
}

/// SHUFPS: two elements of `a`, then two of `b`.
#[inline(always)]
#[must_use]
pub fn shufps(a: Xmm, b: Xmm, control: u8) -> Xmm {
    Vector::build(|i| if i < 2 { a } else { b }.get::<u32>(choice(control, i)))
}

/// SHUFPD: one element of `a`, one of `b`.
#[inline(always)]
#[must_use]
pub fn shufpd(a: Xmm, b: Xmm, control: u8) -> Xmm {
    Vector::build(|i| if i == 0 { a } else { b }.get::<u64>(usize::from(control >> i & 1)))
}

/// PALIGNR: `a` above `b`, right by `count` bytes.
#[inline(always)]
#[must_use]
pub fn palignr<const N: usize>(a: Vector<N>, b: Vector<N>, count: u8) -> Vector<N> {
    let mut both = [0; 64];
    both[..N].copy_from_slice(&b.0);
    both[N..2 * N].copy_from_slice(&a.0);
    let from = usize::from(count).min(2 * N);
    Vector::build(|i| both[from + i])
}

/// BLENDPS: elements of `b` where `control` has a bit.
#[inline(always)]
#[must_use]
pub fn blendps(a: Xmm, b: Xmm, control: u8) -> Xmm {
    Vector::build(|i| if control >> i & 1 != 0 { b } else { a }.get::<u32>(i))
}

/// BLENDPD.
#[inline(always)]
#[must_use]
pub fn blendpd(a: Xmm, b: Xmm, control: u8) -> Xmm {
    Vector::build(|i| if control >> i & 1 != 0 { b } else { a }.get::<u64>(i))
}

/// PBLENDW.
#[inline(always)]
#[must_use]
pub fn pblendw(a: Xmm, b: Xmm, control: u8) -> Xmm {
    Vector::build(|i| if control >> i & 1 != 0 { b } else { a }.get::<u16>(i))
}

macro_rules! variable_blends {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        #[must_use]
        pub fn $name(a: Xmm, b: Xmm, mask: Xmm) -> Xmm {
            Vector::build(|i| if mask.get::<$type>(i) < 0 { b.get::<$type>(i) } else { a.get(i) })
        }
    )*};
}

variable_blends! {
    /// PBLENDVB: elements of `b` where `mask`, which is XMM0, is negative.
    pblendvb: i8;
    /// BLENDVPS.
    blendvps: i32;
    /// BLENDVPD.
    blendvpd: i64;
}

/// INSERTPS of `element`, already chosen by the top bits of `control` when it comes from a register.
#[inline(always)]
#[must_use]
pub fn insertps(a: Xmm, element: u32, control: u8) -> Xmm {
    let inserted = a.with(usize::from(control >> 4 & 3), element);
    Vector::build(|i| {
        if control >> i & 1 != 0 {
            0
        } else {
            inserted.get::<u32>(i)
        }
    })
}

/// Element `index` modulo their number: PEXTRB, PEXTRW, PEXTRD, PEXTRQ, EXTRACTPS.
#[inline(always)]
#[must_use]
pub fn extract<E: Element, const N: usize>(a: Vector<N>, index: u8) -> E {
    a.get(usize::from(index) % Vector::<N>::count::<E>())
}

/// `a` with element `index` modulo their number replaced: PINSRB, PINSRW, PINSRD, PINSRQ.
#[inline(always)]
#[must_use]
pub fn insert<E: Element, const N: usize>(a: Vector<N>, element: E, index: u8) -> Vector<N> {
    a.with(usize::from(index) % Vector::<N>::count::<E>(), element)
}

/// MOVDDUP.
#[inline(always)]
#[must_use]
pub fn movddup(source: Xmm) -> Xmm {
    Vector::build(|_| source.get::<u64>(0))
}

/// MOVSHDUP.
#[inline(always)]
#[must_use]
pub fn movshdup(source: Xmm) -> Xmm {
    Vector::build(|i| source.get::<u32>(i | 1))
}

/// MOVSLDUP.
#[inline(always)]
#[must_use]
pub fn movsldup(source: Xmm) -> Xmm {
    Vector::build(|i| source.get::<u32>(i & !1))
}

/// PMOVMSKB: the bytes' top bits.
#[inline(always)]
#[must_use]
pub fn pmovmskb<const N: usize>(source: Vector<N>) -> u32 {
    (0..N / 8).fold(0, |mask, half| {
        let tops = source.get::<u64>(half) >> 7 & 0x0101_0101_0101_0101;
        // Gathers bit 8i into bit 56 + i: no two products meet in one bit.
        mask | ((tops.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32) << (8 * half)
    })
}

/// MOVMSKPS.
#[inline(always)]
#[must_use]
pub fn movmskps(source: Xmm) -> u32 {
    (0..4).fold(0, |mask, i| mask | source.get::<u32>(i) >> 31 << i)
}

/// MOVMSKPD.
#[inline(always)]
#[must_use]
pub fn movmskpd(source: Xmm) -> u32 {
    u32::from(source.0[7] >> 7) | u32::from(source.0[15] >> 7) << 1
}
