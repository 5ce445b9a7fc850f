//! Single and double precision.

use std::ops::{Add, Div, Mul, Sub};

use crate::float::control::{Control, DENORMAL, INVALID, OVERFLOW, PRECISION, UNDERFLOW};
use crate::real::{Real, Rounding, round_bits, shift_right_sticky};
use crate::simd::Element;

/// `f32` or `f64`: the host's arithmetic, and the format for when it cannot be asked.
pub trait Float:
    Element
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
{
    /// Bits of the fraction.
    const FRACTION: u32;
    /// Bits of the exponent.
    const EXPONENT: u32;
    /// The exponent field of 1.
    const BIAS: i32 = (1 << (Self::EXPONENT - 1)) - 1;
    /// The exponent field of infinities and NaNs.
    const TOP: u64 = (1 << Self::EXPONENT) - 1;
    /// The sign bit.
    const SIGN: u64 = 1 << (Self::FRACTION + Self::EXPONENT);
    /// Infinity.
    const INFINITY: u64 = Self::TOP << Self::FRACTION;
    /// The bit that makes a NaN quiet.
    const QUIET: u64 = 1 << (Self::FRACTION - 1);
    /// The NaN of an invalid operation.
    const INDEFINITE: u64 = Self::SIGN | Self::INFINITY | Self::QUIET;

    /// Its encoding.
    fn bits(self) -> u64;
    /// The number with an encoding.
    fn from_encoding(bits: u64) -> Self;
    /// The nearest number to an integer.
    fn host_from_integer(value: i64) -> Self;
    /// The integer part; saturates.
    fn host_to_integer(self) -> i64;
    /// The host's square root.
    fn host_square_root(self) -> Self;
    /// Whether the host's `a + b`, not overflowed, is exact.
    fn sum_is_exact(a: Self, b: Self, sum: Self) -> bool;
    /// Whether the host's `a * b` is exact; may say no when it is.
    fn product_is_exact(a: Self, b: Self, product: Self) -> bool;

    /// Zero or a normal number.
    #[inline(always)]
    fn is_plain(self) -> bool {
        let bits = self.bits() & !Self::SIGN;
        bits == 0 || bits.wrapping_sub(1 << Self::FRACTION) < Self::INFINITY - (1 << Self::FRACTION)
    }

    /// A normal number greater than the smallest: a result that cannot have overflowed or underflowed.
    #[inline(always)]
    fn is_settled(self) -> bool {
        let bits = self.bits() & !Self::SIGN;
        bits.wrapping_sub((1 << Self::FRACTION) + 1) < Self::INFINITY - ((1 << Self::FRACTION) + 1)
    }

    /// Whether it is zero.
    #[inline(always)]
    fn is_zero(self) -> bool {
        self.bits() & !Self::SIGN == 0
    }
}

macro_rules! float {
    ($type:ty, $bits:ty, $fraction:expr, $exponent:expr) => {
        const FRACTION: u32 = $fraction;
        const EXPONENT: u32 = $exponent;

        #[inline(always)]
        fn bits(self) -> u64 {
            u64::from(self.to_bits())
        }

        #[inline(always)]
        fn from_encoding(bits: u64) -> Self {
            <$type>::from_bits(bits as $bits)
        }

        #[inline(always)]
        fn host_from_integer(value: i64) -> Self {
            value as $type
        }

        #[inline(always)]
        fn host_to_integer(self) -> i64 {
            self as i64
        }

        #[inline(always)]
        fn host_square_root(self) -> Self {
            self.sqrt()
        }

        #[inline(always)]
        fn sum_is_exact(a: Self, b: Self, sum: Self) -> bool {
            // Knuth's TwoSum: what rounding lost, exactly.
            let other = sum - a;
            (a - (sum - other)) + (b - other) == 0.0
        }
    };
}

impl Float for f32 {
    float!(f32, u32, 23, 8);

    #[inline(always)]
    fn product_is_exact(a: Self, b: Self, product: Self) -> bool {
        f64::from(a) * f64::from(b) == f64::from(product)
    }
}

impl Float for f64 {
    float!(f64, u64, 52, 11);

    #[inline(always)]
    fn product_is_exact(a: Self, b: Self, _product: Self) -> bool {
        let width = |value: f64| {
            let fraction = value.to_bits() | 1 << 52;
            53 - fraction.trailing_zeros()
        };
        width(a) + width(b) <= 53
    }
}

/// What an encoding stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Class {
    Zero,
    /// Normal or denormal.
    Finite(Real),
    Infinity,
    Quiet,
    Signalling,
}

/// An operand taken apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand {
    pub(crate) bits: u64,
    pub(crate) negative: bool,
    pub(crate) class: Class,
    pub(crate) denormal: bool,
}

impl Operand {
    /// Takes `bits` apart; a denormal is zero when MXCSR says so.
    pub(crate) fn new<F: Float>(bits: u64, control: &Control) -> Self {
        let negative = bits & F::SIGN != 0;
        let field = bits >> F::FRACTION & F::TOP;
        let fraction = bits & ((1 << F::FRACTION) - 1);
        let place = 127 - F::FRACTION;
        let mut operand = Self {
            bits,
            negative,
            class: Class::Zero,
            denormal: false,
        };
        operand.class = if field == F::TOP {
            match fraction {
                0 => Class::Infinity,
                _ if fraction & F::QUIET != 0 => Class::Quiet,
                _ => Class::Signalling,
            }
        } else if field != 0 {
            Class::Finite(Real {
                negative,
                exponent: field as i32 - F::BIAS,
                significand: u128::from(fraction | 1 << F::FRACTION) << place,
            })
        } else if fraction == 0 {
            Class::Zero
        } else if control.denormals_are_zero {
            operand.bits &= F::SIGN;
            Class::Zero
        } else {
            operand.denormal = true;
            Class::Finite(Real::new(
                negative,
                1 - F::BIAS,
                u128::from(fraction) << place,
            ))
        };
        operand
    }

    pub(crate) fn is_nan(&self) -> bool {
        matches!(self.class, Class::Quiet | Class::Signalling)
    }

    pub(crate) fn is_signalling(&self) -> bool {
        matches!(self.class, Class::Signalling)
    }

    pub(crate) fn is_zero(&self) -> bool {
        matches!(self.class, Class::Zero)
    }

    pub(crate) fn is_infinite(&self) -> bool {
        matches!(self.class, Class::Infinity)
    }

    /// DE, when it is a denormal.
    pub(crate) fn flag(&self) -> u32 {
        if self.denormal { DENORMAL } else { 0 }
    }
}

/// The NaN that two operands of which at least one is a NaN give, with its flag: the first NaN, made quiet (Intel SDM
/// vol. 1 table 4-7, SSE).
pub(crate) fn propagate<F: Float>(a: &Operand, b: &Operand) -> (u64, u32) {
    let nan = if a.is_nan() { a } else { b };
    let signalling = a.is_signalling() || b.is_signalling();
    (nan.bits | F::QUIET, if signalling { INVALID } else { 0 })
}

/// A zero.
pub(crate) fn zero<F: Float>(negative: bool) -> u64 {
    if negative { F::SIGN } else { 0 }
}

/// An infinity.
pub(crate) fn infinity<F: Float>(negative: bool) -> u64 {
    zero::<F>(negative) | F::INFINITY
}

/// Rounds to the format: the encoding and flags.
///
/// Where underflow is unmasked, UE is set for any result too small, exact or not; where the result will not be
/// delivered, PE tells whether it would be exact with a wider exponent.
pub(crate) fn pack<F: Float>(number: Real, control: &Control) -> (u64, u32) {
    let (bits, flags, _) = pack_direction::<F>(number, control);
    (bits, flags)
}

/// The same, and whether the magnitude was rounded up.
pub(crate) fn pack_direction<F: Float>(number: Real, control: &Control) -> (u64, u32, bool) {
    let precision = F::FRACTION + 1;
    let least = 1 - F::BIAS;
    let (rounded, how) = number.rounded(precision, control.rounding);
    let sign = zero::<F>(number.negative);
    if rounded.exponent > F::BIAS {
        let to_infinity = match control.rounding {
            Rounding::Nearest => true,
            Rounding::Down => number.negative,
            Rounding::Up => !number.negative,
            Rounding::Zero => false,
        };
        let bits = if to_infinity {
            F::INFINITY
        } else {
            F::INFINITY - 1
        };
        let exact = !control.overflow_masked && !how.inexact;
        let precision = if exact { 0 } else { PRECISION };
        return (sign | bits, OVERFLOW | precision, to_infinity);
    }
    let encode = |significand: u128| (significand >> (127 - F::FRACTION)) as u64;
    if rounded.exponent >= least {
        let field = (rounded.exponent + F::BIAS) as u64;
        let fraction = encode(rounded.significand) & ((1 << F::FRACTION) - 1);
        let flags = if how.inexact { PRECISION } else { 0 };
        return (sign | field << F::FRACTION | fraction, flags, how.up);
    }
    if control.flush {
        return (sign, UNDERFLOW | PRECISION, false);
    }
    if !control.underflow_masked {
        let precision = if how.inexact { PRECISION } else { 0 };
        return (sign, UNDERFLOW | precision, how.up);
    }
    let shift = (least - number.exponent).cast_unsigned();
    let shifted = shift_right_sticky(number.significand, shift);
    let how = round_bits(shifted, 128 - precision, number.negative, control.rounding);
    let flags = if how.inexact {
        UNDERFLOW | PRECISION
    } else {
        0
    };
    // Rounded up to the smallest normal number, the fraction runs over into the exponent: that is its encoding.
    (sign | encode(how.significand), flags, how.up)
}
