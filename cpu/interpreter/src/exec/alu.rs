//! Arithmetic and logic.

use atoll_x86::alu;
use atoll_x86::flags::Flags;

use crate::cpu::Cpu;
use crate::exception::DE;
use crate::op::{Flow, Op, Step};
use crate::operand::{Operand, Place, Source};

/// An operation of two operands.
pub(crate) trait Binary {
    /// Its result and flags.
    fn apply<T: Operand>(a: T, b: T, flags: &mut Flags) -> T;
}

/// An operation of one operand.
pub(crate) trait Unary {
    /// Its result and flags.
    fn apply<T: Operand>(a: T, flags: &mut Flags) -> T;
}

macro_rules! binary {
    ($($name:ident: $text:literal, $function:expr;)*) => {$(
        #[doc = $text]
        pub(crate) struct $name;

        impl Binary for $name {
            #[inline(always)]
            fn apply<T: Operand>(a: T, b: T, flags: &mut Flags) -> T {
                let function: fn(T, T, &mut Flags) -> T = $function;
                function(a, b, flags)
            }
        }
    )*};
}

binary! {
    Add: "ADD.", |a, b, flags| alu::add(a, b, false, flags);
    Adc: "ADC.", |a, b, flags| alu::add(a, b, flags.carry(), flags);
    Sub: "SUB, CMP.", |a, b, flags| alu::sub(a, b, false, flags);
    Sbb: "SBB.", |a, b, flags| alu::sub(a, b, flags.carry(), flags);
    And: "AND, TEST.", alu::and;
    Or: "OR.", alu::or;
    Xor: "XOR.", alu::xor;
}

macro_rules! unary {
    ($($name:ident: $text:literal, $function:expr;)*) => {$(
        #[doc = $text]
        pub(crate) struct $name;

        impl Unary for $name {
            #[inline(always)]
            fn apply<T: Operand>(a: T, flags: &mut Flags) -> T {
                let function: fn(T, &mut Flags) -> T = $function;
                function(a, flags)
            }
        }
    )*};
}

unary! {
    Inc: "INC.", alu::increment;
    Dec: "DEC.", alu::decrement;
    Neg: "NEG.", |a, flags| alu::sub(T::ZERO, a, false, flags);
    Not: "NOT, which changes no flag.", |a, _| !a;
}

/// `place = place ∘ source`.
#[inline(always)]
pub(crate) fn binary<A: Binary, T: Operand, P: Place, S: Source, const LOCK: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Step {
    let b: T = S::read(cpu, op)?;
    P::update::<T, LOCK>(cpu, op, move |a, flags| A::apply(a, b, flags))?;
    Ok(Flow::Next)
}

/// Flags of `a ∘ b`, nothing written.
#[inline(always)]
pub(crate) fn compare<A: Binary, T: Operand, P: Source, S: Source>(cpu: &mut Cpu, op: &Op) -> Step {
    let a: T = P::read(cpu, op)?;
    let b: T = S::read(cpu, op)?;
    A::apply(a, b, &mut cpu.flags);
    Ok(Flow::Next)
}

/// `place = ∘ place`.
#[inline(always)]
pub(crate) fn unary<U: Unary, T: Operand, P: Place, const LOCK: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Step {
    P::update::<T, LOCK>(cpu, op, U::apply)?;
    Ok(Flow::Next)
}

/// DAA, DAS.
#[inline(always)]
pub(crate) fn decimal<const SUBTRACT: bool>(cpu: &mut Cpu, _op: &Op) -> Step {
    let al = alu::decimal_adjust(u8::get(cpu, 0), SUBTRACT, &mut cpu.flags);
    al.set(cpu, 0);
    Ok(Flow::Next)
}

/// AAA, AAS.
#[inline(always)]
pub(crate) fn ascii<const SUBTRACT: bool>(cpu: &mut Cpu, _op: &Op) -> Step {
    let ax = alu::ascii_adjust(u16::get(cpu, 0), SUBTRACT, &mut cpu.flags);
    ax.set(cpu, 0);
    Ok(Flow::Next)
}

/// AAM.
#[inline(always)]
pub(crate) fn ascii_multiply(cpu: &mut Cpu, op: &Op) -> Step {
    match alu::ascii_multiply(u8::get(cpu, 0), op.imm as u8, &mut cpu.flags) {
        Some(ax) => ax.set(cpu, 0),
        None => return Err(cpu.raise(DE, None)),
    }
    Ok(Flow::Next)
}

/// AAD.
#[inline(always)]
pub(crate) fn ascii_divide(cpu: &mut Cpu, op: &Op) -> Step {
    let ax = alu::ascii_divide(u16::get(cpu, 0), op.imm as u8, &mut cpu.flags);
    ax.set(cpu, 0);
    Ok(Flow::Next)
}
