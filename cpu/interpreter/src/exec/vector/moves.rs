//! Moves of whole vectors and of their halves.

use atoll_x86::simd::{Vector, Xmm};

use super::{File, MmxFile, XmmFile, zero_extended};
use crate::cpu::Cpu;
use crate::op::{Fault, Flow, Op, Step};
use crate::operand::Operand;

/// MOVAPS, MOVUPS and the like between registers.
pub(crate) fn registers(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_sse()?;
    cpu.fpu.xmm[usize::from(op.dst & 15)] = cpu.fpu.xmm[usize::from(op.src & 15)];
    Ok(Flow::Next)
}

fn place<const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Result<u64, Fault> {
    if ALIGNED {
        cpu.aligned_address(op)
    } else {
        Ok(cpu.address(op))
    }
}

/// A load of 16 bytes.
pub(crate) fn load<const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_sse()?;
    let address = place::<ALIGNED>(cpu, op)?;
    cpu.fpu.xmm[usize::from(op.dst & 15)] = cpu.load_u128(address)?;
    Ok(Flow::Next)
}

/// A store of 16 bytes.
pub(crate) fn store<const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_sse()?;
    let address = place::<ALIGNED>(cpu, op)?;
    cpu.store_u128(address, cpu.fpu.xmm[usize::from(op.src & 15)])?;
    Ok(Flow::Next)
}

/// MOVSS, MOVSD between registers: the low element only.
pub(crate) fn merge_low<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_sse()?;
    let mask = u128::from(u64::MAX >> (64 - T::BITS));
    let source = cpu.fpu.xmm[usize::from(op.src & 15)];
    let target = &mut cpu.fpu.xmm[usize::from(op.dst & 15)];
    *target = (*target & !mask) | source & mask;
    Ok(Flow::Next)
}

/// MOVSS, MOVSD, MOVQ, MOVD from memory: the rest becomes zero.
pub(crate) fn load_low<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_sse()?;
    let address = cpu.address(op);
    let value: T = cpu.load(address)?;
    XmmFile::set(cpu, op.dst, zero_extended(value.zero_extended()));
    Ok(Flow::Next)
}

/// MOVSS, MOVSD, MOVQ, MOVD, MOVLPS to memory.
pub(crate) fn store_low<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_sse()?;
    let address = cpu.address(op);
    cpu.store(
        address,
        T::low(cpu.fpu.xmm[usize::from(op.src & 15)] as u64),
    )?;
    Ok(Flow::Next)
}

/// MOVQ between XMM registers.
pub(crate) fn low_register(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_sse()?;
    let value = cpu.fpu.xmm[usize::from(op.src & 15)] as u64;
    XmmFile::set(cpu, op.dst, zero_extended(value));
    Ok(Flow::Next)
}

/// MOVD, MOVQ from a general register.
pub(crate) fn from_general<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_sse()?;
    let value = T::get(cpu, op.src).zero_extended();
    XmmFile::set(cpu, op.dst, zero_extended(value));
    Ok(Flow::Next)
}

/// MOVD, MOVQ to a general register.
pub(crate) fn to_general<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_sse()?;
    T::low(cpu.fpu.xmm[usize::from(op.src & 15)] as u64).set(cpu, op.dst);
    Ok(Flow::Next)
}

fn set_half(cpu: &mut Cpu, op: &Op, half: usize, value: u64) {
    let register: Xmm = XmmFile::get(cpu, op.dst).with(half, value);
    XmmFile::set(cpu, op.dst, register);
}

/// MOVLPS (0), MOVHPS (1) from memory.
pub(crate) fn load_half<const HALF: usize>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_sse()?;
    let address = cpu.address(op);
    let value = cpu.load(address)?;
    set_half(cpu, op, HALF, value);
    Ok(Flow::Next)
}

/// MOVHPS to memory.
pub(crate) fn store_high(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_sse()?;
    let address = cpu.address(op);
    cpu.store(
        address,
        (cpu.fpu.xmm[usize::from(op.src & 15)] >> 64) as u64,
    )?;
    Ok(Flow::Next)
}

/// MOVHLPS (from half 1 to 0), MOVLHPS (from half 0 to 1).
pub(crate) fn half_register<const FROM: usize, const TO: usize>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_sse()?;
    let value: u64 = XmmFile::get(cpu, op.src).get(FROM);
    set_half(cpu, op, TO, value);
    Ok(Flow::Next)
}

/// MOVDDUP, MOVSHDUP, MOVSLDUP from registers or memory.
pub(crate) fn duplicate_double_memory(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_sse()?;
    let address = cpu.address(op);
    let value: u64 = cpu.load(address)?;
    XmmFile::set(cpu, op.dst, Vector::build(|_| value));
    Ok(Flow::Next)
}

/// MOVQ between MMX registers.
pub(crate) fn mmx_register(cpu: &mut Cpu, op: &Op) -> Step {
    MmxFile::enter(cpu)?;
    let value = MmxFile::get(cpu, op.src);
    MmxFile::set(cpu, op.dst, value);
    Ok(Flow::Next)
}

/// MOVD, MOVQ from memory to MMX.
pub(crate) fn mmx_load<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    MmxFile::enter(cpu)?;
    let address = cpu.address(op);
    let value: T = cpu.load(address)?;
    MmxFile::set(cpu, op.dst, value.zero_extended().into());
    Ok(Flow::Next)
}

/// MOVD, MOVQ, MOVNTQ from MMX to memory.
pub(crate) fn mmx_store<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    MmxFile::enter(cpu)?;
    let address = cpu.address(op);
    let value = u64::from(MmxFile::get(cpu, op.src));
    cpu.store(address, T::low(value))?;
    Ok(Flow::Next)
}

/// MOVD, MOVQ from a general register to MMX.
pub(crate) fn mmx_from_general<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    MmxFile::enter(cpu)?;
    let value = T::get(cpu, op.src).zero_extended();
    MmxFile::set(cpu, op.dst, value.into());
    Ok(Flow::Next)
}

/// MOVD, MOVQ from MMX to a general register.
pub(crate) fn mmx_to_general<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    MmxFile::enter(cpu)?;
    let value = u64::from(MmxFile::get(cpu, op.src));
    T::low(value).set(cpu, op.dst);
    Ok(Flow::Next)
}

/// MOVDQ2Q.
pub(crate) fn xmm_to_mmx(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_sse()?;
    MmxFile::enter(cpu)?;
    let value = cpu.fpu.xmm[usize::from(op.src & 15)] as u64;
    MmxFile::set(cpu, op.dst, value.into());
    Ok(Flow::Next)
}

/// MOVQ2DQ.
pub(crate) fn mmx_to_xmm(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_sse()?;
    MmxFile::enter(cpu)?;
    let value = u64::from(MmxFile::get(cpu, op.src));
    XmmFile::set(cpu, op.dst, zero_extended(value));
    Ok(Flow::Next)
}
