//! Elementary functions of [`Real`]s, good to some 115 bits.

use crate::real::Real;
use crate::x87::transfer::{LN_2, PI};

/// Below 2^-118 of the sum so far a term no longer matters.
const ENOUGH: i32 = 118;

/// π.
pub(crate) const fn pi() -> Real {
    Real {
        negative: false,
        exponent: 1,
        significand: PI,
    }
}

/// ln 2.
fn ln_2() -> Real {
    Real {
        negative: false,
        exponent: -1,
        significand: LN_2,
    }
}

/// log2 e.
fn log2_e() -> Real {
    Real {
        negative: false,
        exponent: 0,
        significand: 0xB8AA_3B29_5C17_F0BB_BE87_FED0_691D_3E88,
    }
}

/// One.
pub(crate) fn one() -> Real {
    Real::from_integer(1)
}

/// Marks a number as not exact, so that rounding it raises the precision exception.
pub(crate) fn inexact(number: Real) -> Real {
    Real {
        significand: number.significand | 1,
        ..number
    }
}

/// `number` / `divisor`, good to 128 bits less the divisor's.
fn divided(number: Real, divisor: u64) -> Real {
    Real::new(
        number.negative,
        number.exponent,
        number.significand / u128::from(divisor),
    )
}

/// first + next(first) + next(next(first)) …, `next` being given each term's place from 1.
fn series(first: Real, mut next: impl FnMut(Real, u64) -> Real) -> Real {
    let (mut sum, mut term) = (first, first);
    for place in 1..80 {
        term = next(term, place);
        // The last one still tells on which side of the sum so far the limit lies.
        let last = term.exponent < sum.exponent - ENOUGH;
        sum = sum.plus(term).unwrap_or(sum);
        if last {
            break;
        }
    }
    sum
}

/// An angle brought into -π/4 to π/4: the rest (`None` is zero) and how many quarter turns were taken off, modulo 4.
///
/// The unit knows π to 66 bits only (Intel SDM vol. 1 §8.3.8); so is it here, or the results would differ. `angle` has 64
/// bits and is below 2^63.
pub(crate) fn quarters(angle: Real) -> (Option<Real>, u32) {
    /// π/2 in units of 2^-65.
    const QUARTER: u128 = 0x3_243F_6A88_85A3_08D3;
    if angle.exponent < -1 {
        return (Some(angle), 0);
    }
    let mut rest = 0u128;
    let mut turns = 0u32;
    let bits = 64 + angle.exponent + 2;
    for place in 0..bits {
        let bit = if place < 64 {
            angle.significand >> (127 - place) & 1
        } else {
            0
        };
        rest = rest << 1 | bit;
        turns <<= 1;
        if rest >= QUARTER {
            rest -= QUARTER;
            turns |= 1;
        }
    }
    let over = rest > QUARTER / 2;
    if over {
        rest = QUARTER - rest;
        turns = turns.wrapping_add(1);
    }
    let turns = if angle.negative {
        turns.wrapping_neg()
    } else {
        turns
    };
    let rest = (rest != 0).then(|| Real::new(angle.negative != over, 127 - 65, rest));
    (rest, turns & 3)
}

/// Sine of -π/4 to π/4.
pub(crate) fn sine(x: Real) -> Real {
    let square = x.times(x).negated();
    series(x, |term, place| {
        divided(term.times(square), 2 * place * (2 * place + 1))
    })
}

/// Cosine of -π/4 to π/4.
pub(crate) fn cosine(x: Real) -> Real {
    let square = x.times(x).negated();
    series(one(), |term, place| {
        divided(term.times(square), (2 * place - 1) * (2 * place))
    })
}

/// 2^x - 1 for -1 to 1.
pub(crate) fn exponential_minus_one(x: Real) -> Real {
    let x = x.times(ln_2());
    series(x, |term, place| divided(term.times(x), place + 1))
}

/// The inverse hyperbolic tangent, of about -0.2 to 0.2, times 2 log2 e.
fn log2_of_ratio(x: Real) -> Real {
    let square = x.times(x);
    let mut power = x;
    series(x, |_, place| {
        power = power.times(square);
        divided(power, 2 * place + 1)
    })
    .times(log2_e())
    .scaled(1)
}

/// log2 of a positive number; `None` is zero.
pub(crate) fn logarithm(x: Real) -> Option<Real> {
    /// √2's significand.
    const ROOT: u128 = 0xB504_F333_F9DE_6484_597D_89B3_754A_BE9F;
    // Around 1, so that nothing cancels.
    let above = x.significand > ROOT;
    let whole = x.exponent + i32::from(above);
    let fraction = Real {
        exponent: -i32::from(above),
        ..x
    };
    let whole = (whole != 0).then(|| Real::from_integer(whole.into()));
    let Some(less) = fraction.plus(one().negated()) else {
        return whole;
    };
    let sum = fraction.plus(one()).unwrap_or(fraction);
    let part = inexact(log2_of_ratio(less.over(sum)));
    match whole {
        Some(whole) => whole.plus(part),
        None => Some(part),
    }
}

/// log2 (1 + x) for -0.3 to 0.42; works for anything above -1.
pub(crate) fn logarithm_plus_one(x: Real) -> Option<Real> {
    if x.exponent >= -1
        && let Some(sum) = x.plus(one())
    {
        return logarithm(sum);
    }
    let denominator = x.plus(one().scaled(1))?;
    Some(log2_of_ratio(x.over(denominator)))
}

/// Arctangents of 1/8 to 8/8: exponent and significand.
const ARCTANGENTS: [(i32, u128); 8] = [
    (-4, 0xFEAD_D4D5_617B_6E32_C897_989F_3E88_8EF7),
    (-3, 0xFADB_AFC9_6406_EB15_6DC7_9EF5_F7A2_17E5),
    (-2, 0xB7B0_CA0F_26F7_8473_8AA3_2122_DCFE_4483),
    (-2, 0xED63_382B_0DDA_7B45_6FE4_45EC_BC3A_8D03),
    (-1, 0x8F00_5D5E_F7F5_9F9B_5C83_5E16_65C4_3747),
    (-1, 0xA4BC_7D19_34F7_0924_19A8_7F2A_457D_AC9E),
    (-1, 0xB805_3E2B_C231_9E73_CB2D_A552_10A4_443D),
    (-1, 0xC90F_DAA2_2168_C234_C4C6_628B_80DC_1CD1),
];

/// The arctangent of a positive number.
pub(crate) fn arctangent(x: Real) -> Real {
    if x.exponent >= 0 && x != one() {
        let rest = arctangent(one().over(x)).negated();
        return pi().scaled(-1).plus(rest).unwrap_or(rest);
    }
    // The nearest eighth.
    let eighths = if x.exponent < -4 {
        0
    } else {
        ((x.significand >> 64) as u64 >> (59 - x.exponent)).div_ceil(2)
    };
    let eighths = eighths.min(8);
    if eighths == 0 {
        return arctangent_series(x);
    }
    let near = Real::from_integer(eighths.cast_signed()).scaled(-3);
    let (exponent, significand) = ARCTANGENTS[eighths as usize - 1];
    let known = Real {
        negative: false,
        exponent,
        significand,
    };
    let Some(difference) = x.plus(near.negated()) else {
        return known;
    };
    let product = x.times(near);
    let rest = difference.over(one().plus(product).unwrap_or(product));
    known.plus(arctangent_series(rest)).unwrap_or(known)
}

/// The arctangent of about -1/16 to 1/16.
fn arctangent_series(x: Real) -> Real {
    let square = x.times(x).negated();
    let mut power = x;
    series(x, |_, place| {
        power = power.times(square);
        divided(power, 2 * place + 1)
    })
}
