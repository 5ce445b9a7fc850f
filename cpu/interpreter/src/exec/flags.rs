//! Instructions on flags.

use atoll_x86::alu;
use atoll_x86::flags::{OF, STATUS};

use crate::cpu::{Cpu, DF};
use crate::op::{Flow, Op, Step};
use crate::operand::{HIGH_BYTE, Operand};

/// CLC.
#[inline(always)]
pub(crate) fn clear_carry(cpu: &mut Cpu, _op: &Op) -> Step {
    cpu.flags.set_carry(false);
    Ok(Flow::Next)
}

/// STC.
#[inline(always)]
pub(crate) fn set_carry(cpu: &mut Cpu, _op: &Op) -> Step {
    cpu.flags.set_carry(true);
    Ok(Flow::Next)
}

/// CMC.
#[inline(always)]
pub(crate) fn complement_carry(cpu: &mut Cpu, _op: &Op) -> Step {
    let carry = cpu.flags.carry();
    cpu.flags.set_carry(!carry);
    Ok(Flow::Next)
}

/// CLD.
#[inline(always)]
pub(crate) fn clear_direction(cpu: &mut Cpu, _op: &Op) -> Step {
    cpu.system_flags &= !DF;
    Ok(Flow::Next)
}

/// STD.
#[inline(always)]
pub(crate) fn set_direction(cpu: &mut Cpu, _op: &Op) -> Step {
    cpu.system_flags |= DF;
    Ok(Flow::Next)
}

/// LAHF.
#[inline(always)]
pub(crate) fn load_ah(cpu: &mut Cpu, _op: &Op) -> Step {
    (cpu.flags.bits() as u8 | 2).set(cpu, HIGH_BYTE);
    Ok(Flow::Next)
}

/// SAHF: all status flags but OF.
#[inline(always)]
pub(crate) fn store_ah(cpu: &mut Cpu, _op: &Op) -> Step {
    let low = u64::from(u8::get(cpu, HIGH_BYTE)) & STATUS & !OF;
    cpu.flags = alu::flags_of(low | cpu.flags.bits() & OF);
    Ok(Flow::Next)
}

/// SALC.
#[inline(always)]
pub(crate) fn set_al_from_carry(cpu: &mut Cpu, _op: &Op) -> Step {
    let value: u8 = if cpu.flags.carry() { 0xFF } else { 0 };
    value.set(cpu, 0);
    Ok(Flow::Next)
}
