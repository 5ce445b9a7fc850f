//! Moves and extensions.

use atoll_x86::flags::Condition;

use crate::cpu::{CS, Cpu, SS};
use crate::exception::UD;
use crate::op::{Fault, Flow, Op, Step};
use crate::operand::{Operand, Place, Source};

/// MOV.
#[inline(always)]
pub(crate) fn mov<T: Operand, P: Place, S: Source>(cpu: &mut Cpu, op: &Op) -> Step {
    let value: T = S::read(cpu, op)?;
    P::write(cpu, op, value)?;
    Ok(Flow::Next)
}

/// LEA.
#[inline(always)]
pub(crate) fn lea<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    T::low(cpu.effective_address(op)).set(cpu, op.dst);
    Ok(Flow::Next)
}

/// MOVZX, MOVSX, MOVSXD.
#[inline(always)]
pub(crate) fn extend<F: Operand, T: Operand, S: Source, const SIGNED: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Step {
    let value: F = S::read(cpu, op)?;
    let wide = if SIGNED {
        value.sign_extended()
    } else {
        value.zero_extended()
    };
    T::low(wide).set(cpu, op.dst);
    Ok(Flow::Next)
}

/// CBW, CWDE, CDQE.
#[inline(always)]
pub(crate) fn sign_into_self<F: Operand, T: Operand>(cpu: &mut Cpu, _op: &Op) -> Step {
    T::low(F::get(cpu, 0).sign_extended()).set(cpu, 0);
    Ok(Flow::Next)
}

/// CWD, CDQ, CQO.
#[inline(always)]
pub(crate) fn sign_into_dx<T: Operand>(cpu: &mut Cpu, _op: &Op) -> Step {
    let sign = if T::get(cpu, 0).is_negative() {
        !T::ZERO
    } else {
        T::ZERO
    };
    sign.set(cpu, 2);
    Ok(Flow::Next)
}

/// BSWAP. On 16 bits processors give zero.
#[inline(always)]
pub(crate) fn byte_swap<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let value = T::get(cpu, op.dst).zero_extended();
    let swapped = match T::BITS {
        64 => value.swap_bytes(),
        32 => value.swap_bytes() >> 32,
        _ => 0,
    };
    T::low(swapped).set(cpu, op.dst);
    Ok(Flow::Next)
}

/// The condition whose number is in `op.extra`.
#[inline(always)]
fn condition(cpu: &Cpu, op: &Op) -> bool {
    cpu.flags.holds(Condition::ALL[usize::from(op.extra & 15)])
}

/// CMOVcc: the source is read in any case, and 32 bits clear the upper half in any case.
#[inline(always)]
pub(crate) fn conditional_move<T: Operand, S: Source>(cpu: &mut Cpu, op: &Op) -> Step {
    let value: T = S::read(cpu, op)?;
    let value = if condition(cpu, op) {
        value
    } else {
        T::get(cpu, op.dst)
    };
    value.set(cpu, op.dst);
    Ok(Flow::Next)
}

/// SETcc.
#[inline(always)]
pub(crate) fn set_on_condition<P: Place>(cpu: &mut Cpu, op: &Op) -> Step {
    let value = u8::from(condition(cpu, op));
    P::write(cpu, op, value)?;
    Ok(Flow::Next)
}

/// NOP, hints and fences: memory accesses happen in order anyway.
#[inline(always)]
pub(crate) fn nothing(_cpu: &mut Cpu, _op: &Op) -> Step {
    Ok(Flow::Next)
}

/// CLFLUSH: faults as a load.
#[inline(always)]
pub(crate) fn touch(cpu: &mut Cpu, op: &Op) -> Step {
    let address = cpu.address(op);
    cpu.load::<u8>(address)?;
    Ok(Flow::Next)
}

/// XLATB.
#[inline(always)]
pub(crate) fn translate(cpu: &mut Cpu, op: &Op) -> Step {
    let moved = Op {
        base: 3,
        index: crate::op::ZERO,
        disp: u64::from(u8::get(cpu, 0)),
        ..*op
    };
    let address = cpu.address(&moved);
    let value: u8 = cpu.load(address)?;
    value.set(cpu, 0);
    Ok(Flow::Next)
}

/// MOV to a segment register.
#[inline(always)]
pub(crate) fn load_segment<S: Source>(cpu: &mut Cpu, op: &Op) -> Step {
    let selector: u16 = S::read(cpu, op)?;
    let slot = usize::from(op.dst & 7);
    if slot == CS || slot > 5 {
        return Err(cpu.raise(UD, None));
    }
    cpu.load_segment(slot, selector)?;
    after_segment(cpu, slot);
    cpu.leave(op)
}

/// After a load of SS no interrupt comes before the next instruction.
pub(crate) fn after_segment(cpu: &mut Cpu, slot: usize) {
    if slot == SS {
        cpu.shadow = true;
        cpu.interrupts_enabled();
    }
}

/// MOV from a segment register.
#[inline(always)]
pub(crate) fn store_segment<T: Operand, P: Place>(cpu: &mut Cpu, op: &Op) -> Step {
    let selector = cpu.segments[usize::from(op.extra).min(5)].selector;
    P::write(cpu, op, T::low(u64::from(selector)))?;
    Ok(Flow::Next)
}

impl Cpu {
    /// Ends the block after `op`: execution goes on with the next instruction.
    #[inline(always)]
    pub(crate) fn leave(&mut self, op: &Op) -> Result<Flow, Fault> {
        self.rip = self.regs[usize::from(crate::op::RIP)].wrapping_add(u64::from(op.next()));
        Ok(Flow::Leave)
    }
}
