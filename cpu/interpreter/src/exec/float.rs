//! SSE floating-point instructions: operands, MXCSR, exceptions. What they compute, `atoll_x86::float` says.

use std::cmp::Ordering;

use atoll_x86::flags::{CF, Flags, PF, ZF};
use atoll_x86::float::SimdException;
use atoll_x86::simd::{Mmx, Xmm};

use crate::cpu::Cpu;
use crate::exec::vector::Width;
use crate::op::{Fault, Flow, Op, Step};
use crate::operand::{Operand, Source};

/// What a computation gives: its result, or an exception that is not masked.
type Computed<T> = Result<T, SimdException>;

/// Lets `f` compute under MXCSR.
#[inline(always)]
fn under_mxcsr<T>(cpu: &mut Cpu, f: impl FnOnce(&mut u32) -> Computed<T>) -> Result<T, Fault> {
    let mut mxcsr = cpu.fpu.mxcsr;
    let result = f(&mut mxcsr);
    cpu.fpu.mxcsr = mxcsr;
    result.map_err(|SimdException| cpu.simd_exception())
}

/// `dst = f(dst, src, immediate)` of XMM registers.
#[inline(always)]
pub(crate) fn register(
    cpu: &mut Cpu,
    op: &Op,
    f: impl Fn(Xmm, Xmm, u8, &mut u32) -> Computed<Xmm>,
) -> Step {
    cpu.require_vectors()?;
    let (a, b) = (cpu.xmm(op.dst), cpu.xmm(op.src));
    let result = under_mxcsr(cpu, |mxcsr| f(a, b, op.imm as u8, mxcsr))?;
    cpu.set_xmm(op.dst, result);
    Ok(Flow::Next)
}

/// `dst = f(dst, memory, immediate)`.
#[inline(always)]
pub(crate) fn memory<W: Width>(
    cpu: &mut Cpu,
    op: &Op,
    f: impl Fn(Xmm, Xmm, u8, &mut u32) -> Computed<Xmm>,
) -> Step {
    cpu.require_vectors()?;
    let b = W::load(cpu, cpu.address(op))?;
    let a = cpu.xmm(op.dst);
    let result = under_mxcsr(cpu, |mxcsr| f(a, b, op.imm as u8, mxcsr))?;
    cpu.set_xmm(op.dst, result);
    Ok(Flow::Next)
}

/// The source of an instruction: a register, or memory as wide as `W`.
#[inline(always)]
fn source<W: Width, const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Result<Xmm, Fault> {
    cpu.require_vectors()?;
    if MEMORY {
        W::load(cpu, cpu.address(op))
    } else {
        Ok(cpu.xmm(op.src))
    }
}

/// COMISS and its like: flags of a comparison.
#[inline(always)]
pub(crate) fn compare<W: Width, const MEMORY: bool>(
    cpu: &mut Cpu,
    op: &Op,
    f: impl Fn(Xmm, Xmm, &mut u32) -> Computed<Option<Ordering>>,
) -> Step {
    let b = source::<W, MEMORY>(cpu, op)?;
    let a = cpu.xmm(op.dst);
    let ordering = under_mxcsr(cpu, |mxcsr| f(a, b, mxcsr))?;
    cpu.flags = Flags::from_bits(match ordering {
        None => ZF | PF | CF,
        Some(Ordering::Less) => CF,
        Some(Ordering::Equal) => ZF,
        Some(Ordering::Greater) => 0,
    });
    Ok(Flow::Next)
}

/// A conversion into a general register of type `T`.
#[inline(always)]
pub(crate) fn to_general<T: Operand, W: Width, const MEMORY: bool>(
    cpu: &mut Cpu,
    op: &Op,
    f: impl Fn(Xmm, &mut u32) -> Computed<i64>,
) -> Step {
    let from = source::<W, MEMORY>(cpu, op)?;
    let value = under_mxcsr(cpu, |mxcsr| f(from, mxcsr))?;
    T::low(value.cast_unsigned()).set(cpu, op.dst);
    Ok(Flow::Next)
}

/// A conversion of a signed integer of type `T` in a general register or memory.
#[inline(always)]
pub(crate) fn from_general<T: Operand, S: Source>(
    cpu: &mut Cpu,
    op: &Op,
    f: impl Fn(Xmm, i64, &mut u32) -> Computed<Xmm>,
) -> Step {
    cpu.require_vectors()?;
    let value: T = S::read(cpu, op)?;
    let value = value.sign_extended().cast_signed();
    let a = cpu.xmm(op.dst);
    let result = under_mxcsr(cpu, |mxcsr| f(a, value, mxcsr))?;
    cpu.set_xmm(op.dst, result);
    Ok(Flow::Next)
}

/// A conversion into an MMX register. The unit is MMX's even when an exception forbids a result.
#[inline(always)]
pub(crate) fn to_mmx<W: Width, const MEMORY: bool>(
    cpu: &mut Cpu,
    op: &Op,
    f: impl Fn(Xmm, &mut u32) -> Computed<Mmx>,
) -> Step {
    cpu.require_vectors()?;
    cpu.require_mmx()?;
    let from = source::<W, MEMORY>(cpu, op)?;
    cpu.fpu.x87.enter_mmx();
    let value = under_mxcsr(cpu, |mxcsr| f(from, mxcsr))?;
    cpu.set_mmx(op.dst, value);
    Ok(Flow::Next)
}

/// CVTPI2PS, CVTPI2PD. With memory they leave the x87 unit alone (Intel SDM vol. 2 "CVTPI2PD"; CVTPI2PS, too, on
/// processors).
#[inline(always)]
pub(crate) fn from_mmx<const MEMORY: bool>(
    cpu: &mut Cpu,
    op: &Op,
    f: impl Fn(Xmm, Mmx, &mut u32) -> Computed<Xmm>,
) -> Step {
    cpu.require_vectors()?;
    let from = if MEMORY {
        Mmx::from(cpu.load::<u64>(cpu.address(op))?)
    } else {
        cpu.require_mmx()?;
        cpu.fpu.x87.enter_mmx();
        cpu.mmx(op.src)
    };
    let a = cpu.xmm(op.dst);
    let result = under_mxcsr(cpu, |mxcsr| f(a, from, mxcsr))?;
    cpu.set_xmm(op.dst, result);
    Ok(Flow::Next)
}
