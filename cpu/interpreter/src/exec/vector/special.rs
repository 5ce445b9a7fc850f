//! String comparisons, tests, masked stores, CRC32.

use atoll_x86::flags::{CF, Flags, OF, SF, ZF};
use atoll_x86::simd::{Mmx, Xmm, arithmetic, crc, text};

use super::{File, MmxFile, XmmFile};
use crate::cpu::Cpu;
use crate::memory::bytes_of;
use crate::op::{Fault, Flow, Op, Step};
use crate::operand::{Operand, Source};

/// The second operand: a register, or memory at any alignment.
fn second<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Result<Xmm, Fault> {
    if !MEMORY {
        return Ok(XmmFile::get(cpu, op.src));
    }
    let address = cpu.address(op);
    Ok(cpu.load_u128(address)?.into())
}

/// PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM. `op.extra` is 1 when the lengths are 64 bits wide.
pub(crate) fn compare_text<const EXPLICIT: bool, const INDEX: bool, const MEMORY: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Step {
    cpu.require_sse()?;
    let (a, b) = (XmmFile::get(cpu, op.dst), second::<MEMORY>(cpu, op)?);
    let control = op.imm as u8;
    let matches = if EXPLICIT {
        let length = |value: u64| {
            if op.extra == 1 {
                value.cast_signed()
            } else {
                i64::from((value as u32).cast_signed())
            }
        };
        text::explicit(a, b, (length(cpu.regs[0]), length(cpu.regs[2])), control)
    } else {
        text::implicit(a, b, control)
    };
    if INDEX {
        matches.index().set(cpu, 1);
    } else {
        XmmFile::set(cpu, 0, matches.mask());
    }
    let bit = |set: bool, flag: u64| if set { flag } else { 0 };
    let bits = bit(matches.carry, CF)
        | bit(matches.zero, ZF)
        | bit(matches.sign, SF)
        | bit(matches.overflow, OF);
    cpu.flags = Flags::from_bits(bits);
    Ok(Flow::Next)
}

/// PTEST.
pub(crate) fn test<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_sse()?;
    let b = if MEMORY {
        XmmFile::load(cpu, op)?
    } else {
        XmmFile::get(cpu, op.src)
    };
    let (zero, carry) = arithmetic::ptest(XmmFile::get(cpu, op.dst), b);
    let bit = |set: bool, flag: u64| if set { flag } else { 0 };
    cpu.flags = Flags::from_bits(bit(zero, ZF) | bit(carry, CF));
    Ok(Flow::Next)
}

/// Stores the bytes of `data` whose mask byte has its top bit set, at `[RDI]`.
fn masked(cpu: &mut Cpu, op: &Op, data: &[u8], mask: &[u8]) -> Result<(), Fault> {
    let base = cpu.address(op);
    // All faults come before any byte is written.
    for (index, mask) in mask.iter().enumerate() {
        if mask & 0x80 != 0 {
            cpu.prepare_write(cpu.context, base.wrapping_add(index as u64), 1)?;
        }
    }
    for (index, (byte, mask)) in data.iter().zip(mask).enumerate() {
        if mask & 0x80 != 0 {
            cpu.store(base.wrapping_add(index as u64), *byte)?;
        }
    }
    Ok(())
}

/// MASKMOVDQU.
pub(crate) fn masked_xmm(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_sse()?;
    let (data, mask) = (XmmFile::get(cpu, op.dst), XmmFile::get(cpu, op.src));
    masked(cpu, op, &data.0, &mask.0)?;
    Ok(Flow::Next)
}

/// MASKMOVQ.
pub(crate) fn masked_mmx(cpu: &mut Cpu, op: &Op) -> Step {
    MmxFile::enter(cpu)?;
    let (data, mask): (Mmx, Mmx) = (MmxFile::get(cpu, op.dst), MmxFile::get(cpu, op.src));
    masked(cpu, op, &data.0, &mask.0)?;
    Ok(Flow::Next)
}

/// CRC32: the destination is written as 32 bits, so its upper half becomes zero.
pub(crate) fn crc32<T: Operand, S: Source>(cpu: &mut Cpu, op: &Op) -> Step {
    let value: T = S::read(cpu, op)?;
    let sum = crc::crc32(
        u32::get(cpu, op.dst),
        value.zero_extended(),
        bytes_of::<T>() as usize,
    );
    sum.set(cpu, op.dst);
    Ok(Flow::Next)
}
