//! Shifts and rotates.

use atoll_x86::flags::Flags;
use atoll_x86::shift;

use crate::cpu::Cpu;
use crate::op::{Flow, Op, Step};
use crate::operand::{Operand, Place};

/// A shift of one operand.
pub(crate) trait Shift {
    /// Its result and flags.
    fn apply<T: Operand>(value: T, count: u8, flags: &mut Flags) -> T;
}

/// A shift of one operand that is filled from another.
pub(crate) trait Double {
    /// Its result and flags.
    fn apply<T: Operand>(value: T, fill: T, count: u8, flags: &mut Flags) -> T;
}

macro_rules! shifts {
    ($($name:ident: $text:literal, $function:path;)*) => {$(
        #[doc = $text]
        pub(crate) struct $name;

        impl Shift for $name {
            #[inline(always)]
            fn apply<T: Operand>(value: T, count: u8, flags: &mut Flags) -> T {
                $function(value, count, flags)
            }
        }
    )*};
}

shifts! {
    Left: "SHL.", shift::left;
    Right: "SHR.", shift::right;
    RightSigned: "SAR.", shift::right_signed;
    RotateLeft: "ROL.", shift::rotate_left;
    RotateRight: "ROR.", shift::rotate_right;
    RotateCarryLeft: "RCL.", shift::rotate_carry_left;
    RotateCarryRight: "RCR.", shift::rotate_carry_right;
}

/// SHLD.
pub(crate) struct DoubleLeft;
/// SHRD.
pub(crate) struct DoubleRight;

impl Double for DoubleLeft {
    fn apply<T: Operand>(value: T, fill: T, count: u8, flags: &mut Flags) -> T {
        shift::double_left(value, fill, count, flags)
    }
}

impl Double for DoubleRight {
    fn apply<T: Operand>(value: T, fill: T, count: u8, flags: &mut Flags) -> T {
        shift::double_right(value, fill, count, flags)
    }
}

/// By an immediate.
#[inline(always)]
pub(crate) fn immediate<S: Shift, T: Operand, P: Place>(cpu: &mut Cpu, op: &Op) -> Step {
    let count = op.imm as u8;
    P::update::<T, false>(cpu, op, |value, flags| S::apply(value, count, flags))?;
    Ok(Flow::Next)
}

/// By CL.
#[inline(always)]
pub(crate) fn variable<S: Shift, T: Operand, P: Place>(cpu: &mut Cpu, op: &Op) -> Step {
    let count = u8::get(cpu, 1);
    P::update::<T, false>(cpu, op, |value, flags| S::apply(value, count, flags))?;
    Ok(Flow::Next)
}

/// SHLD and SHRD by an immediate.
#[inline(always)]
pub(crate) fn double_immediate<S: Double, T: Operand, P: Place>(cpu: &mut Cpu, op: &Op) -> Step {
    let (fill, count) = (T::get(cpu, op.src), op.imm as u8);
    P::update::<T, false>(cpu, op, |value, flags| S::apply(value, fill, count, flags))?;
    Ok(Flow::Next)
}

/// SHLD and SHRD by CL.
#[inline(always)]
pub(crate) fn double_variable<S: Double, T: Operand, P: Place>(cpu: &mut Cpu, op: &Op) -> Step {
    let (fill, count) = (T::get(cpu, op.src), u8::get(cpu, 1));
    P::update::<T, false>(cpu, op, |value, flags| S::apply(value, fill, count, flags))?;
    Ok(Flow::Next)
}
