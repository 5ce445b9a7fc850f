//! The double extended format: 64 bits of significand with an explicit integer bit below 16 of sign and exponent (Intel
//! SDM vol. 1 §4.2.2, §8.2.2).

use crate::real::{Real, Rounding, round_bits, shift_right_sticky};

/// Invalid operation.
pub(crate) const IE: u16 = 1;
/// Denormal operand.
pub(crate) const DE: u16 = 1 << 1;
/// Division by zero.
pub(crate) const ZE: u16 = 1 << 2;
/// Overflow.
pub(crate) const OE: u16 = 1 << 3;
/// Underflow.
pub(crate) const UE: u16 = 1 << 4;
/// Precision.
pub(crate) const PE: u16 = 1 << 5;

/// The sign bit.
pub(crate) const SIGN: u128 = 1 << 79;
/// The bit that makes a NaN quiet.
pub(crate) const QUIET: u128 = 1 << 62;
/// Positive infinity.
pub(crate) const INFINITY: u128 = 0x7FFF_8000_0000_0000_0000;
/// One.
pub(crate) const ONE: u128 = 0x3FFF_8000_0000_0000_0000;
/// The NaN of an invalid operation.
pub(crate) const INDEFINITE: u128 = 0xFFFF_C000_0000_0000_0000;

/// The exponent field of 1.
const BIAS: i32 = 16383;
/// The least exponent of a normal number.
const LEAST: i32 = -16382;
/// How far the exponent of a result goes back into range when overflow or underflow is not masked (Intel SDM vol. 1
/// §8.5.4).
const WRAP: i32 = 24576;

/// What an encoding stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Zero,
    /// Normal, denormal or pseudo-denormal.
    Finite(Real),
    Infinity,
    Quiet,
    Signalling,
    /// Unnormals, pseudo-infinities, pseudo-NaNs: operands of the 8087, invalid since.
    Unsupported,
}

/// An operand taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extended {
    pub(crate) bits: u128,
    pub(crate) negative: bool,
    pub(crate) denormal: bool,
    pub(crate) class: Class,
}

impl Extended {
    pub(crate) fn new(bits: u128) -> Self {
        let negative = bits & SIGN != 0;
        let field = (bits >> 64) as i32 & 0x7FFF;
        let significand = bits as u64;
        let integer = significand >> 63 != 0;
        let mut denormal = false;
        let class = match (field, integer) {
            (0, _) if significand == 0 => Class::Zero,
            (0, _) => {
                denormal = true;
                Class::Finite(Real::new(negative, LEAST, u128::from(significand) << 64))
            }
            (_, false) => Class::Unsupported,
            (0x7FFF, true) => match significand << 1 {
                0 => Class::Infinity,
                rest if rest >> 63 != 0 => Class::Quiet,
                _ => Class::Signalling,
            },
            _ => Class::Finite(Real {
                negative,
                exponent: field - BIAS,
                significand: u128::from(significand) << 64,
            }),
        };
        Self {
            bits,
            negative,
            denormal,
            class,
        }
    }

    pub(crate) fn is_nan(&self) -> bool {
        matches!(self.class, Class::Quiet | Class::Signalling)
    }

    pub(crate) fn is_unsupported(&self) -> bool {
        matches!(self.class, Class::Unsupported)
    }

    pub(crate) fn is_zero(&self) -> bool {
        matches!(self.class, Class::Zero)
    }

    pub(crate) fn is_infinite(&self) -> bool {
        matches!(self.class, Class::Infinity)
    }

    /// Its encoding; a pseudo-denormal's is that of the normal number it equals.
    pub(crate) fn canonical(&self) -> u128 {
        let pseudo = self.denormal && self.bits >> 63 & 1 != 0;
        self.bits | u128::from(pseudo) << 64
    }

    /// DE, when it is a denormal.
    pub(crate) fn flag(&self) -> u16 {
        if self.denormal { DE } else { 0 }
    }

    /// Its opposite.
    pub(crate) fn negated(&self) -> Self {
        Self::new(self.bits ^ SIGN)
    }
}

/// A result, not yet in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) bits: u128,
    /// Exceptions.
    pub(crate) flags: u16,
    /// The magnitude was rounded up: C1.
    pub(crate) up: bool,
}

impl Outcome {
    /// An exact result.
    pub(crate) fn exact(bits: u128, flags: u16) -> Self {
        Self {
            bits,
            flags,
            up: false,
        }
    }

    /// The result of an invalid operation.
    pub(crate) fn invalid() -> Self {
        Self::exact(INDEFINITE, IE)
    }
}

/// What the control word says about results.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Precision {
    /// Bits of significand: 24, 53 or 64.
    pub(crate) bits: u32,
    pub(crate) rounding: Rounding,
    pub(crate) overflow_masked: bool,
    pub(crate) underflow_masked: bool,
}

impl Precision {
    /// As the control word sets it.
    pub(crate) fn controlled(control: u16) -> Self {
        let bits = match control >> 8 & 3 {
            0 => 24,
            2 => 53,
            _ => 64,
        };
        Self {
            bits,
            ..Self::full(control)
        }
    }

    /// With a whole significand, which instructions other than basic arithmetic give.
    pub(crate) fn full(control: u16) -> Self {
        Self {
            bits: 64,
            rounding: Rounding::from_bits(u32::from(control >> 10)),
            overflow_masked: control & OE != 0,
            underflow_masked: control & UE != 0,
        }
    }
}

/// A signed zero.
pub(crate) fn zero(negative: bool) -> u128 {
    if negative { SIGN } else { 0 }
}

/// A signed infinity.
pub(crate) fn infinity(negative: bool) -> u128 {
    INFINITY | zero(negative)
}

/// The encoding of a rounded number whose exponent fits.
fn encode(number: Real) -> u128 {
    let field = (number.exponent + BIAS).cast_unsigned();
    zero(number.negative) | u128::from(field) << 64 | number.significand >> 64
}

/// Rounds a number.
pub(crate) fn pack(number: Real, precision: &Precision) -> Outcome {
    let (rounded, how) = number.rounded(precision.bits, precision.rounding);
    let inexact = if how.inexact { PE } else { 0 };
    if rounded.exponent > BIAS {
        if !precision.overflow_masked {
            return wrapped(rounded, -WRAP, OE | inexact, how.up);
        }
        let to_infinity = match precision.rounding {
            Rounding::Nearest => true,
            Rounding::Down => number.negative,
            Rounding::Up => !number.negative,
            Rounding::Zero => false,
        };
        let bits = if to_infinity {
            infinity(number.negative)
        } else {
            let significand = u64::MAX << (64 - precision.bits);
            zero(number.negative) | 0x7FFE << 64 | u128::from(significand)
        };
        return Outcome {
            bits,
            flags: OE | PE,
            up: to_infinity,
        };
    }
    if rounded.exponent >= LEAST {
        return Outcome {
            bits: encode(rounded),
            flags: inexact,
            up: how.up,
        };
    }
    if !precision.underflow_masked {
        return wrapped(rounded, WRAP, UE | inexact, how.up);
    }
    let shift = (LEAST - number.exponent).cast_unsigned();
    let shifted = shift_right_sticky(number.significand, shift);
    let dropped = 128 - precision.bits;
    let how = round_bits(shifted, dropped, number.negative, precision.rounding);
    let significand = how.significand >> 64;
    // Rounded up to the smallest normal number it has an integer bit, and the exponent that goes with it.
    let field = significand >> 63;
    Outcome {
        bits: zero(number.negative) | field << 64 | significand,
        flags: if how.inexact { UE | PE } else { 0 },
        up: how.up,
    }
}

/// A result beyond the format's range, its exponent moved back by `by`; one still out of range becomes zero or infinity.
fn wrapped(number: Real, by: i32, flags: u16, up: bool) -> Outcome {
    let moved = number.scaled(by);
    let (bits, flags, up) = if moved.exponent > BIAS {
        (infinity(number.negative), flags | PE, true)
    } else if moved.exponent < LEAST {
        (zero(number.negative), flags | PE, false)
    } else {
        (encode(moved), flags, up)
    };
    Outcome { bits, flags, up }
}

/// The NaN that operands of which at least one is a NaN give (Intel SDM vol. 1 table 4-7, x87): the one with the greater
/// significand; a quiet one before a signalling one.
pub(crate) fn propagate(a: &Extended, b: &Extended) -> Outcome {
    let signalling = a.class == Class::Signalling || b.class == Class::Signalling;
    let nan = match (a.class, b.class) {
        (Class::Quiet, Class::Signalling) => a,
        (Class::Signalling, Class::Quiet) => b,
        _ if !b.is_nan() => a,
        _ if !a.is_nan() => b,
        _ => {
            let (x, y) = (a.bits as u64, b.bits as u64);
            if x > y || (x == y && !a.negative) {
                a
            } else {
                b
            }
        }
    };
    Outcome::exact(nan.bits | QUIET, if signalling { IE } else { 0 })
}

/// What an operation gives whose operands decide it alone: one is unsupported or a NaN.
pub(crate) fn decided(a: &Extended, b: &Extended) -> Option<Outcome> {
    if a.is_unsupported() || b.is_unsupported() {
        return Some(Outcome::invalid());
    }
    if a.is_nan() || b.is_nan() {
        return Some(propagate(a, b));
    }
    None
}
