//! Numbers wide enough that rounding them is the only error: what both floating-point units compute with when the
//! host's arithmetic cannot be asked.

/// A rounding direction, by its two bits in MXCSR and the x87 control word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    Nearest,
    Down,
    Up,
    Zero,
}

impl Rounding {
    /// The direction that the low two bits of `bits` name.
    #[inline]
    pub(crate) fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::Nearest,
            1 => Self::Down,
            2 => Self::Up,
            _ => Self::Zero,
        }
    }
}

/// A finite number other than zero: `significand` × 2^(`exponent` - 127), its top bit set.
///
/// The lowest bit is sticky: set when anything below was lost. That is enough to round to 126 bits or fewer as if all
/// of it were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Real {
    pub(crate) negative: bool,
    pub(crate) exponent: i32,
    pub(crate) significand: u128,
}

/// A significand after some of its low bits were rounded away.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounded {
    /// The bits kept, in place; zero when `carry` and nothing is left.
    pub(crate) significand: u128,
    /// It became 2^128.
    pub(crate) carry: bool,
    /// Something was rounded away.
    pub(crate) inexact: bool,
    /// The magnitude grew.
    pub(crate) up: bool,
}

/// Rounds the low `dropped` bits (1 to 127) of `significand` away.
pub(crate) fn round_bits(
    significand: u128,
    dropped: u32,
    negative: bool,
    rounding: Rounding,
) -> Rounded {
    let unit = 1u128 << dropped;
    let rest = significand & (unit - 1);
    let kept = significand & !(unit - 1);
    let half = unit >> 1;
    let up = match rounding {
        Rounding::Nearest => rest > half || (rest == half && kept & unit != 0),
        Rounding::Down => negative && rest != 0,
        Rounding::Up => !negative && rest != 0,
        Rounding::Zero => false,
    };
    let (significand, carry) = if up {
        kept.overflowing_add(unit)
    } else {
        (kept, false)
    };
    Rounded {
        significand,
        carry,
        inexact: rest != 0,
        up,
    }
}

/// `value` shifted right, what is lost kept as the lowest bit.
#[inline]
pub(crate) fn shift_right_sticky(value: u128, by: u32) -> u128 {
    match by {
        0 => value,
        1..128 => value >> by | u128::from(value << (128 - by) != 0),
        _ => u128::from(value != 0),
    }
}

/// The 256-bit product, high half first.
fn product(a: u128, b: u128) -> (u128, u128) {
    const LOW: u128 = u64::MAX as u128;
    let (a1, a0, b1, b0) = (a >> 64, a & LOW, b >> 64, b & LOW);
    let (low, high) = (a0 * b0, a1 * b1);
    let (middle, over) = (a1 * b0).overflowing_add(a0 * b1);
    let (low, carry) = low.overflowing_add(middle << 64);
    let high = high + (middle >> 64) + (u128::from(over) << 64) + u128::from(carry);
    (high, low)
}

impl Real {
    /// The number `significand` × 2^(`exponent` - 127), with `significand` not zero.
    #[inline]
    pub(crate) fn new(negative: bool, exponent: i32, significand: u128) -> Self {
        let shift = significand.leading_zeros();
        Self {
            negative,
            exponent: exponent - shift as i32,
            significand: significand << (shift & 127),
        }
    }

    /// An integer other than zero.
    pub(crate) fn from_integer(value: i64) -> Self {
        Self::new(value < 0, 127, u128::from(value.unsigned_abs()))
    }

    /// Minus the number.
    #[must_use]
    pub(crate) fn negated(self) -> Self {
        Self {
            negative: !self.negative,
            ..self
        }
    }

    /// The number times 2^`by`.
    #[must_use]
    pub(crate) fn scaled(self, by: i32) -> Self {
        Self {
            exponent: self.exponent + by,
            ..self
        }
    }

    /// The sum; `None` is exactly zero.
    pub(crate) fn plus(self, other: Self) -> Option<Self> {
        let (large, small) =
            if (self.exponent, self.significand) >= (other.exponent, other.significand) {
                (self, other)
            } else {
                (other, self)
            };
        let distance = (large.exponent - small.exponent).cast_unsigned();
        if large.negative == small.negative {
            let addend = shift_right_sticky(small.significand, distance);
            let (sum, carry) = large.significand.overflowing_add(addend);
            if !carry {
                return Some(Self {
                    significand: sum,
                    ..large
                });
            }
            return Some(Self {
                exponent: large.exponent + 1,
                significand: sum >> 1 | (sum & 1) | 1 << 127,
                ..large
            });
        }
        let difference = large.significand - shift_right_sticky(small.significand, distance);
        if difference == 0 {
            return None;
        }
        Some(Self::new(large.negative, large.exponent, difference))
    }

    /// The product.
    #[must_use]
    pub(crate) fn times(self, other: Self) -> Self {
        const LOW: u128 = u64::MAX as u128;
        let significand = if (self.significand | other.significand) & LOW == 0 {
            (self.significand >> 64) * (other.significand >> 64)
        } else {
            let (high, low) = product(self.significand, other.significand);
            // One more bit than the high half, when that begins with 0.
            if high >> 127 == 0 {
                return Self {
                    negative: self.negative != other.negative,
                    exponent: self.exponent + other.exponent,
                    significand: high << 1 | low >> 127 | u128::from(low << 1 != 0),
                };
            }
            high | u128::from(low != 0)
        };
        Self::new(
            self.negative != other.negative,
            self.exponent + other.exponent + 1,
            significand,
        )
    }

    /// The quotient.
    #[must_use]
    pub(crate) fn over(self, other: Self) -> Self {
        let negative = self.negative != other.negative;
        let exponent = self.exponent - other.exponent;
        const LOW: u128 = u64::MAX as u128;
        if (self.significand | other.significand) & LOW == 0 {
            let divisor = other.significand >> 64;
            let dividend = self.significand >> 1;
            let (first, rest) = (dividend / divisor, dividend % divisor);
            let (second, rest) = ((rest << 64) / divisor, (rest << 64) % divisor);
            // The quotient of two significands of 64 bits times 2^127: `first` has 63 or 64 bits.
            let quotient = first << 64 | second;
            return Self::new(negative, exponent, quotient | u128::from(rest != 0));
        }
        // Bit by bit.
        let divisor = other.significand;
        let mut rest = self.significand;
        let mut exponent = exponent;
        let mut carry = false;
        if rest < divisor {
            carry = rest >> 127 != 0;
            rest <<= 1;
            exponent -= 1;
        }
        let mut quotient = 0u128;
        for _ in 0..128 {
            quotient <<= 1;
            if carry || rest >= divisor {
                rest = rest.wrapping_sub(divisor);
                quotient |= 1;
            }
            carry = rest >> 127 != 0;
            rest <<= 1;
        }
        let sticky = u128::from(carry || rest != 0);
        Self {
            negative,
            exponent,
            significand: quotient | sticky,
        }
    }

    /// The square root of a positive number whose significand has 64 bits or fewer.
    #[must_use]
    pub(crate) fn square_root(self) -> Self {
        // The radicand as significand × 2^even, the significand in the top 64 bits of 127 or 128.
        let (radicand, exponent) = if self.exponent & 1 == 0 {
            (self.significand >> 1, self.exponent)
        } else {
            (self.significand, self.exponent - 1)
        };
        let root = radicand.isqrt();
        let rest = radicand - root * root;
        // (root + 1/2)^2 = root^2 + root + 1/4.
        let next = u128::from(rest > root) << 63;
        let sticky = u128::from(rest != 0);
        Self::new(false, exponent / 2, root << 64 | next | sticky)
    }

    /// The number rounded to `bits` (1 to 127) bits, whatever its exponent.
    pub(crate) fn rounded(self, bits: u32, rounding: Rounding) -> (Self, Rounded) {
        let rounded = round_bits(self.significand, 128 - bits, self.negative, rounding);
        let number = if rounded.carry {
            Self {
                exponent: self.exponent + 1,
                significand: 1 << 127,
                ..self
            }
        } else {
            Self {
                significand: rounded.significand,
                ..self
            }
        };
        (number, rounded)
    }

    /// The integer it rounds to, as magnitude; `None` when that has more than 64 bits.
    pub(crate) fn integer(self, rounding: Rounding) -> Option<(u64, Rounded)> {
        if self.exponent >= 64 {
            return None;
        }
        // 64 bits of fraction below.
        let fixed = if self.exponent >= 63 {
            self.significand
        } else {
            shift_right_sticky(self.significand, (63 - self.exponent).cast_unsigned())
        };
        let rounded = round_bits(fixed, 64, self.negative, rounding);
        if rounded.carry {
            return None;
        }
        Some(((rounded.significand >> 64) as u64, rounded))
    }
}
