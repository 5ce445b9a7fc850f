//! Single bits and bit scans.

use atoll_x86::alu;
use atoll_x86::flags::Flags;

use crate::cpu::Cpu;
use crate::memory::bytes_of;
use crate::op::{Flow, Op, Step};
use crate::operand::{Dst, Operand, Place, Source};

/// What becomes of the bit tested.
pub(crate) trait Change {
    /// Whether anything is written.
    const WRITES: bool;
    /// The value with the bit `mask` changed.
    fn apply<T: Operand>(value: T, mask: T) -> T;
}

/// BT.
pub(crate) struct Test;
/// BTS.
pub(crate) struct Set;
/// BTR.
pub(crate) struct Reset;
/// BTC.
pub(crate) struct Complement;

impl Change for Test {
    const WRITES: bool = false;
    fn apply<T: Operand>(value: T, _mask: T) -> T {
        value
    }
}

impl Change for Set {
    const WRITES: bool = true;
    fn apply<T: Operand>(value: T, mask: T) -> T {
        value | mask
    }
}

impl Change for Reset {
    const WRITES: bool = true;
    fn apply<T: Operand>(value: T, mask: T) -> T {
        value & !mask
    }
}

impl Change for Complement {
    const WRITES: bool = true;
    fn apply<T: Operand>(value: T, mask: T) -> T {
        value ^ mask
    }
}

#[inline(always)]
fn mask<T: Operand>(index: u64) -> T {
    T::low(1 << (index % u64::from(T::BITS)))
}

fn change<B: Change, T: Operand>(value: T, mask: T, flags: &mut Flags) -> T {
    flags.set_carry(value & mask != T::ZERO);
    B::apply(value, mask)
}

/// On a register.
#[inline(always)]
pub(crate) fn register<B: Change, T: Operand, S: Source>(cpu: &mut Cpu, op: &Op) -> Step {
    let index: T = S::read(cpu, op)?;
    let mask = mask(index.zero_extended());
    if !B::WRITES {
        let value = T::get(cpu, op.dst);
        cpu.flags.set_carry(value & mask != T::ZERO);
        return Ok(Flow::Next);
    }
    Dst::update::<T, false>(cpu, op, |value, flags| change::<B, T>(value, mask, flags))?;
    Ok(Flow::Next)
}

fn in_memory<B: Change, T: Operand, const LOCK: bool>(
    cpu: &mut Cpu,
    address: u64,
    mask: T,
) -> Step {
    if B::WRITES {
        cpu.modify::<T, LOCK>(address, |value, flags| change::<B, T>(value, mask, flags))?;
    } else {
        let value: T = cpu.load(address)?;
        cpu.flags.set_carry(value & mask != T::ZERO);
    }
    Ok(Flow::Next)
}

/// On memory, by an immediate: within the operand.
#[inline(always)]
pub(crate) fn memory_immediate<B: Change, T: Operand, const LOCK: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Step {
    let address = cpu.address(op);
    in_memory::<B, T, LOCK>(cpu, address, mask(op.imm))
}

/// On memory, by a register: a bit string that begins at the operand and may reach far before and behind it.
#[inline(always)]
pub(crate) fn memory_register<B: Change, T: Operand, const LOCK: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Step {
    let index = T::get(cpu, op.src).sign_extended();
    let element = index.cast_signed() >> T::BITS.trailing_zeros();
    let moved = Op {
        disp: op
            .disp
            .wrapping_add(element.cast_unsigned().wrapping_mul(bytes_of::<T>())),
        ..*op
    };
    let address = cpu.address(&moved);
    in_memory::<B, T, LOCK>(cpu, address, mask(index))
}

/// A scan for bits.
pub(crate) trait Scan {
    /// The value for the destination; `None` leaves it.
    fn apply<T: Operand>(value: T, flags: &mut Flags) -> Option<T>;
}

/// BSF.
pub(crate) struct ScanForward;
/// BSR.
pub(crate) struct ScanReverse;
/// POPCNT.
pub(crate) struct Population;

impl Scan for ScanForward {
    fn apply<T: Operand>(value: T, flags: &mut Flags) -> Option<T> {
        alu::bit_scan_forward(value, flags).map(|index| T::low(u64::from(index)))
    }
}

impl Scan for ScanReverse {
    fn apply<T: Operand>(value: T, flags: &mut Flags) -> Option<T> {
        alu::bit_scan_reverse(value, flags).map(|index| T::low(u64::from(index)))
    }
}

impl Scan for Population {
    fn apply<T: Operand>(value: T, flags: &mut Flags) -> Option<T> {
        Some(alu::population_count(value, flags))
    }
}

/// BSF, BSR, POPCNT. A scan of zero leaves the destination as it was, as processors do.
#[inline(always)]
pub(crate) fn scan<S: Scan, T: Operand, P: Source>(cpu: &mut Cpu, op: &Op) -> Step {
    let value: T = P::read(cpu, op)?;
    if let Some(result) = S::apply(value, &mut cpu.flags) {
        result.set(cpu, op.dst);
    }
    Ok(Flow::Next)
}
