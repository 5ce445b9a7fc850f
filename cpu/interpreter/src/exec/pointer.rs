//! Old instructions on pointers and their privilege: LDS to LGS, BOUND, ARPL.

use crate::cpu::Cpu;
use crate::exception::UD;
use crate::exec::data::after_segment;
use crate::op::{Flow, Op, Step};
use crate::operand::{Operand, Place};

/// Bound range exceeded.
const BR: u8 = 5;

/// LES, LSS, LDS, LFS, LGS: an offset of type `T`, then a selector for segment register `SLOT`.
pub(crate) fn load_far<T: Operand, const SLOT: usize>(cpu: &mut Cpu, op: &Op) -> Step {
    let address = cpu.address(op);
    let offset: T = cpu.load(address)?;
    let selector: u16 = cpu.load(address.wrapping_add(T::BYTES))?;
    cpu.load_segment(SLOT, selector)?;
    offset.set(cpu, op.dst);
    after_segment(cpu, SLOT);
    cpu.leave(op)
}

/// BOUND: the register lies between two signed numbers in memory.
pub(crate) fn bound<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let address = cpu.address(op);
    let least: T = cpu.load(address)?;
    let most: T = cpu.load(address.wrapping_add(T::BYTES))?;
    let signed = |value: T| value.sign_extended().cast_signed();
    let index = signed(T::get(cpu, op.dst));
    if index < signed(least) || index > signed(most) {
        return Err(cpu.raise(BR, None));
    }
    Ok(Flow::Next)
}

/// ARPL: raises a selector's requested privilege level to another's.
pub(crate) fn adjust_privilege<P: Place>(cpu: &mut Cpu, op: &Op) -> Step {
    if !cpu.is_protected() {
        return Err(cpu.raise(UD, None));
    }
    let selector: u16 = P::read(cpu, op)?;
    let requested = u16::get(cpu, op.src) & 3;
    let lower = selector & 3 < requested;
    if lower {
        P::write(cpu, op, (selector & !3) | requested)?;
    }
    cpu.flags.set_zero(lower);
    Ok(Flow::Next)
}
