//! Multiplication and division.

use atoll_x86::alu;
use atoll_x86::flags::Flags;

use crate::cpu::Cpu;
use crate::exception::DE;
use crate::op::{Flow, Op, Step};
use crate::operand::{HIGH_BYTE, Operand, Source};

/// An operation on RDX:RAX (for bytes AX) and one operand.
pub(crate) trait Wide {
    /// The new (low, high) halves; `None` is #DE.
    fn apply<T: Operand>(low: T, high: T, operand: T, flags: &mut Flags) -> Option<(T, T)>;
}

/// MUL.
pub(crate) struct Mul;
/// IMUL with one operand.
pub(crate) struct Imul;
/// DIV.
pub(crate) struct Div;
/// IDIV.
pub(crate) struct Idiv;

impl Wide for Mul {
    fn apply<T: Operand>(low: T, _high: T, operand: T, flags: &mut Flags) -> Option<(T, T)> {
        Some(alu::multiply(low, operand, flags))
    }
}

impl Wide for Imul {
    fn apply<T: Operand>(low: T, _high: T, operand: T, flags: &mut Flags) -> Option<(T, T)> {
        Some(alu::multiply_signed(low, operand, flags))
    }
}

impl Wide for Div {
    fn apply<T: Operand>(low: T, high: T, operand: T, _flags: &mut Flags) -> Option<(T, T)> {
        alu::divide(high, low, operand)
    }
}

impl Wide for Idiv {
    fn apply<T: Operand>(low: T, high: T, operand: T, _flags: &mut Flags) -> Option<(T, T)> {
        alu::divide_signed(high, low, operand)
    }
}

/// The register of the high half: AH for bytes, else RDX.
fn high_register<T: Operand>() -> u8 {
    if T::BITS == 8 { HIGH_BYTE } else { 2 }
}

/// MUL, IMUL, DIV, IDIV with one operand.
#[inline(always)]
pub(crate) fn wide<W: Wide, T: Operand, S: Source>(cpu: &mut Cpu, op: &Op) -> Step {
    let operand: T = S::read(cpu, op)?;
    let (low, high) = (T::get(cpu, 0), T::get(cpu, high_register::<T>()));
    match W::apply(low, high, operand, &mut cpu.flags) {
        Some((low, high)) => {
            low.set(cpu, 0);
            high.set(cpu, high_register::<T>());
            Ok(Flow::Next)
        }
        None => Err(cpu.raise(DE, None)),
    }
}

/// IMUL with two or three operands.
#[inline(always)]
pub(crate) fn product<T: Operand, A: Source, B: Source>(cpu: &mut Cpu, op: &Op) -> Step {
    let a: T = A::read(cpu, op)?;
    let b: T = B::read(cpu, op)?;
    let (low, _) = alu::multiply_signed(a, b, &mut cpu.flags);
    low.set(cpu, op.dst);
    Ok(Flow::Next)
}
