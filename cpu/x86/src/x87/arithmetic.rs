//! FADD to FDIVR, FSQRT, FABS, FCHS, FRNDINT, FSCALE, FXTRACT, FPREM, FPREM1.

use std::cmp::Ordering;

use crate::real::{Real, Rounding};
use crate::x87::number::{
    Class, Extended, IE, Outcome, PE, Precision, SIGN, UE, ZE, decided, infinity, pack, propagate,
    zero,
};
use crate::x87::unit::{C0, C1, C2, C3, X87};

/// An operation of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// FADD: destination + source.
    Add,
    /// FMUL.
    Mul,
    /// FSUB: destination - source.
    Sub,
    /// FSUBR: source - destination.
    SubReversed,
    /// FDIV: destination / source.
    Div,
    /// FDIVR: source / destination.
    DivReversed,
}

/// Where an operation's second operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// ST(i).
    Register(usize),
    /// Memory, as [`Memory`] read it.
    Memory(Memory),
}

/// A memory operand in the unit's own format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Its value. A signalling NaN still signals.
    pub(crate) bits: u128,
    /// It was a denormal in its own format.
    pub(crate) denormal: bool,
}

impl X87 {
    /// Operand `source`; `None` is an empty register.
    pub(crate) fn source(&self, source: Source) -> Option<Extended> {
        match source {
            Source::Register(index) => self.occupied(index),
            Source::Memory(memory) => {
                let mut operand = Extended::new(memory.bits);
                operand.denormal |= memory.denormal;
                Some(operand)
            }
        }
    }

    /// ST(`destination`) = ST(`destination`) `operation` `source`; pops where `pop`.
    pub fn arithmetic(
        &mut self,
        operation: Arithmetic,
        destination: usize,
        source: Source,
        pop: bool,
    ) {
        let (Some(a), Some(b)) = (self.occupied(destination), self.source(source)) else {
            return self.underflow_into(destination, pop);
        };
        let precision = Precision::controlled(self.control);
        let outcome = match operation {
            Arithmetic::Add => sum(&a, &b, &precision),
            Arithmetic::Mul => product(&a, &b, &precision),
            Arithmetic::Sub => difference(&a, &b, &precision),
            Arithmetic::SubReversed => difference(&b, &a, &precision),
            Arithmetic::Div => quotient(&a, &b, &precision),
            Arithmetic::DivReversed => quotient(&b, &a, &precision),
        };
        self.finish(destination, outcome, pop);
    }

    /// FSQRT.
    pub fn square_root(&mut self) {
        let precision = Precision::controlled(self.control);
        self.unary(|operand| match operand.class {
            Class::Zero => Outcome::exact(operand.bits, 0),
            _ if operand.negative => Outcome::invalid(),
            Class::Finite(number) => {
                let outcome = pack(number.square_root(), &precision);
                Outcome {
                    flags: outcome.flags | operand.flag(),
                    ..outcome
                }
            }
            _ => Outcome::exact(operand.bits, 0),
        });
    }

    /// FABS.
    pub fn absolute(&mut self) {
        self.change_sign(|bits| bits & !SIGN);
    }

    /// FCHS.
    pub fn negate(&mut self) {
        self.change_sign(|bits| bits ^ SIGN);
    }

    fn change_sign(&mut self, change: impl Fn(u128) -> u128) {
        if self.is_empty(0) {
            return self.underflow_into(0, false);
        }
        self.status &= !C1;
        self.set_st(0, change(self.st(0)));
    }

    /// FRNDINT.
    pub fn round_to_integer(&mut self) {
        let precision = Precision::full(self.control);
        self.unary(|operand| match operand.class {
            Class::Finite(number) if number.exponent < 63 => {
                let Some((magnitude, how)) = number.integer(precision.rounding) else {
                    return Outcome::exact(operand.bits, 0);
                };
                let flags = operand.flag() | if how.inexact { PE } else { 0 };
                let bits = if magnitude == 0 {
                    zero(operand.negative)
                } else {
                    let whole = Real::new(operand.negative, 127, u128::from(magnitude));
                    pack(whole, &precision).bits
                };
                Outcome {
                    bits,
                    flags,
                    up: how.up,
                }
            }
            _ => Outcome::exact(operand.bits, 0),
        });
    }

    /// FSCALE: ST(0) × 2^ST(1), ST(1) cut to an integer.
    pub fn scale(&mut self) {
        let (Some(a), Some(b)) = (self.occupied(0), self.occupied(1)) else {
            return self.underflow_into(0, false);
        };
        let outcome = decided(&a, &b).unwrap_or_else(|| scaled(&a, &b, self.control));
        self.finish(0, outcome, false);
    }

    /// FXTRACT: ST(0) becomes its exponent, its significand is pushed.
    pub fn extract(&mut self) {
        let Some(a) = self.occupied(0) else {
            return self.underflow_into_two();
        };
        if !self.is_empty(7) {
            return self.overflow_into_two();
        }
        let precision = Precision::full(self.control);
        let (exponent, significand, flags) = match a.class {
            Class::Unsupported => (
                Outcome::invalid().bits,
                Outcome::invalid().bits,
                Outcome::invalid().flags,
            ),
            Class::Quiet | Class::Signalling => {
                let nan = propagate(&a, &a);
                (nan.bits, nan.bits, nan.flags)
            }
            Class::Infinity => (infinity(false), a.bits, 0),
            Class::Zero => (infinity(true), a.bits, ZE),
            Class::Finite(number) => {
                let exponent = match number.exponent {
                    0 => 0,
                    exponent => pack(Real::from_integer(exponent.into()), &precision).bits,
                };
                let unit = Real {
                    exponent: 0,
                    ..number
                };
                (exponent, pack(unit, &precision).bits, a.flag())
            }
        };
        self.status &= !C1;
        if self.raise_before(flags) {
            return;
        }
        self.set_st(0, exponent);
        self.push_bits(significand);
    }

    /// FPREM; with `NEAREST` FPREM1.
    pub fn remainder<const NEAREST: bool>(&mut self) {
        self.status &= !C2;
        let (Some(a), Some(b)) = (self.occupied(0), self.occupied(1)) else {
            return self.underflow_into(0, false);
        };
        let (outcome, conditions) = match decided(&a, &b) {
            Some(outcome) => (outcome, None),
            None => remainder::<NEAREST>(&a, &b, self.control),
        };
        if self.finish(0, outcome, false)
            && let Some(conditions) = conditions
        {
            self.status = (self.status & !(C0 | C1 | C2 | C3)) | conditions;
        }
    }

    /// ST(0) = `f` of ST(0), with unsupported operands and NaNs dealt with.
    pub(crate) fn unary(&mut self, f: impl Fn(&Extended) -> Outcome) {
        let Some(a) = self.occupied(0) else {
            return self.underflow_into(0, false);
        };
        let outcome = decided(&a, &a).unwrap_or_else(|| f(&a));
        self.finish(0, outcome, false);
    }
}

/// `outcome` with the operands' denormal exception.
fn with_operands(outcome: Outcome, a: &Extended, b: &Extended) -> Outcome {
    Outcome {
        flags: outcome.flags | a.flag() | b.flag(),
        ..outcome
    }
}

fn sum(a: &Extended, b: &Extended, precision: &Precision) -> Outcome {
    use Class as C;
    if let Some(outcome) = decided(a, b) {
        return outcome;
    }
    let number = match (a.class, b.class) {
        (C::Infinity, C::Infinity) if a.negative != b.negative => return Outcome::invalid(),
        (C::Infinity, _) => return with_operands(Outcome::exact(a.bits, 0), a, b),
        (_, C::Infinity) => return with_operands(Outcome::exact(b.bits, 0), a, b),
        (C::Finite(x), C::Finite(y)) => x.plus(y),
        (C::Finite(number), _) | (_, C::Finite(number)) => Some(number),
        _ if a.negative == b.negative => return Outcome::exact(a.bits, 0),
        _ => None,
    };
    let outcome = match number {
        None => Outcome::exact(zero(precision.rounding == Rounding::Down), 0),
        Some(number) => pack(number, precision),
    };
    with_operands(outcome, a, b)
}

fn difference(a: &Extended, b: &Extended, precision: &Precision) -> Outcome {
    if let Some(outcome) = decided(a, b) {
        return outcome;
    }
    let mut negated = b.negated();
    negated.denormal = b.denormal;
    sum(a, &negated, precision)
}

fn product(a: &Extended, b: &Extended, precision: &Precision) -> Outcome {
    if let Some(outcome) = decided(a, b) {
        return outcome;
    }
    let negative = a.negative != b.negative;
    let outcome = match (a.class, b.class) {
        (Class::Finite(x), Class::Finite(y)) => pack(x.times(y), precision),
        _ if a.is_infinite() || b.is_infinite() => {
            if a.is_zero() || b.is_zero() {
                return Outcome::invalid();
            }
            Outcome::exact(infinity(negative), 0)
        }
        _ => Outcome::exact(zero(negative), 0),
    };
    with_operands(outcome, a, b)
}

fn quotient(a: &Extended, b: &Extended, precision: &Precision) -> Outcome {
    use Class as C;
    if let Some(outcome) = decided(a, b) {
        return outcome;
    }
    let negative = a.negative != b.negative;
    let outcome = match (a.class, b.class) {
        (C::Finite(x), C::Finite(y)) => pack(x.over(y), precision),
        (C::Infinity, C::Infinity) | (C::Zero, C::Zero) => return Outcome::invalid(),
        (C::Infinity, _) => Outcome::exact(infinity(negative), 0),
        (C::Finite(_), C::Zero) => return Outcome::exact(infinity(negative), ZE),
        _ => Outcome::exact(zero(negative), 0),
    };
    with_operands(outcome, a, b)
}

fn scaled(a: &Extended, b: &Extended, control: u16) -> Outcome {
    let precision = Precision::full(control);
    let outcome = match (a.class, b.class) {
        (Class::Infinity, Class::Infinity) if b.negative => return Outcome::invalid(),
        (Class::Zero, Class::Infinity) if !b.negative => return Outcome::invalid(),
        (Class::Infinity | Class::Zero, _) => Outcome::exact(a.bits, 0),
        (_, Class::Infinity) if b.negative => Outcome::exact(zero(a.negative), 0),
        (_, Class::Infinity) => Outcome::exact(infinity(a.negative), 0),
        (Class::Finite(number), Class::Finite(by)) => {
            // Beyond any exponent, but far from overflowing.
            let by = match by.integer(Rounding::Zero) {
                Some((magnitude, _)) => magnitude.min(1 << 20) as i32,
                None => 1 << 20,
            };
            pack(number.scaled(if b.negative { -by } else { by }), &precision)
        }
        // By 2^0: a denormal does not underflow.
        _ => Outcome::exact(a.canonical(), 0),
    };
    with_operands(outcome, a, b)
}

/// The remainder and the condition codes: C2 when it is partial, else the quotient's low bits in C0, C3, C1.
fn remainder<const NEAREST: bool>(
    a: &Extended,
    b: &Extended,
    control: u16,
) -> (Outcome, Option<u16>) {
    let (x, y) = match (a.class, b.class) {
        (Class::Infinity, _) | (_, Class::Zero) => return (Outcome::invalid(), None),
        (Class::Zero, _) => {
            let outcome = with_operands(Outcome::exact(a.bits, 0), a, b);
            return (outcome, Some(0));
        }
        (Class::Finite(x), Class::Finite(y)) => (x, y),
        _ => {
            let outcome = Outcome::exact(a.canonical(), 0);
            return (with_operands(outcome, a, b), Some(0));
        }
    };
    let distance = x.exponent - y.exponent;
    // Partial results take off 32 to 63 bits at a time; which, is the processor's choice (Intel SDM vol. 2 "FPREM").
    let partial = distance >= 64;
    let steps = if partial {
        distance - (32 + distance % 32)
    } else {
        0
    };
    let (divisor, mut rest) = (y.significand >> 64, x.significand >> 64);
    let mut quotient = 0u64;
    let mut exponent = y.exponent + steps;
    let result = if distance < 0 {
        // Smaller than the divisor already; FPREM1 may still take one off.
        Some(x)
    } else {
        let mut remaining = distance - steps;
        loop {
            quotient <<= 1;
            if rest >= divisor {
                rest -= divisor;
                quotient |= 1;
            }
            if remaining == 0 {
                break;
            }
            rest <<= 1;
            remaining -= 1;
        }
        (rest != 0).then(|| Real::new(x.negative, exponent, rest << 64))
    };
    exponent = y.exponent;
    let mut result = result;
    if NEAREST && !partial {
        // Compare twice the rest with the divisor.
        let magnitude = Real {
            negative: false,
            exponent,
            significand: y.significand,
        };
        let order = result.map_or(Ordering::Less, |rest| {
            let twice = rest.scaled(1);
            (twice.exponent, twice.significand).cmp(&(magnitude.exponent, magnitude.significand))
        });
        if order == Ordering::Greater || (order == Ordering::Equal && quotient & 1 != 0) {
            quotient = quotient.wrapping_add(1);
            let subtrahend = Real {
                negative: !x.negative,
                ..magnitude
            };
            result = result.and_then(|rest| rest.plus(subtrahend));
        }
    }
    let outcome = match result {
        None => Outcome::exact(zero(a.negative), 0),
        Some(number) => pack(number, &Precision::full(control)),
    };
    let conditions = if partial {
        C2
    } else {
        let bit = |index: u32, condition: u16| {
            if quotient >> index & 1 != 0 {
                condition
            } else {
                0
            }
        };
        bit(2, C0) | bit(1, C3) | bit(0, C1)
    };
    (with_operands(outcome, a, b), Some(conditions))
}

/// Exceptions found before an instruction computes.
pub(crate) const BEFORE: u16 = IE | crate::x87::number::DE | ZE;
/// Exceptions that leave no result in memory when they are not masked.
pub(crate) const NO_STORE: u16 = BEFORE | crate::x87::number::OE | UE;
