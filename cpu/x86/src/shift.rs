//! Shifts, rotates and double shifts. A masked count of zero changes nothing, flags included.

use crate::flags::Flags;
use crate::integer::Integer;

/// The count that a shift of width `T` uses: 5 bits of it, 6 for 64-bit operands.
#[inline(always)]
fn masked<T: Integer>(count: u8) -> u32 {
    u32::from(count) & if T::BITS == 64 { 63 } else { 31 }
}

/// SHL.
#[inline]
pub fn left<T: Integer>(value: T, count: u8, flags: &mut Flags) -> T {
    let count = masked::<T>(count);
    if count == 0 {
        return value;
    }
    let wide = u128::from(value.zero_extended()) << count;
    let result = T::low(wide as u64);
    let carry = wide >> T::BITS & 1 != 0;
    *flags = Flags::logic(result);
    flags.set_carry_overflow(carry, result.is_negative() != carry);
    result
}

/// SHR.
#[inline]
pub fn right<T: Integer>(value: T, count: u8, flags: &mut Flags) -> T {
    let count = masked::<T>(count);
    if count == 0 {
        return value;
    }
    let before = value.zero_extended() >> (count - 1);
    let result = T::low(before >> 1);
    *flags = Flags::logic(result);
    // OF is the old sign after a shift by one; processors give the same formula for others.
    let next_to_top = T::low(result.zero_extended() << 1).is_negative();
    flags.set_carry_overflow(before & 1 != 0, next_to_top != result.is_negative());
    result
}

/// SAR.
#[inline]
pub fn right_signed<T: Integer>(value: T, count: u8, flags: &mut Flags) -> T {
    let count = masked::<T>(count);
    if count == 0 {
        return value;
    }
    let before = value.sign_extended().cast_signed() >> (count - 1);
    let result = T::low((before >> 1) as u64);
    *flags = Flags::logic(result);
    flags.set_carry_overflow(before & 1 != 0, false);
    result
}

/// ROL. Only CF and OF change.
#[inline]
pub fn rotate_left<T: Integer>(value: T, count: u8, flags: &mut Flags) -> T {
    let count = masked::<T>(count);
    if count == 0 {
        return value;
    }
    let places = count % T::BITS;
    let bits = value.zero_extended();
    let result = if places == 0 {
        value
    } else {
        T::low(bits << places | bits >> (T::BITS - places))
    };
    let carry = result.zero_extended() & 1 != 0;
    flags.set_carry_overflow(carry, result.is_negative() != carry);
    result
}

/// ROR. Only CF and OF change.
#[inline]
pub fn rotate_right<T: Integer>(value: T, count: u8, flags: &mut Flags) -> T {
    let count = masked::<T>(count);
    if count == 0 {
        return value;
    }
    let places = count % T::BITS;
    let bits = value.zero_extended();
    let result = if places == 0 {
        value
    } else {
        T::low(bits >> places | bits << (T::BITS - places))
    };
    let next_to_top = T::low(result.zero_extended() << 1).is_negative();
    flags.set_carry_overflow(result.is_negative(), result.is_negative() != next_to_top);
    result
}

/// RCL: rotates through CF. Only CF and OF change.
pub fn rotate_carry_left<T: Integer>(value: T, count: u8, flags: &mut Flags) -> T {
    let places = masked::<T>(count) % (T::BITS + 1);
    if places == 0 {
        return value;
    }
    let width = T::BITS + 1;
    let whole = u128::from(value.zero_extended()) | u128::from(flags.carry()) << T::BITS;
    let turned = whole << places | whole >> (width - places);
    let result = T::low(turned as u64);
    let carry = turned >> T::BITS & 1 != 0;
    flags.set_carry_overflow(carry, result.is_negative() != carry);
    result
}

/// RCR: rotates through CF. Only CF and OF change.
pub fn rotate_carry_right<T: Integer>(value: T, count: u8, flags: &mut Flags) -> T {
    let places = masked::<T>(count) % (T::BITS + 1);
    if places == 0 {
        return value;
    }
    let width = T::BITS + 1;
    let whole = u128::from(value.zero_extended()) | u128::from(flags.carry()) << T::BITS;
    let turned = whole >> places | whole << (width - places);
    let result = T::low(turned as u64);
    let carry = turned >> T::BITS & 1 != 0;
    let next_to_top = T::low(result.zero_extended() << 1).is_negative();
    flags.set_carry_overflow(carry, result.is_negative() != next_to_top);
    result
}

/// SHLD: shifts `value` left, filling with the top bits of `fill`.
pub fn double_left<T: Integer>(value: T, fill: T, count: u8, flags: &mut Flags) -> T {
    let count = masked::<T>(count);
    if count == 0 {
        return value;
    }
    if T::BITS == 16 {
        // Counts over 16 go on into the value again, as processors do.
        let (a, b) = (value.zero_extended(), fill.zero_extended());
        let whole = (a << 32 | b << 16 | a) << count;
        let result = T::low(whole >> 32);
        let carry = whole >> 48 & 1 != 0;
        *flags = Flags::logic(result);
        flags.set_carry_overflow(carry, (result ^ value).is_negative());
        return result;
    }
    let whole =
        (u128::from(value.zero_extended()) << T::BITS | u128::from(fill.zero_extended())) << count;
    let result = T::low((whole >> T::BITS) as u64);
    let carry = value.zero_extended() >> (T::BITS - count) & 1 != 0;
    *flags = Flags::logic(result);
    flags.set_carry_overflow(carry, (result ^ value).is_negative());
    result
}

/// SHRD: shifts `value` right, filling with the low bits of `fill`.
pub fn double_right<T: Integer>(value: T, fill: T, count: u8, flags: &mut Flags) -> T {
    let count = masked::<T>(count);
    if count == 0 {
        return value;
    }
    let (a, b) = (
        u128::from(value.zero_extended()),
        u128::from(fill.zero_extended()),
    );
    let whole = if T::BITS == 16 {
        a << 32 | b << 16 | a
    } else {
        b << T::BITS | a
    };
    let result = T::low((whole >> count) as u64);
    let carry = whole >> (count - 1) & 1 != 0;
    *flags = Flags::logic(result);
    let next_to_top = T::low(result.zero_extended() << 1).is_negative();
    flags.set_carry_overflow(carry, result.is_negative() != next_to_top);
    result
}
