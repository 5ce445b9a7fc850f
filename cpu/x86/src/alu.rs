//! Arithmetic, logic, multiplication, division and decimal adjustment.

use crate::flags::{AF, CF, Flags, PF, SF, STATUS, ZF};
use crate::integer::Integer;

/// `a + b + carry`, ADD and ADC.
#[inline(always)]
pub fn add<T: Integer>(a: T, b: T, carry: bool, flags: &mut Flags) -> T {
    let carry = if carry { T::ONE } else { T::ZERO };
    let result = a.plus(b).plus(carry);
    *flags = Flags::arithmetic(result, (a & b) | ((a | b) & !result));
    result
}

/// `a - b - borrow`, SUB, SBB and CMP.
#[inline(always)]
pub fn sub<T: Integer>(a: T, b: T, borrow: bool, flags: &mut Flags) -> T {
    let borrow = if borrow { T::ONE } else { T::ZERO };
    let result = a.minus(b).minus(borrow);
    *flags = Flags::arithmetic(result, (!a & b) | ((!a | b) & result));
    result
}

/// `a + 1` with CF unchanged.
#[inline(always)]
pub fn increment<T: Integer>(a: T, flags: &mut Flags) -> T {
    let carry = flags.carry();
    let result = add(a, T::ONE, false, flags);
    flags.set_carry(carry);
    result
}

/// `a - 1` with CF unchanged.
#[inline(always)]
pub fn decrement<T: Integer>(a: T, flags: &mut Flags) -> T {
    let carry = flags.carry();
    let result = sub(a, T::ONE, false, flags);
    flags.set_carry(carry);
    result
}

/// AND.
#[inline(always)]
pub fn and<T: Integer>(a: T, b: T, flags: &mut Flags) -> T {
    let result = a & b;
    *flags = Flags::logic(result);
    result
}

/// OR.
#[inline(always)]
pub fn or<T: Integer>(a: T, b: T, flags: &mut Flags) -> T {
    let result = a | b;
    *flags = Flags::logic(result);
    result
}

/// XOR.
#[inline(always)]
pub fn xor<T: Integer>(a: T, b: T, flags: &mut Flags) -> T {
    let result = a ^ b;
    *flags = Flags::logic(result);
    result
}

/// Unsigned product as (low, high) halves; CF and OF say whether the high half is needed.
#[inline]
pub fn multiply<T: Integer>(a: T, b: T, flags: &mut Flags) -> (T, T) {
    let product = u128::from(a.zero_extended()) * u128::from(b.zero_extended());
    let (low, high) = (T::low(product as u64), T::low((product >> T::BITS) as u64));
    *flags = Flags::logic(low);
    let wide = high != T::ZERO;
    flags.set_carry_overflow(wide, wide);
    (low, high)
}

/// Signed product as (low, high) halves; CF and OF say whether the low half lost something.
#[inline]
pub fn multiply_signed<T: Integer>(a: T, b: T, flags: &mut Flags) -> (T, T) {
    let product =
        i128::from(a.sign_extended().cast_signed()) * i128::from(b.sign_extended().cast_signed());
    let (low, high) = (T::low(product as u64), T::low((product >> T::BITS) as u64));
    *flags = Flags::logic(low);
    let wide = i128::from(low.sign_extended().cast_signed()) != product;
    flags.set_carry_overflow(wide, wide);
    (low, high)
}

/// Unsigned quotient and remainder of `high:low / divisor`; `None` is #DE.
#[inline]
pub fn divide<T: Integer>(high: T, low: T, divisor: T) -> Option<(T, T)> {
    if divisor == T::ZERO || high >= divisor {
        return None;
    }
    if T::BITS < 64 || high == T::ZERO {
        let dividend = if T::BITS < 64 {
            high.zero_extended() << (T::BITS % 64) | low.zero_extended()
        } else {
            low.zero_extended()
        };
        let divisor = divisor.zero_extended();
        return Some((T::low(dividend / divisor), T::low(dividend % divisor)));
    }
    let dividend = u128::from(high.zero_extended()) << 64 | u128::from(low.zero_extended());
    let divisor = u128::from(divisor.zero_extended());
    Some((
        T::low((dividend / divisor) as u64),
        T::low((dividend % divisor) as u64),
    ))
}

/// Signed quotient and remainder of `high:low / divisor`; `None` is #DE.
#[inline]
pub fn divide_signed<T: Integer>(high: T, low: T, divisor: T) -> Option<(T, T)> {
    let divisor = i128::from(divisor.sign_extended().cast_signed());
    let dividend = (i128::from(high.sign_extended().cast_signed()) << T::BITS)
        | i128::from(low.zero_extended());
    let quotient = dividend.checked_div(divisor)?;
    let low = T::low(quotient as u64);
    if i128::from(low.sign_extended().cast_signed()) != quotient {
        return None;
    }
    Some((low, T::low((dividend % divisor) as u64)))
}

/// Index of the lowest set bit (BSF, TZCNT); `None` for zero. ZF is set for zero.
#[inline]
pub fn bit_scan_forward<T: Integer>(value: T, flags: &mut Flags) -> Option<u32> {
    *flags = Flags::logic(value);
    (value != T::ZERO).then(|| value.zero_extended().trailing_zeros())
}

/// Index of the highest set bit (BSR); `None` for zero. ZF is set for zero.
#[inline]
pub fn bit_scan_reverse<T: Integer>(value: T, flags: &mut Flags) -> Option<u32> {
    *flags = Flags::logic(value);
    (value != T::ZERO).then(|| 63 - value.zero_extended().leading_zeros())
}

/// Number of set bits; all flags clear but ZF.
#[inline]
pub fn population_count<T: Integer>(value: T, flags: &mut Flags) -> T {
    *flags = Flags::from_bits(if value == T::ZERO { ZF } else { 0 });
    T::low(u64::from(value.zero_extended().count_ones()))
}

/// SF, ZF and PF as after a byte result, with AF and CF as given; OF clear.
fn decimal_flags(al: u8, adjust: bool, carry: bool) -> Flags {
    let logic = Flags::logic(al).bits() & (SF | ZF | PF);
    let bit = |set, flag| if set { flag } else { 0 };
    Flags::from_bits(logic | bit(adjust, AF) | bit(carry, CF))
}

/// DAA and (with `subtract`) DAS on AL.
pub fn decimal_adjust(al: u8, subtract: bool, flags: &mut Flags) -> u8 {
    let (old_carry, old_adjust) = (flags.carry(), flags.adjust());
    let adjust = al & 15 > 9 || old_adjust;
    let carry = al > 0x99 || old_carry;
    let mut correction = 0;
    if adjust {
        correction |= 6;
    }
    if carry {
        correction |= 0x60;
    }
    let result = if subtract {
        al.wrapping_sub(correction)
    } else {
        al.wrapping_add(correction)
    };
    // DAS: a borrow out of the low correction sets CF too.
    let carry = carry || (subtract && adjust && (al < 6 || old_carry));
    *flags = decimal_flags(result, adjust, carry);
    result
}

/// AAA and (with `subtract`) AAS on AX.
pub fn ascii_adjust(ax: u16, subtract: bool, flags: &mut Flags) -> u16 {
    let adjust = ax & 15 > 9 || flags.adjust();
    let ax = match (adjust, subtract) {
        (true, false) => ax.wrapping_add(0x106),
        (true, true) => ax.wrapping_sub(0x106),
        (false, _) => ax,
    } & 0xFF0F;
    *flags = decimal_flags(ax as u8, adjust, adjust);
    ax
}

/// AAM: AX from AL split by `base`; `None` is #DE.
pub fn ascii_multiply(al: u8, base: u8, flags: &mut Flags) -> Option<u16> {
    let high = al.checked_div(base)?;
    let low = al % base;
    *flags = Flags::logic(low);
    Some(u16::from(high) << 8 | u16::from(low))
}

/// AAD: AX from its two digits in `base`.
pub fn ascii_divide(ax: u16, base: u8, flags: &mut Flags) -> u16 {
    let al = (ax as u8).wrapping_add(((ax >> 8) as u8).wrapping_mul(base));
    *flags = Flags::logic(al);
    u16::from(al)
}

/// The status flags that `bits` replaces, as POPF and SAHF do.
pub fn flags_of(bits: u64) -> Flags {
    Flags::from_bits(bits & STATUS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::OF;

    #[test]
    fn carries_and_overflows_are_those_of_each_width() {
        let mut flags = Flags::default();
        assert_eq!(add(0x7Fu8, 1, false, &mut flags), 0x80);
        assert_eq!(flags.bits() & (CF | OF | SF | AF), OF | SF | AF);
        assert_eq!(add(u64::MAX, 0, true, &mut flags), 0);
        assert_eq!(flags.bits(), CF | ZF | AF | PF);
        assert_eq!(sub(0u32, 1, false, &mut flags), u32::MAX);
        assert_eq!(flags.bits(), CF | SF | AF | PF);
        assert_eq!(sub(0x8000u16, 1, false, &mut flags), 0x7FFF);
        assert_eq!(flags.bits() & (CF | OF), OF);
        assert_eq!(increment(0xFFu8, &mut flags), 0);
        assert!(!flags.carry() && flags.zero());
    }

    #[test]
    fn division_faults_where_the_quotient_does_not_fit() {
        assert_eq!(divide(0u8, 7, 2), Some((3, 1)));
        assert_eq!(divide(2u32, 0, 2), None);
        assert_eq!(divide(1u64, 0, 2), Some((1 << 63, 0)));
        assert_eq!(divide_signed(u16::MAX, 0x8000, u16::MAX), None);
        assert_eq!(
            divide_signed(u64::MAX, 7u64.wrapping_neg(), 2),
            Some((3u64.wrapping_neg(), u64::MAX))
        );
        assert_eq!(divide_signed(0u32, 1, 0), None);
    }
}
