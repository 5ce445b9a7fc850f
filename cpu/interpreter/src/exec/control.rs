//! Near branches.

use atoll_x86::flags::Condition;

use crate::cpu::{Cpu, RSP};
use crate::exception::GP;
use crate::memory::bytes_of;
use crate::op::{Flow, Handler, Op, RIP, Step, op};
use crate::operand::{Operand, Source};

/// The address `offset` behind the block's start, wrapped as `op` says.
#[inline(always)]
fn near(cpu: &Cpu, op: &Op, offset: u64) -> u64 {
    let target = cpu.regs[usize::from(RIP)].wrapping_add(offset);
    match op.wrap {
        0 => target,
        3 => target & 0xFFFF,
        _ => target & 0xFFFF_FFFF,
    }
}

/// The end of a block without a branch.
#[inline(always)]
pub(crate) fn fall_through(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.leave(op)
}

/// JMP to an immediate.
#[inline(always)]
pub(crate) fn jump(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.rip = near(cpu, op, op.imm);
    Ok(Flow::Leave)
}

#[inline(always)]
fn conditional<const CONDITION: usize>(cpu: &mut Cpu, op: &Op) -> Step {
    let taken = cpu.flags.holds(const { Condition::ALL[CONDITION] });
    cpu.rip = if taken {
        near(cpu, op, op.imm)
    } else {
        near(cpu, op, u64::from(op.next()))
    };
    Ok(Flow::Leave)
}

/// Jcc, by condition number.
pub(crate) const CONDITIONAL: [Handler; 16] = [
    op!(conditional::<0>),
    op!(conditional::<1>),
    op!(conditional::<2>),
    op!(conditional::<3>),
    op!(conditional::<4>),
    op!(conditional::<5>),
    op!(conditional::<6>),
    op!(conditional::<7>),
    op!(conditional::<8>),
    op!(conditional::<9>),
    op!(conditional::<10>),
    op!(conditional::<11>),
    op!(conditional::<12>),
    op!(conditional::<13>),
    op!(conditional::<14>),
    op!(conditional::<15>),
];

/// JMP to an operand.
#[inline(always)]
pub(crate) fn jump_to<T: Operand, S: Source>(cpu: &mut Cpu, op: &Op) -> Step {
    let target: T = S::read(cpu, op)?;
    cpu.rip = check(cpu, target.zero_extended())?;
    Ok(Flow::Leave)
}

/// A branch to an address that is not canonical faults at the branch.
#[inline(always)]
fn check(cpu: &mut Cpu, target: u64) -> Result<u64, crate::op::Fault> {
    if cpu.is_canonical(target) {
        Ok(target)
    } else {
        Err(cpu.raise(GP, Some(0)))
    }
}

/// CALL to an immediate in 64-bit mode.
#[inline(always)]
pub(crate) fn call_64(cpu: &mut Cpu, op: &Op) -> Step {
    let base = cpu.regs[usize::from(RIP)];
    let pointer = cpu.regs[RSP].wrapping_sub(8);
    cpu.store(pointer, base.wrapping_add(u64::from(op.next())))?;
    cpu.regs[RSP] = pointer;
    cpu.rip = base.wrapping_add(op.imm);
    Ok(Flow::Leave)
}

/// CALL to an immediate.
#[inline(always)]
pub(crate) fn call<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let next = near(cpu, op, u64::from(op.next()));
    cpu.push(T::low(next))?;
    cpu.rip = near(cpu, op, op.imm);
    Ok(Flow::Leave)
}

/// CALL to an operand.
#[inline(always)]
pub(crate) fn call_to<T: Operand, S: Source>(cpu: &mut Cpu, op: &Op) -> Step {
    let target: T = S::read(cpu, op)?;
    let target = check(cpu, target.zero_extended())?;
    let next = cpu.regs[usize::from(RIP)].wrapping_add(u64::from(op.next()));
    cpu.push(T::low(next))?;
    cpu.rip = target;
    Ok(Flow::Leave)
}

/// RET in 64-bit mode.
#[inline(always)]
pub(crate) fn ret_64(cpu: &mut Cpu, op: &Op) -> Step {
    let pointer = cpu.regs[RSP];
    let target: u64 = cpu.load(pointer)?;
    cpu.rip = check(cpu, target)?;
    cpu.regs[RSP] = pointer.wrapping_add(8).wrapping_add(op.imm);
    Ok(Flow::Leave)
}

/// RET.
#[inline(always)]
pub(crate) fn ret<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let target: T = cpu.peek(0)?;
    cpu.set_stack(
        cpu.regs[RSP]
            .wrapping_add(bytes_of::<T>())
            .wrapping_add(op.imm),
    );
    cpu.rip = target.zero_extended();
    Ok(Flow::Leave)
}

/// The counter of LOOP and JrCXZ: RCX, ECX or CX, as `op.dst` says in bytes.
fn counter(cpu: &Cpu, op: &Op) -> u64 {
    match op.dst {
        8 => cpu.regs[1],
        4 => cpu.regs[1] & 0xFFFF_FFFF,
        _ => cpu.regs[1] & 0xFFFF,
    }
}

/// LOOP (0), LOOPE (1), LOOPNE (2).
#[inline(always)]
pub(crate) fn count<const WHICH: u8>(cpu: &mut Cpu, op: &Op) -> Step {
    let left = counter(cpu, op).wrapping_sub(1);
    match op.dst {
        8 => cpu.regs[1] = left,
        4 => cpu.regs[1] = left & 0xFFFF_FFFF,
        _ => (left as u16).set(cpu, 1),
    }
    let goes_on = match WHICH {
        0 => true,
        1 => cpu.flags.zero(),
        _ => !cpu.flags.zero(),
    };
    let taken = counter(cpu, op) != 0 && goes_on;
    cpu.rip = near(cpu, op, if taken { op.imm } else { u64::from(op.next()) });
    Ok(Flow::Leave)
}

/// JRCXZ, JECXZ, JCXZ.
#[inline(always)]
pub(crate) fn jump_if_zero(cpu: &mut Cpu, op: &Op) -> Step {
    let taken = counter(cpu, op) == 0;
    cpu.rip = near(cpu, op, if taken { op.imm } else { u64::from(op.next()) });
    Ok(Flow::Leave)
}
