//! Conversion between integers, single and double precision; rounding to integers.

use crate::float::control::{
    Control, INVALID, PRECISION, SimdException, may_be_inexact, report, rounds_to_nearest,
};
use crate::float::format::{Class, Float, Operand, infinity, pack, zero};
use crate::real::{Real, Rounding};
use crate::simd::{Mmx, Xmm};

/// An integer in the format.
fn from_integer<F: Float>(value: i64, control: &Control) -> (u64, u32) {
    match value {
        0 => (0, 0),
        _ => pack::<F>(Real::from_integer(value), control),
    }
}

/// CVTSI2SS, CVTSI2SD: the first element of `a` becomes `value`.
///
/// # Errors
/// [`SimdException`] when an exception is unmasked.
#[inline]
pub fn cvtsi<F: Float>(a: Xmm, value: i64, mxcsr: &mut u32) -> Result<Xmm, SimdException> {
    if value.unsigned_abs() >> F::FRACTION == 0
        || (rounds_to_nearest(*mxcsr) && may_be_inexact(*mxcsr))
    {
        return Ok(a.with(0, F::host_from_integer(value)));
    }
    let (bits, flags) = from_integer::<F>(value, &Control::new(*mxcsr));
    report(mxcsr, flags)?;
    Ok(a.with(0, F::from_encoding(bits)))
}

/// The nearest integer of `bits` (32 or 64) bits; what does not fit is the most negative one.
fn to_integer<F: Float>(
    encoding: u64,
    width: u32,
    rounding: Rounding,
    control: &Control,
) -> (i64, u32) {
    let indefinite = (i64::MIN >> (64 - width), INVALID);
    match Operand::new::<F>(encoding, control).class {
        Class::Zero => (0, 0),
        Class::Finite(number) => {
            let Some((magnitude, how)) = number.integer(rounding) else {
                return indefinite;
            };
            let limit = 1u64 << (width - 1);
            if magnitude > limit || (magnitude == limit && !number.negative) {
                return indefinite;
            }
            let value = magnitude.cast_signed();
            let value = if number.negative {
                value.wrapping_neg()
            } else {
                value
            };
            (value, if how.inexact { PRECISION } else { 0 })
        }
        _ => indefinite,
    }
}

fn rounding(truncate: bool, control: &Control) -> Rounding {
    if truncate {
        Rounding::Zero
    } else {
        control.rounding
    }
}

/// CVTSS2SI, CVTSD2SI of the first element to `WIDTH` (32 or 64) bits; with `TRUNCATE` CVTTSS2SI, CVTTSD2SI.
///
/// # Errors
/// [`SimdException`] when an exception is unmasked.
#[inline]
pub fn cvt_to_integer<F: Float, const WIDTH: u32, const TRUNCATE: bool>(
    source: Xmm,
    mxcsr: &mut u32,
) -> Result<i64, SimdException> {
    let operand = source.get::<F>(0);
    let whole = operand.host_to_integer();
    if operand.is_plain()
        && whole.unsigned_abs() >> (WIDTH - 2) == 0
        && (F::host_from_integer(whole) == operand || (TRUNCATE && may_be_inexact(*mxcsr)))
    {
        return Ok(whole);
    }
    let control = Control::new(*mxcsr);
    let bits = operand.bits();
    let (value, flags) = to_integer::<F>(bits, WIDTH, rounding(TRUNCATE, &control), &control);
    report(mxcsr, flags)?;
    Ok(value)
}

/// `COUNT` elements to integers of 32 bits; the rest is zero.
#[inline]
fn to_integers<F: Float, const COUNT: usize>(
    source: Xmm,
    truncate: bool,
    mxcsr: &mut u32,
) -> Result<Xmm, SimdException> {
    let control = Control::new(*mxcsr);
    let mut result = Xmm::ZERO;
    let mut flags = 0;
    for i in 0..COUNT {
        let bits = source.get::<F>(i).bits();
        let (value, raised) = to_integer::<F>(bits, 32, rounding(truncate, &control), &control);
        result = result.with(i, value as i32);
        flags |= raised;
    }
    report(mxcsr, flags)?;
    Ok(result)
}

/// CVTPS2DQ; with `TRUNCATE` CVTTPS2DQ.
///
/// # Errors
/// [`SimdException`] when an exception is unmasked.
pub fn cvtps2dq<const TRUNCATE: bool>(source: Xmm, mxcsr: &mut u32) -> Result<Xmm, SimdException> {
    to_integers::<f32, 4>(source, TRUNCATE, mxcsr)
}

/// CVTPD2DQ, CVTPD2PI; with `TRUNCATE` CVTTPD2DQ, CVTTPD2PI.
///
/// # Errors
/// [`SimdException`] when an exception is unmasked.
pub fn cvtpd2dq<const TRUNCATE: bool>(source: Xmm, mxcsr: &mut u32) -> Result<Xmm, SimdException> {
    to_integers::<f64, 2>(source, TRUNCATE, mxcsr)
}

/// CVTPS2PI; with `TRUNCATE` CVTTPS2PI.
///
/// # Errors
/// [`SimdException`] when an exception is unmasked.
pub fn cvtps2pi<const TRUNCATE: bool>(source: Xmm, mxcsr: &mut u32) -> Result<Mmx, SimdException> {
    let both = to_integers::<f32, 2>(source, TRUNCATE, mxcsr)?;
    Ok(both.get::<u64>(0).into())
}

/// CVTDQ2PS.
///
/// # Errors
/// [`SimdException`] when an exception is unmasked.
pub fn cvtdq2ps(source: Xmm, mxcsr: &mut u32) -> Result<Xmm, SimdException> {
    from_integers::<4>(source, source, mxcsr)
}

/// CVTPI2PS: the first two elements of `a` become `source`'s integers.
///
/// # Errors
/// [`SimdException`] when an exception is unmasked.
pub fn cvtpi2ps(a: Xmm, source: Mmx, mxcsr: &mut u32) -> Result<Xmm, SimdException> {
    from_integers::<2>(a, u128::from(u64::from(source)).into(), mxcsr)
}

fn from_integers<const COUNT: usize>(
    a: Xmm,
    source: Xmm,
    mxcsr: &mut u32,
) -> Result<Xmm, SimdException> {
    let mut result = a;
    if rounds_to_nearest(*mxcsr) && may_be_inexact(*mxcsr) {
        for i in 0..COUNT {
            let value = source.get::<i32>(i) as f32;
            result = result.with(i, value);
        }
        return Ok(result);
    }
    let control = Control::new(*mxcsr);
    let mut flags = 0;
    for i in 0..COUNT {
        let (bits, raised) = from_integer::<f32>(source.get::<i32>(i).into(), &control);
        result = result.with(i, bits as u32);
        flags |= raised;
    }
    report(mxcsr, flags)?;
    Ok(result)
}

/// CVTDQ2PD, CVTPI2PD: always exact.
#[inline]
#[must_use]
pub fn cvtdq2pd(source: Xmm) -> Xmm {
    Xmm::build(|i| f64::from(source.get::<i32>(i)))
}

/// From one format to another; quiets NaNs and keeps as much of them as fits.
fn convert<From: Float, To: Float>(encoding: u64, control: &Control) -> (u64, u32) {
    let operand = Operand::new::<From>(encoding, control);
    match operand.class {
        Class::Zero => (zero::<To>(operand.negative), 0),
        Class::Infinity => (infinity::<To>(operand.negative), 0),
        Class::Finite(number) => {
            let (bits, flags) = pack::<To>(number, control);
            (bits, flags | operand.flag())
        }
        Class::Quiet | Class::Signalling => {
            let fraction = operand.bits & ((1 << From::FRACTION) - 1);
            let fraction = if To::FRACTION > From::FRACTION {
                fraction << (To::FRACTION - From::FRACTION)
            } else {
                fraction >> (From::FRACTION - To::FRACTION)
            };
            let flags = if operand.is_signalling() { INVALID } else { 0 };
            (
                infinity::<To>(operand.negative) | fraction | To::QUIET,
                flags,
            )
        }
    }
}

/// CVTSS2SD: the first element of `a` becomes the first of `b`.
///
/// # Errors
/// [`SimdException`] when an exception is unmasked.
#[inline]
pub fn cvtss2sd(a: Xmm, b: Xmm, mxcsr: &mut u32) -> Result<Xmm, SimdException> {
    let value = b.get::<f32>(0);
    if value.is_plain() {
        return Ok(a.with(0, f64::from(value)));
    }
    let (bits, flags) = convert::<f32, f64>(value.bits(), &Control::new(*mxcsr));
    report(mxcsr, flags)?;
    Ok(a.with(0, bits))
}

/// CVTSD2SS.
///
/// # Errors
/// [`SimdException`] when an exception is unmasked.
#[inline]
pub fn cvtsd2ss(a: Xmm, b: Xmm, mxcsr: &mut u32) -> Result<Xmm, SimdException> {
    let value = b.get::<f64>(0);
    let narrow = value as f32;
    if (narrow.is_settled() || value.is_zero())
        && (f64::from(narrow) == value || (may_be_inexact(*mxcsr) && rounds_to_nearest(*mxcsr)))
    {
        return Ok(a.with(0, narrow));
    }
    let (bits, flags) = convert::<f64, f32>(value.bits(), &Control::new(*mxcsr));
    report(mxcsr, flags)?;
    Ok(a.with(0, bits as u32))
}

/// CVTPS2PD.
///
/// # Errors
/// [`SimdException`] when an exception is unmasked.
pub fn cvtps2pd(source: Xmm, mxcsr: &mut u32) -> Result<Xmm, SimdException> {
    let control = Control::new(*mxcsr);
    let mut flags = 0;
    let result = Xmm::build(|i| {
        let (bits, raised) = convert::<f32, f64>(source.get::<f32>(i).bits(), &control);
        flags |= raised;
        bits
    });
    report(mxcsr, flags)?;
    Ok(result)
}

/// CVTPD2PS: the upper half becomes zero.
///
/// # Errors
/// [`SimdException`] when an exception is unmasked.
pub fn cvtpd2ps(source: Xmm, mxcsr: &mut u32) -> Result<Xmm, SimdException> {
    let control = Control::new(*mxcsr);
    let mut flags = 0;
    let mut result = Xmm::ZERO;
    for i in 0..2 {
        let (bits, raised) = convert::<f64, f32>(source.get::<f64>(i).bits(), &control);
        flags |= raised;
        result = result.with(i, bits as u32);
    }
    report(mxcsr, flags)?;
    Ok(result)
}

/// ROUNDSS, ROUNDPS and their like: the first `LANES` elements of `b` rounded to integers; the others are `a`'s.
///
/// * `how`: bits 0–1 rounding, bit 2 takes it from MXCSR instead, bit 3 silences the precision flag.
///
/// # Errors
/// [`SimdException`] when an exception is unmasked.
pub fn round<F: Float, const LANES: usize>(
    a: Xmm,
    b: Xmm,
    how: u8,
    mxcsr: &mut u32,
) -> Result<Xmm, SimdException> {
    let control = Control::new(*mxcsr);
    let rounding = if how & 4 != 0 {
        control.rounding
    } else {
        Rounding::from_bits(how.into())
    };
    let mut result = a;
    let mut flags = 0;
    for i in 0..LANES {
        let operand = Operand::new::<F>(b.get::<F>(i).bits(), &control);
        let (bits, raised) = match operand.class {
            Class::Quiet | Class::Signalling => {
                let invalid = if operand.is_signalling() { INVALID } else { 0 };
                (operand.bits | F::QUIET, invalid)
            }
            // From here on numbers are integers.
            Class::Finite(number) if number.exponent < F::FRACTION.cast_signed() => {
                match number.integer(rounding) {
                    Some((magnitude, rounded)) => {
                        let bits = if magnitude == 0 {
                            0
                        } else {
                            pack::<F>(Real::new(false, 127, u128::from(magnitude)), &control).0
                        };
                        let inexact = rounded.inexact && how & 8 == 0;
                        let flags = if inexact { PRECISION } else { 0 };
                        (bits | zero::<F>(operand.negative), flags)
                    }
                    None => (operand.bits, 0),
                }
            }
            _ => (operand.bits, 0),
        };
        result = result.with(i, F::from_encoding(bits));
        flags |= raised;
    }
    report(mxcsr, flags)?;
    Ok(result)
}
