//! Addition to square root, minimum and maximum; scalar and packed.
//!
//! The host computes when its result is certainly what the guest's processor gives: rounding to nearest, operands and
//! result normal or zero, and the precision flag already set or the result exact. Anything else is computed by
//! [`Real`](crate::real::Real).

use crate::float::control::{
    Control, DENORMAL, INVALID, SimdException, ZERO_DIVIDE, may_be_inexact, report,
    rounds_to_nearest,
};
use crate::float::format::{Class, Float, Operand, infinity, pack, propagate, zero};
use crate::simd::shuffle::shufps;
use crate::simd::{Vector, Xmm};

/// What to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a × b`.
    Mul,
    /// `a / b`.
    Div,
    /// The square root of `b`.
    Sqrt,
    /// The lesser; `b` when they are equal or one is a NaN.
    Min,
    /// The greater; `b` when they are equal or one is a NaN.
    Max,
}

use Operation as O;

#[inline(always)]
fn host<F: Float>(operation: Operation, a: F, b: F) -> F {
    match operation {
        O::Add => a + b,
        O::Sub => a - b,
        O::Mul => a * b,
        O::Div => a / b,
        O::Sqrt => b.host_square_root(),
        O::Min => {
            if a < b {
                a
            } else {
                b
            }
        }
        O::Max => {
            if a > b {
                a
            } else {
                b
            }
        }
    }
}

/// Whether the host's result is right but for its precision.
#[inline(always)]
fn is_settled<F: Float>(operation: Operation, a: F, b: F, result: F) -> bool {
    match operation {
        O::Add | O::Sub => a.is_plain() & b.is_plain() & (result.is_settled() | result.is_zero()),
        O::Mul => a.is_plain() & b.is_plain() & (result.is_settled() | a.is_zero() | b.is_zero()),
        O::Div => {
            a.is_plain() & b.is_plain() & (result.is_settled() | (a.is_zero() & !b.is_zero()))
        }
        O::Sqrt => b.is_plain() & (result.is_settled() | b.is_zero()),
        O::Min | O::Max => a.is_plain() & b.is_plain(),
    }
}

/// Whether a settled result of the host is certainly exact.
#[inline(always)]
fn is_exact<F: Float>(operation: Operation, a: F, b: F, result: F) -> bool {
    match operation {
        O::Add => F::sum_is_exact(a, b, result),
        O::Sub => F::sum_is_exact(a, F::from_encoding(b.bits() ^ F::SIGN), result),
        O::Mul => F::product_is_exact(a, b, result),
        O::Div => F::product_is_exact(result, b, a) && result * b == a,
        O::Sqrt => F::product_is_exact(result, result, b) && result * result == b,
        O::Min | O::Max => true,
    }
}

/// Computes the first `LANES` elements of type `F`, element `i` by `operation(i)`; the others are `a`'s.
///
/// # Errors
/// [`SimdException`] when an exception is unmasked.
#[inline(always)]
pub fn arithmetic<F: Float, const LANES: usize>(
    a: Xmm,
    b: Xmm,
    mxcsr: &mut u32,
    operation: impl Fn(usize) -> Operation,
) -> Result<Xmm, SimdException> {
    if rounds_to_nearest(*mxcsr) {
        let mut result = a;
        let (mut settled, mut exact) = (true, true);
        for i in 0..LANES {
            let (x, y) = (a.get::<F>(i), b.get::<F>(i));
            let value = host(operation(i), x, y);
            settled &= is_settled(operation(i), x, y, value);
            result = result.with(i, value);
        }
        if settled {
            if may_be_inexact(*mxcsr) {
                return Ok(result);
            }
            for i in 0..LANES {
                let (x, y) = (a.get::<F>(i), b.get::<F>(i));
                exact &= is_exact(operation(i), x, y, result.get(i));
            }
            if exact {
                return Ok(result);
            }
        }
    }
    let operations = std::array::from_fn(|i| if i < LANES { operation(i) } else { O::Add });
    arithmetic_slow::<F>(a, b, mxcsr, operations, LANES)
}

#[cold]
#[inline(never)]
fn arithmetic_slow<F: Float>(
    a: Xmm,
    b: Xmm,
    mxcsr: &mut u32,
    operations: [Operation; 4],
    lanes: usize,
) -> Result<Xmm, SimdException> {
    let control = Control::new(*mxcsr);
    let mut result = a;
    let mut flags = 0;
    for (i, operation) in operations.into_iter().enumerate().take(lanes) {
        let (x, y) = (a.get::<F>(i).bits(), b.get::<F>(i).bits());
        let (bits, raised) = compute::<F>(operation, x, y, &control);
        result = result.with(i, F::from_encoding(bits));
        flags |= raised;
    }
    report(mxcsr, flags)?;
    Ok(result)
}

/// One element: its encoding and flags.
fn compute<F: Float>(operation: Operation, a: u64, b: u64, control: &Control) -> (u64, u32) {
    let (a, b) = (Operand::new::<F>(a, control), Operand::new::<F>(b, control));
    match operation {
        O::Add => sum::<F>(&a, &b, control),
        O::Sub if b.is_nan() => sum::<F>(&a, &b, control),
        O::Sub => {
            let class = match b.class {
                Class::Finite(number) => Class::Finite(number.negated()),
                other => other,
            };
            let negated = Operand {
                bits: b.bits ^ F::SIGN,
                negative: !b.negative,
                class,
                ..b
            };
            sum::<F>(&a, &negated, control)
        }
        O::Mul => product::<F>(&a, &b, control),
        O::Div => quotient::<F>(&a, &b, control),
        O::Sqrt => root::<F>(&b, control),
        O::Min | O::Max => extreme::<F>(operation == O::Max, &a, &b),
    }
}

fn sum<F: Float>(a: &Operand, b: &Operand, control: &Control) -> (u64, u32) {
    use Class as C;
    if a.is_nan() || b.is_nan() {
        return propagate::<F>(a, b);
    }
    let flags = a.flag() | b.flag();
    let down = control.rounding == crate::real::Rounding::Down;
    let number = match (a.class, b.class) {
        (C::Infinity, C::Infinity) if a.negative != b.negative => {
            return (F::INDEFINITE, INVALID);
        }
        (C::Infinity, _) => return (a.bits, flags),
        (_, C::Infinity) => return (b.bits, flags),
        (C::Finite(x), C::Finite(y)) => x.plus(y),
        (C::Finite(number), _) | (_, C::Finite(number)) => Some(number),
        _ if a.negative == b.negative => return (a.bits, flags),
        _ => None,
    };
    match number {
        None => (zero::<F>(down), flags),
        Some(number) => {
            let (bits, raised) = pack::<F>(number, control);
            (bits, flags | raised)
        }
    }
}

fn product<F: Float>(a: &Operand, b: &Operand, control: &Control) -> (u64, u32) {
    if a.is_nan() || b.is_nan() {
        return propagate::<F>(a, b);
    }
    let negative = a.negative != b.negative;
    let flags = a.flag() | b.flag();
    match (a.class, b.class) {
        (Class::Finite(x), Class::Finite(y)) => {
            let (bits, raised) = pack::<F>(x.times(y), control);
            (bits, flags | raised)
        }
        _ if a.is_infinite() || b.is_infinite() => {
            if a.is_zero() || b.is_zero() {
                (F::INDEFINITE, INVALID)
            } else {
                (infinity::<F>(negative), flags)
            }
        }
        _ => (zero::<F>(negative), flags),
    }
}

fn quotient<F: Float>(a: &Operand, b: &Operand, control: &Control) -> (u64, u32) {
    use Class as C;
    if a.is_nan() || b.is_nan() {
        return propagate::<F>(a, b);
    }
    let negative = a.negative != b.negative;
    let flags = a.flag() | b.flag();
    match (a.class, b.class) {
        (C::Finite(x), C::Finite(y)) => {
            let (bits, raised) = pack::<F>(x.over(y), control);
            (bits, flags | raised)
        }
        (C::Infinity, C::Infinity) | (C::Zero, C::Zero) => (F::INDEFINITE, INVALID),
        (C::Infinity, _) => (infinity::<F>(negative), flags),
        (C::Finite(_), C::Zero) => (infinity::<F>(negative), ZERO_DIVIDE),
        _ => (zero::<F>(negative), flags),
    }
}

fn root<F: Float>(b: &Operand, control: &Control) -> (u64, u32) {
    match b.class {
        Class::Quiet | Class::Signalling => propagate::<F>(b, b),
        Class::Zero => (b.bits, 0),
        _ if b.negative => (F::INDEFINITE, INVALID),
        Class::Finite(number) => {
            let (bits, raised) = pack::<F>(number.square_root(), control);
            (bits, raised | b.flag())
        }
        Class::Infinity => (b.bits, 0),
    }
}

fn extreme<F: Float>(greater: bool, a: &Operand, b: &Operand) -> (u64, u32) {
    if a.is_nan() || b.is_nan() {
        return (b.bits, INVALID);
    }
    let flags = if a.denormal || b.denormal {
        DENORMAL
    } else {
        0
    };
    let (x, y) = (F::from_encoding(a.bits), F::from_encoding(b.bits));
    let first = if greater { x > y } else { x < y };
    (if first { a.bits } else { b.bits }, flags)
}

/// HADDPS, HSUBPS: neighbours of `a`, then of `b`.
///
/// # Errors
/// [`SimdException`] when an exception is unmasked.
#[inline]
pub fn horizontal_single(
    operation: Operation,
    a: Xmm,
    b: Xmm,
    mxcsr: &mut u32,
) -> Result<Xmm, SimdException> {
    let (even, odd) = (shufps(a, b, 0x88), shufps(a, b, 0xDD));
    arithmetic::<f32, 4>(even, odd, mxcsr, |_| operation)
}

/// HADDPD, HSUBPD.
///
/// # Errors
/// [`SimdException`] when an exception is unmasked.
#[inline]
pub fn horizontal_double(
    operation: Operation,
    a: Xmm,
    b: Xmm,
    mxcsr: &mut u32,
) -> Result<Xmm, SimdException> {
    let pick = |i| Xmm::ZERO.with(0, a.get::<u64>(i)).with(1, b.get::<u64>(i));
    arithmetic::<f64, 2>(pick(0), pick(1), mxcsr, |_| operation)
}

/// ADDSUBPS: subtracts even elements, adds odd ones.
///
/// # Errors
/// [`SimdException`] when an exception is unmasked.
#[inline]
pub fn addsubps(a: Xmm, b: Xmm, mxcsr: &mut u32) -> Result<Xmm, SimdException> {
    arithmetic::<f32, 4>(a, b, mxcsr, |i| if i % 2 == 0 { O::Sub } else { O::Add })
}

/// ADDSUBPD.
///
/// # Errors
/// [`SimdException`] when an exception is unmasked.
#[inline]
pub fn addsubpd(a: Xmm, b: Xmm, mxcsr: &mut u32) -> Result<Xmm, SimdException> {
    arithmetic::<f64, 2>(a, b, mxcsr, |i| if i == 0 { O::Sub } else { O::Add })
}

/// DPPS: products of the elements that the upper half of `control` names, added in pairs, into those that its lower
/// half names.
///
/// # Errors
/// [`SimdException`] when an exception is unmasked.
pub fn dpps(a: Xmm, b: Xmm, control: u8, mxcsr: &mut u32) -> Result<Xmm, SimdException> {
    let keep = |from: Xmm| {
        Vector::build(|i| {
            if control >> (4 + i) & 1 != 0 {
                from.get::<u32>(i)
            } else {
                0
            }
        })
    };
    let products = arithmetic::<f32, 4>(keep(a), keep(b), mxcsr, |_| O::Mul)?;
    let swapped = shufps(products, products, 0xB1);
    let pairs = arithmetic::<f32, 4>(swapped, products, mxcsr, |_| O::Add)?;
    let crossed = shufps(pairs, pairs, 0x4E);
    let sums = arithmetic::<f32, 4>(pairs, crossed, mxcsr, |_| O::Add)?;
    Ok(Vector::build(|i| {
        if control >> i & 1 != 0 {
            sums.get::<u32>(i)
        } else {
            0
        }
    }))
}

/// DPPD.
///
/// # Errors
/// [`SimdException`] when an exception is unmasked.
pub fn dppd(a: Xmm, b: Xmm, control: u8, mxcsr: &mut u32) -> Result<Xmm, SimdException> {
    let keep = |from: Xmm| {
        Vector::build(|i| {
            if control >> (4 + i) & 1 != 0 {
                from.get::<u64>(i)
            } else {
                0
            }
        })
    };
    let products = arithmetic::<f64, 2>(keep(a), keep(b), mxcsr, |_| O::Mul)?;
    let swapped = Xmm::ZERO
        .with(0, products.get::<u64>(1))
        .with(1, products.get::<u64>(0));
    let sums = arithmetic::<f64, 2>(products, swapped, mxcsr, |_| O::Add)?;
    Ok(Vector::build(|i| {
        if control >> i & 1 != 0 {
            sums.get::<u64>(i)
        } else {
            0
        }
    }))
}
