//! F2XM1, FYL2X, FYL2XP1, FSIN, FCOS, FSINCOS, FPTAN, FPATAN (Intel SDM vol. 2, their tables of results).
//!
//! Processors err by up to one unit in the last place (Intel SDM vol. 1 §8.3.10); here results are the rounded exact ones, but
//! for the 66-bit π of processors, so that both agree to that unit.

use crate::real::Real;
use crate::x87::number::{
    Class, Extended, INFINITY, ONE, Outcome, PE, Precision, UE, ZE, decided, infinity, pack, zero,
};
use crate::x87::series::{self, inexact, one, pi};
use crate::x87::unit::{C1, C2, X87};

/// The exponent below which processors take an angle's sine and tangent to be the angle, and its cosine to be 1.
const TINY: i32 = -68;

/// The two results of an angle: sine and cosine.
struct Angle {
    sine: Option<Real>,
    cosine: Option<Real>,
}

fn angle(x: Real) -> Angle {
    let (rest, turns) = series::quarters(x);
    let (sine, cosine) = match rest {
        Some(rest) => (Some(series::sine(rest)), Some(series::cosine(rest))),
        None => (None, Some(one())),
    };
    let negated = |number: Option<Real>| number.map(Real::negated);
    let (sine, cosine) = match turns {
        0 => (sine, cosine),
        1 => (cosine, negated(sine)),
        2 => (negated(sine), negated(cosine)),
        _ => (negated(cosine), sine),
    };
    Angle { sine, cosine }
}

/// A result that is not exact.
fn rounded(number: Option<Real>, precision: &Precision) -> Outcome {
    match number {
        Some(number) => pack(inexact(number), precision),
        None => Outcome::exact(0, PE),
    }
}

impl X87 {
    /// ST(0) as an angle for `f`, which gives ST(0) and what to push, if anything.
    ///
    /// * `zero`: both results for a zero operand of that sign.
    fn trigonometric(
        &mut self,
        pushes: bool,
        zero: impl Fn(u128) -> (u128, u128),
        f: impl Fn(&Angle, &Precision) -> (Outcome, Outcome),
    ) {
        self.status &= !(C1 | C2);
        let Some(operand) = self.occupied(0) else {
            return if pushes {
                self.underflow_into_two();
            } else {
                self.underflow_into(0, false);
            };
        };
        if pushes && !self.is_empty(7) {
            return self.overflow_into_two();
        }
        let precision = Precision::full(self.control);
        let (first, second) = match operand.class {
            Class::Zero => {
                let (first, second) = zero(operand.bits);
                (Outcome::exact(first, 0), Outcome::exact(second, 0))
            }
            Class::Infinity => (Outcome::invalid(), Outcome::invalid()),
            Class::Finite(x) if x.exponent >= 63 => {
                self.status |= C2;
                return;
            }
            Class::Finite(x) if x.exponent < TINY => {
                let (first, second) = zero(operand.bits);
                let first = if first == operand.bits {
                    // Itself, whatever the rounding, but not exactly.
                    let tiny = if x.exponent < -16382 { UE | PE } else { PE };
                    pack(x, &precision).raising(tiny)
                } else {
                    Outcome::exact(first, PE)
                };
                (first.raising(operand.flag()), Outcome::exact(second, 0))
            }
            Class::Finite(x) => {
                let (first, second) = f(&angle(x), &precision);
                (first.raising(operand.flag()), second)
            }
            _ => {
                let nan = decided(&operand, &operand).unwrap_or_else(Outcome::invalid);
                (nan, nan)
            }
        };
        if !pushes {
            self.finish(0, first, false);
        } else if self.finish(0, first.raising(second.flags), false) {
            self.push_bits(second.bits);
        }
    }

    /// FSIN.
    pub fn sine(&mut self) {
        self.trigonometric(
            false,
            |zero| (zero, 0),
            |angle, precision| (rounded(angle.sine, precision), Outcome::exact(0, 0)),
        );
    }

    /// FCOS.
    pub fn cosine(&mut self) {
        self.trigonometric(
            false,
            |_| (ONE, 0),
            |angle, precision| (rounded(angle.cosine, precision), Outcome::exact(0, 0)),
        );
    }

    /// FSINCOS: ST(0) becomes the sine, the cosine is pushed.
    pub fn sine_cosine(&mut self) {
        self.trigonometric(
            true,
            |zero| (zero, ONE),
            |angle, precision| {
                (
                    rounded(angle.sine, precision),
                    rounded(angle.cosine, precision),
                )
            },
        );
    }

    /// FPTAN: ST(0) becomes the tangent, 1 is pushed.
    pub fn tangent(&mut self) {
        self.trigonometric(
            true,
            |zero| (zero, ONE),
            |angle, precision| {
                let tangent = match (angle.sine, angle.cosine) {
                    (Some(sine), Some(cosine)) => Some(sine.over(cosine)),
                    _ => None,
                };
                (rounded(tangent, precision), Outcome::exact(ONE, 0))
            },
        );
    }

    /// F2XM1: 2^ST(0) - 1. Beyond ±1 the result is not defined; here it is the operand.
    pub fn exponential(&mut self) {
        let precision = Precision::full(self.control);
        self.unary(|operand| match operand.class {
            Class::Finite(x) if x == one() => Outcome::exact(operand.bits, 0),
            Class::Finite(x) if x == one().negated() => {
                pack(one().negated().scaled(-1), &precision)
            }
            Class::Finite(x) if x.exponent < 0 => {
                let result = series::exponential_minus_one(x);
                pack(inexact(result), &precision).raising(operand.flag())
            }
            Class::Infinity if operand.negative => Outcome::exact(ONE | 1 << 79, 0),
            _ => Outcome::exact(operand.bits, 0),
        });
    }

    /// ST(1) = `f`(ST(0), ST(1)), then pops.
    fn binary(&mut self, f: impl Fn(&Extended, &Extended, &Precision) -> Outcome) {
        let (Some(x), Some(y)) = (self.occupied(0), self.occupied(1)) else {
            return self.underflow_into(1, true);
        };
        let precision = Precision::full(self.control);
        let outcome = decided(&y, &x).unwrap_or_else(|| f(&x, &y, &precision));
        self.finish(1, outcome, true);
    }

    /// FYL2X: ST(1) × log2 ST(0).
    pub fn logarithm(&mut self) {
        self.binary(|x, y, precision| {
            let number = match x.class {
                Class::Zero => {
                    return match y.class {
                        Class::Zero => Outcome::invalid(),
                        Class::Infinity => Outcome::exact(infinity(!y.negative), 0),
                        _ => Outcome::exact(infinity(!y.negative), ZE),
                    };
                }
                _ if x.negative => return Outcome::invalid(),
                Class::Finite(number) => series::logarithm(number),
                _ => {
                    return match y.class {
                        Class::Zero => Outcome::invalid(),
                        _ => Outcome::exact(infinity(y.negative), y.flag()),
                    };
                }
            };
            times(y, number, precision).raising(x.flag() | y.flag())
        });
    }

    /// FYL2XP1: ST(1) × log2 (ST(0) + 1). Of -1 and below the result is not defined; here it is the operand.
    pub fn logarithm_plus_one(&mut self) {
        self.binary(|x, y, precision| {
            let number = match x.class {
                Class::Zero => match y.class {
                    Class::Infinity => return Outcome::invalid(),
                    _ => return Outcome::exact(zero(x.negative != y.negative), y.flag()),
                },
                Class::Finite(number)
                    if number.negative && number.exponent >= 0 && !y.is_infinite() =>
                {
                    return Outcome::exact(x.bits, x.flag() | y.flag());
                }
                Class::Finite(_) if y.is_infinite() => {
                    return Outcome::exact(infinity(x.negative != y.negative), x.flag());
                }
                Class::Finite(number) => series::logarithm_plus_one(number),
                _ if x.negative => return Outcome::invalid(),
                _ => {
                    return match y.class {
                        Class::Zero => Outcome::invalid(),
                        _ => Outcome::exact(infinity(y.negative), y.flag()),
                    };
                }
            };
            times(y, number.map(inexact), precision).raising(x.flag() | y.flag())
        });
    }

    /// FPATAN: the arctangent of ST(1) / ST(0), in the quadrant of the point (ST(0), ST(1)).
    pub fn arctangent(&mut self) {
        self.binary(|x, y, precision| {
            use Class as C;
            let flags = x.flag() | y.flag();
            // π × quarters / 4.
            let turn = |quarters: i64| {
                let angle = pi().times(Real::from_integer(quarters)).scaled(-2);
                Some(angle)
            };
            let magnitude = match (y.class, x.class) {
                (C::Infinity, C::Infinity) => turn(if x.negative { 3 } else { 1 }),
                (C::Infinity, _) | (C::Finite(_), C::Zero) => turn(2),
                (_, C::Infinity) | (C::Zero, _) if x.negative => turn(4),
                (C::Finite(b), C::Finite(a)) => {
                    let ratio = Real {
                        negative: false,
                        ..b.over(a)
                    };
                    let angle = series::arctangent(ratio);
                    if x.negative {
                        pi().plus(angle.negated())
                    } else {
                        Some(angle)
                    }
                }
                _ => None,
            };
            match magnitude {
                None => Outcome::exact(zero(y.negative), flags),
                Some(angle) => {
                    let angle = Real {
                        negative: y.negative,
                        ..angle
                    };
                    pack(inexact(angle), precision).raising(flags)
                }
            }
        });
    }
}

/// `y` × `number`, which `None` makes +0.
fn times(y: &Extended, number: Option<Real>, precision: &Precision) -> Outcome {
    match (y.class, number) {
        (Class::Infinity, None) => Outcome::invalid(),
        (Class::Infinity, Some(number)) => {
            Outcome::exact(INFINITY | zero(y.negative != number.negative), 0)
        }
        (Class::Finite(_), None) => Outcome::exact(zero(y.negative), 0),
        (Class::Finite(y), Some(number)) => pack(y.times(number), precision),
        (_, number) => {
            let negative = number.is_some_and(|number| number.negative);
            Outcome::exact(zero(y.negative != negative), 0)
        }
    }
}
