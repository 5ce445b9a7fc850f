//! RCPPS and RSQRTPS: reciprocals to twelve bits, without flags.
//!
//! Intel promises a relative error of at most 1.5 × 2^-12 and no table (Intel SDM vol. 2 "RCPPS"); processors differ. Here
//! the exact value is rounded to twelve bits of fraction, which errs by 2^-13.

use crate::float::format::Float;
use crate::simd::Xmm;

/// `f` of each of the first `LANES` elements of `b`; the others are `a`'s.
#[inline(always)]
fn each<const LANES: usize>(a: Xmm, b: Xmm, f: impl Fn(f32) -> f32) -> Xmm {
    (0..LANES).fold(a, |result, i| result.with(i, f(b.get::<f32>(i))))
}

/// A normal number with twelve bits of fraction.
fn coarse(value: f64) -> f32 {
    let bits = (value as f32).to_bits();
    f32::from_bits((bits + 0x400) & !0x7FF)
}

/// RCPSS (one lane), RCPPS (four).
#[must_use]
pub fn reciprocal<const LANES: usize>(a: Xmm, b: Xmm) -> Xmm {
    each::<LANES>(a, b, |value| {
        if value.is_nan() {
            return f32::from_bits(value.to_bits() | 0x40_0000);
        }
        // Denormal operands count as zero, tiny results become zero.
        if value.abs() < f32::MIN_POSITIVE {
            return f32::INFINITY.copysign(value);
        }
        let exact = 1.0 / f64::from(value);
        if exact.abs() < f64::from(f32::MIN_POSITIVE) {
            return 0f32.copysign(value);
        }
        coarse(exact)
    })
}

/// RSQRTSS (one lane), RSQRTPS (four).
#[must_use]
pub fn reciprocal_root<const LANES: usize>(a: Xmm, b: Xmm) -> Xmm {
    each::<LANES>(a, b, |value| {
        if value.is_nan() {
            return f32::from_bits(value.to_bits() | 0x40_0000);
        }
        if value.abs() < f32::MIN_POSITIVE {
            return f32::INFINITY.copysign(value);
        }
        if value < 0.0 {
            return f32::from_encoding(f32::INDEFINITE);
        }
        if value == f32::INFINITY {
            return 0.0;
        }
        coarse(1.0 / f64::from(value).sqrt())
    })
}
