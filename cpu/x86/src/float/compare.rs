//! Comparison.

use std::cmp::Ordering;

use crate::float::control::{Control, DENORMAL, INVALID, SimdException, report};
use crate::float::format::{Float, Operand};
use crate::simd::Xmm;

/// How two numbers compare (`None`: unordered), and whether NaNs and denormals raise flags.
fn compare<F: Float>(
    a: u64,
    b: u64,
    control: &Control,
    quiet_nan_is_invalid: bool,
) -> (Option<Ordering>, u32) {
    let (a, b) = (Operand::new::<F>(a, control), Operand::new::<F>(b, control));
    if a.is_nan() || b.is_nan() {
        let invalid = quiet_nan_is_invalid || a.is_signalling() || b.is_signalling();
        return (None, if invalid { INVALID } else { 0 });
    }
    let flags = if a.denormal || b.denormal {
        DENORMAL
    } else {
        0
    };
    let (x, y) = (F::from_encoding(a.bits), F::from_encoding(b.bits));
    (x.partial_cmp(&y), flags)
}

/// CMPPS and its like with the predicate in the low three bits of `predicate`: all ones where it holds; the elements
/// from `LANES` on are `a`'s.
///
/// # Errors
/// [`SimdException`] when an exception is unmasked.
#[inline(always)]
pub fn cmp<F: Float, const LANES: usize>(
    a: Xmm,
    b: Xmm,
    predicate: u8,
    mxcsr: &mut u32,
) -> Result<Xmm, SimdException> {
    let plain = (0..LANES).fold(true, |plain, i| {
        plain & a.get::<F>(i).is_plain() & b.get::<F>(i).is_plain()
    });
    let holds = |ordering: Option<Ordering>| {
        let positive = match predicate & 3 {
            0 => ordering == Some(Ordering::Equal),
            1 => ordering == Some(Ordering::Less),
            2 => matches!(ordering, Some(Ordering::Less | Ordering::Equal)),
            _ => ordering.is_none(),
        };
        positive != (predicate & 4 != 0)
    };
    let mut result = a;
    if plain {
        for i in 0..LANES {
            let held = holds(a.get::<F>(i).partial_cmp(&b.get::<F>(i)));
            result = result.with(i, F::from_encoding(if held { u64::MAX } else { 0 }));
        }
        return Ok(result);
    }
    let control = Control::new(*mxcsr);
    let mut flags = 0;
    for i in 0..LANES {
        let (x, y) = (a.get::<F>(i).bits(), b.get::<F>(i).bits());
        let signalling = matches!(predicate & 3, 1 | 2);
        let (ordering, raised) = compare::<F>(x, y, &control, signalling);
        let bits = if holds(ordering) { u64::MAX } else { 0 };
        result = result.with(i, F::from_encoding(bits));
        flags |= raised;
    }
    report(mxcsr, flags)?;
    Ok(result)
}

/// COMISS and its like; `QUIET` is UCOMISS: quiet NaNs raise nothing. How the first elements compare; `None` is
/// unordered.
///
/// # Errors
/// [`SimdException`] when an exception is unmasked.
#[inline(always)]
pub fn comi<F: Float, const QUIET: bool>(
    a: Xmm,
    b: Xmm,
    mxcsr: &mut u32,
) -> Result<Option<Ordering>, SimdException> {
    let (x, y) = (a.get::<F>(0), b.get::<F>(0));
    if x.is_plain() & y.is_plain() {
        return Ok(x.partial_cmp(&y));
    }
    let (ordering, flags) = compare::<F>(x.bits(), y.bits(), &Control::new(*mxcsr), !QUIET);
    report(mxcsr, flags)?;
    Ok(ordering)
}
