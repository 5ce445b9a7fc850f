//! Vector instructions: where their operands come from and where the result goes. What it is, `atoll-x86` says.

use atoll_x86::simd::{Element, Mmx, Xmm};

use crate::cpu::Cpu;
use crate::exception::GP;
use crate::op::{Fault, Flow, Op, Step};
use crate::operand::Operand;

/// How an XMM operand in memory is read.
pub(crate) trait Width {
    /// Reads it; what is not in memory is zero.
    fn load(cpu: &mut Cpu, address: u64) -> Result<Xmm, Fault>;
}

/// 16 bytes, aligned.
pub(crate) struct Aligned;
/// 16 bytes, at any address.
pub(crate) struct Unaligned;
/// An integer's bytes, at any address.
pub(crate) struct Low<T>(std::marker::PhantomData<T>);

impl Width for Aligned {
    #[inline(always)]
    fn load(cpu: &mut Cpu, address: u64) -> Result<Xmm, Fault> {
        if address & 15 != 0 {
            return Err(cpu.raise(GP, Some(0)));
        }
        Ok(cpu.load_u128(address)?.into())
    }
}

impl Width for Unaligned {
    #[inline(always)]
    fn load(cpu: &mut Cpu, address: u64) -> Result<Xmm, Fault> {
        Ok(cpu.load_u128(address)?.into())
    }
}

impl<T: Operand> Width for Low<T> {
    #[inline(always)]
    fn load(cpu: &mut Cpu, address: u64) -> Result<Xmm, Fault> {
        Ok(u128::from(cpu.load::<T>(address)?.zero_extended()).into())
    }
}

/// `dst = f(dst, src, immediate)` of XMM registers.
#[inline(always)]
pub(crate) fn xmm_register(cpu: &mut Cpu, op: &Op, f: impl Fn(Xmm, Xmm, u8) -> Xmm) -> Step {
    cpu.require_vectors()?;
    let result = f(cpu.xmm(op.dst), cpu.xmm(op.src), op.imm as u8);
    cpu.set_xmm(op.dst, result);
    Ok(Flow::Next)
}

/// `dst = f(dst, memory, immediate)`.
#[inline(always)]
pub(crate) fn xmm_memory<W: Width>(
    cpu: &mut Cpu,
    op: &Op,
    f: impl Fn(Xmm, Xmm, u8) -> Xmm,
) -> Step {
    cpu.require_vectors()?;
    let source = W::load(cpu, cpu.address(op))?;
    let result = f(cpu.xmm(op.dst), source, op.imm as u8);
    cpu.set_xmm(op.dst, result);
    Ok(Flow::Next)
}

/// The same with MMX registers.
#[inline(always)]
pub(crate) fn mmx_register(cpu: &mut Cpu, op: &Op, f: impl Fn(Mmx, Mmx, u8) -> Mmx) -> Step {
    cpu.require_mmx()?;
    let result = f(cpu.mmx(op.dst), cpu.mmx(op.src), op.imm as u8);
    cpu.fpu.x87.enter_mmx();
    cpu.set_mmx(op.dst, result);
    Ok(Flow::Next)
}

/// The same with an MMX register and a `T` in memory.
#[inline(always)]
pub(crate) fn mmx_memory<T: Operand>(
    cpu: &mut Cpu,
    op: &Op,
    f: impl Fn(Mmx, Mmx, u8) -> Mmx,
) -> Step {
    cpu.require_mmx()?;
    let source: T = cpu.load(cpu.address(op))?;
    let result = f(cpu.mmx(op.dst), source.zero_extended().into(), op.imm as u8);
    cpu.fpu.x87.enter_mmx();
    cpu.set_mmx(op.dst, result);
    Ok(Flow::Next)
}

/// Stores an XMM register whole, to an aligned address where `ALIGNED`.
#[inline(always)]
pub(crate) fn store<const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_vectors()?;
    let address = cpu.address(op);
    if ALIGNED && address & 15 != 0 {
        return Err(cpu.raise(GP, Some(0)));
    }
    let value = cpu.xmm(op.src);
    cpu.store_u128(address, value.into())?;
    Ok(Flow::Next)
}

/// Stores element `INDEX` of an XMM register.
#[inline(always)]
pub(crate) fn store_element<T: Operand + Element, const INDEX: usize>(
    cpu: &mut Cpu,
    op: &Op,
) -> Step {
    cpu.require_vectors()?;
    let value: T = cpu.xmm(op.src).get(INDEX);
    cpu.store(cpu.address(op), value)?;
    Ok(Flow::Next)
}

/// Stores an MMX register. The stack's top is 0 even when the store faults, as processors have it.
#[inline(always)]
pub(crate) fn store_mmx<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_mmx()?;
    let value = T::low(cpu.mmx(op.src).into());
    cpu.fpu.x87.set_top(0);
    cpu.store(cpu.address(op), value)?;
    cpu.fpu.x87.enter_mmx();
    Ok(Flow::Next)
}

/// MOVD, MOVQ from a general register to an XMM register.
#[inline(always)]
pub(crate) fn from_general<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_vectors()?;
    let value = T::get(cpu, op.src).zero_extended();
    cpu.set_xmm(op.dst, u128::from(value).into());
    Ok(Flow::Next)
}

/// MOVD, MOVQ from an XMM register to a general register.
#[inline(always)]
pub(crate) fn to_general<T: Operand + Element>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_vectors()?;
    cpu.xmm(op.src).get::<T>(0).set(cpu, op.dst);
    Ok(Flow::Next)
}

/// MOVD, MOVQ from a general register to an MMX register.
#[inline(always)]
pub(crate) fn mmx_from_general<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_mmx()?;
    let value = T::get(cpu, op.src).zero_extended();
    cpu.fpu.x87.enter_mmx();
    cpu.set_mmx(op.dst, value.into());
    Ok(Flow::Next)
}

/// MOVD, MOVQ from an MMX register to a general register.
#[inline(always)]
pub(crate) fn mmx_to_general<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_mmx()?;
    cpu.fpu.x87.enter_mmx();
    T::low(cpu.mmx(op.src).into()).set(cpu, op.dst);
    Ok(Flow::Next)
}

/// MOVQ2DQ.
#[inline(always)]
pub(crate) fn mmx_to_xmm(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_vectors()?;
    cpu.require_mmx()?;
    cpu.fpu.x87.enter_mmx();
    let value = u64::from(cpu.mmx(op.src));
    cpu.set_xmm(op.dst, u128::from(value).into());
    Ok(Flow::Next)
}

/// MOVDQ2Q.
#[inline(always)]
pub(crate) fn xmm_to_mmx(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_vectors()?;
    cpu.require_mmx()?;
    cpu.fpu.x87.enter_mmx();
    let value: u64 = cpu.xmm(op.src).get(0);
    cpu.set_mmx(op.dst, value.into());
    Ok(Flow::Next)
}

/// A general register out of an XMM register: PMOVMSKB, MOVMSKPS, MOVMSKPD, PEXTRW.
#[inline(always)]
pub(crate) fn xmm_to_register(cpu: &mut Cpu, op: &Op, f: impl Fn(Xmm, u8) -> u64) -> Step {
    cpu.require_vectors()?;
    let value = f(cpu.xmm(op.src), op.imm as u8);
    value.set(cpu, op.dst);
    Ok(Flow::Next)
}

/// A general register out of an MMX register: PMOVMSKB, PEXTRW.
#[inline(always)]
pub(crate) fn mmx_to_register(cpu: &mut Cpu, op: &Op, f: impl Fn(Mmx, u8) -> u64) -> Step {
    cpu.require_mmx()?;
    cpu.fpu.x87.enter_mmx();
    let value = f(cpu.mmx(op.src), op.imm as u8);
    value.set(cpu, op.dst);
    Ok(Flow::Next)
}

/// Memory out of an XMM register: PEXTRB and its like.
#[inline(always)]
pub(crate) fn xmm_to_memory<T: Operand>(cpu: &mut Cpu, op: &Op, f: impl Fn(Xmm, u8) -> T) -> Step {
    cpu.require_vectors()?;
    let value = f(cpu.xmm(op.src), op.imm as u8);
    cpu.store(cpu.address(op), value)?;
    Ok(Flow::Next)
}

/// PINSRB, PINSRW, PINSRD, PINSRQ from a general register.
#[inline(always)]
pub(crate) fn insert_register<T: Operand>(
    cpu: &mut Cpu,
    op: &Op,
    f: impl Fn(Xmm, T, u8) -> Xmm,
) -> Step {
    cpu.require_vectors()?;
    let element = T::low(u64::get(cpu, op.src));
    let result = f(cpu.xmm(op.dst), element, op.imm as u8);
    cpu.set_xmm(op.dst, result);
    Ok(Flow::Next)
}

/// The same from memory.
#[inline(always)]
pub(crate) fn insert_memory<T: Operand>(
    cpu: &mut Cpu,
    op: &Op,
    f: impl Fn(Xmm, T, u8) -> Xmm,
) -> Step {
    cpu.require_vectors()?;
    let element: T = cpu.load(cpu.address(op))?;
    let result = f(cpu.xmm(op.dst), element, op.imm as u8);
    cpu.set_xmm(op.dst, result);
    Ok(Flow::Next)
}

/// PINSRW into an MMX register from a general register.
#[inline(always)]
pub(crate) fn mmx_insert_register(cpu: &mut Cpu, op: &Op, f: impl Fn(Mmx, u16, u8) -> Mmx) -> Step {
    cpu.require_mmx()?;
    cpu.fpu.x87.enter_mmx();
    let result = f(cpu.mmx(op.dst), u16::get(cpu, op.src), op.imm as u8);
    cpu.set_mmx(op.dst, result);
    Ok(Flow::Next)
}

/// Flags out of two XMM registers: PTEST.
#[inline(always)]
pub(crate) fn test<W: Width, const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_vectors()?;
    let source = if MEMORY {
        W::load(cpu, cpu.address(op))?
    } else {
        cpu.xmm(op.src)
    };
    let (zero, carry) = atoll_x86::simd::arithmetic::ptest(cpu.xmm(op.dst), source);
    cpu.flags = atoll_x86::flags::Flags::from_bits(u64::from(zero) << 6 | u64::from(carry));
    Ok(Flow::Next)
}

/// MASKMOVDQU and MASKMOVQ: stores the bytes of `dst` whose mask byte in `src` is negative at `[rdi]`.
#[inline(always)]
pub(crate) fn masked_store<const MMX: bool>(cpu: &mut Cpu, op: &Op) -> Step {
    let (bytes, mask, count) = if MMX {
        cpu.require_mmx()?;
        cpu.fpu.x87.set_top(0);
        let wide = |value: Mmx| u128::from(u64::from(value)).to_le_bytes();
        (wide(cpu.mmx(op.dst)), wide(cpu.mmx(op.src)), 8)
    } else {
        cpu.require_vectors()?;
        (cpu.xmm(op.dst).0, cpu.xmm(op.src).0, 16)
    };
    let address = cpu.address(op);
    cpu.check_canonical(address, count as u64)?;
    let context = cpu.context;
    let mut index = 0;
    // Runs of bytes, so that nothing outside the mask is touched; all are checked before the first is written.
    let mut runs = [(0, 0); 8];
    let mut used = 0;
    while index < count {
        let start = index;
        while index < count && mask[index] & 0x80 != 0 {
            index += 1;
        }
        if index > start {
            cpu.prepare_write(
                context,
                address.wrapping_add(start as u64),
                (index - start) as u64,
            )?;
            runs[used] = (start, index);
            used += 1;
        }
        index += 1;
    }
    for &(start, end) in &runs[..used] {
        cpu.write_bytes(
            context,
            address.wrapping_add(start as u64),
            &bytes[start..end],
        )?;
    }
    if MMX {
        cpu.fpu.x87.enter_mmx();
    }
    Ok(Flow::Next)
}

/// EMMS.
#[inline(always)]
pub(crate) fn empty_mmx(cpu: &mut Cpu, _op: &Op) -> Step {
    cpu.require_mmx()?;
    cpu.fpu.x87.enter_mmx();
    cpu.fpu.x87.tags = 0;
    Ok(Flow::Next)
}

/// A comparison of strings: PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM.
#[inline(always)]
pub(crate) fn strings<const MEMORY: bool, const MASK: bool>(
    cpu: &mut Cpu,
    op: &Op,
    compare: impl Fn(&Cpu, Xmm, Xmm, u8) -> atoll_x86::simd::text::Matches,
) -> Step {
    cpu.require_vectors()?;
    let second = if MEMORY {
        Unaligned::load(cpu, cpu.address(op))?
    } else {
        cpu.xmm(op.src)
    };
    let found = compare(cpu, cpu.xmm(op.dst), second, op.imm as u8);
    if MASK {
        cpu.set_xmm(0, found.mask());
    } else {
        found.index().set(cpu, 1);
    }
    let bit = |flag: bool, place: u32| u64::from(flag) << place;
    cpu.flags = atoll_x86::flags::Flags::from_bits(
        bit(found.carry, 0) | bit(found.zero, 6) | bit(found.sign, 7) | bit(found.overflow, 11),
    );
    Ok(Flow::Next)
}

/// The lengths in EAX and EDX, or RAX and RDX where `WIDE`.
#[inline(always)]
pub(crate) fn lengths<const WIDE: bool>(cpu: &Cpu) -> (i64, i64) {
    let one = |number| {
        if WIDE {
            u64::get(cpu, number).cast_signed()
        } else {
            i64::from(u32::get(cpu, number).cast_signed())
        }
    };
    (one(0), one(2))
}

/// CRC32 of a general register or memory.
#[inline(always)]
pub(crate) fn crc32<T: Operand, S: crate::operand::Source>(cpu: &mut Cpu, op: &Op) -> Step {
    let source: T = S::read(cpu, op)?;
    let sum = u32::get(cpu, op.dst);
    let sum = atoll_x86::simd::crc::crc32(sum, source.zero_extended(), T::BYTES as usize);
    sum.set(cpu, op.dst);
    Ok(Flow::Next)
}
