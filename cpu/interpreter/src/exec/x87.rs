//! x87 instructions: operands and what a page fault undoes. What they do, `atoll_x86::x87` says.
//!
//! Each waits for pending exceptions, and leaves its address and its operand's offset in the unit. The opcode is not kept:
//! processors keep it for unmasked exceptions only, and nothing asks for it.

use atoll_x86::flags::{Condition, Flags};
use atoll_x86::x87::{Layout, Memory, REGISTERS, X87};

use crate::cpu::Cpu;
use crate::op::{Fault, Flow, Op, RIP, Step};
use crate::operand::Operand;

/// An operand in memory: how it is read.
pub(crate) trait Loaded {
    /// Reads it.
    fn load(cpu: &mut Cpu, address: u64) -> Result<Memory, Fault>;
}

/// Single precision.
pub(crate) struct Single;
/// Double precision.
pub(crate) struct Double;
/// A signed integer as wide as `T`.
pub(crate) struct Integer<T>(std::marker::PhantomData<T>);
/// 18 decimal digits.
pub(crate) struct Decimal;

impl Loaded for Single {
    #[inline(always)]
    fn load(cpu: &mut Cpu, address: u64) -> Result<Memory, Fault> {
        Ok(Memory::single(cpu.load(address)?))
    }
}

impl Loaded for Double {
    #[inline(always)]
    fn load(cpu: &mut Cpu, address: u64) -> Result<Memory, Fault> {
        Ok(Memory::double(cpu.load(address)?))
    }
}

impl<T: Operand> Loaded for Integer<T> {
    #[inline(always)]
    fn load(cpu: &mut Cpu, address: u64) -> Result<Memory, Fault> {
        let value: T = cpu.load(address)?;
        Ok(Memory::integer(value.sign_extended().cast_signed()))
    }
}

impl Loaded for Decimal {
    fn load(cpu: &mut Cpu, address: u64) -> Result<Memory, Fault> {
        let bytes = load_80(cpu, address)?.to_le_bytes();
        Ok(Memory::decimal(std::array::from_fn(|index| bytes[index])))
    }
}

/// Loads 80 bits.
fn load_80(cpu: &mut Cpu, address: u64) -> Result<u128, Fault> {
    let low: u64 = cpu.load(address)?;
    let high: u16 = cpu.load(address.wrapping_add(8))?;
    Ok(u128::from(high) << 64 | u128::from(low))
}

/// Stores 80 bits, the significand first: that is there even when the rest faults, as processors have it.
pub(crate) fn store_80(cpu: &mut Cpu, address: u64, value: u128) -> Result<(), Fault> {
    cpu.store(address, value as u64)?;
    cpu.store(address.wrapping_add(8), (value >> 64) as u16)
}

/// Leaves the instruction's address in the unit.
#[inline(always)]
fn note(cpu: &mut Cpu, op: &Op) {
    cpu.fpu.x87.instruction = cpu.regs[usize::from(RIP)].wrapping_add(u64::from(op.offset));
}

/// Leaves the memory operand's offset in the unit, too.
#[inline(always)]
fn note_operand(cpu: &mut Cpu, op: &Op) {
    note(cpu, op);
    cpu.fpu.x87.operand = cpu.effective_address(op);
}

/// `f` of the unit and the numbers of the destination and source registers.
#[inline(always)]
pub(crate) fn registers(cpu: &mut Cpu, op: &Op, f: impl FnOnce(&mut X87, usize, usize)) -> Step {
    cpu.require_x87_idle()?;
    note(cpu, op);
    f(
        &mut cpu.fpu.x87,
        usize::from(op.dst & 7),
        usize::from(op.src & 7),
    );
    Ok(Flow::Next)
}

/// `f` of the unit and a memory operand.
#[inline(always)]
pub(crate) fn memory<L: Loaded>(cpu: &mut Cpu, op: &Op, f: impl FnOnce(&mut X87, Memory)) -> Step {
    cpu.require_x87_idle()?;
    let operand = L::load(cpu, cpu.address(op))?;
    note_operand(cpu, op);
    f(&mut cpu.fpu.x87, operand);
    Ok(Flow::Next)
}

/// FLD m80.
pub(crate) fn load_extended(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_x87_idle()?;
    let bits = load_80(cpu, cpu.address(op))?;
    note_operand(cpu, op);
    cpu.fpu.x87.load_extended(bits);
    Ok(Flow::Next)
}

/// Stores what `take` gives by `write`, then pops where `POP`. A fault of the store leaves the unit as it was.
#[inline(always)]
pub(crate) fn store<V, const POP: bool>(
    cpu: &mut Cpu,
    op: &Op,
    take: impl FnOnce(&mut X87) -> Option<V>,
    write: impl FnOnce(&mut Cpu, u64, V) -> Result<(), Fault>,
) -> Step {
    cpu.require_x87_idle()?;
    let status = cpu.fpu.x87.status;
    if let Some(value) = take(&mut cpu.fpu.x87) {
        let address = cpu.address(op);
        if let Err(fault) = write(cpu, address, value) {
            cpu.fpu.x87.status = status;
            return Err(fault);
        }
        if POP {
            cpu.fpu.x87.pop();
        }
    }
    note_operand(cpu, op);
    Ok(Flow::Next)
}

/// FCOMI and its like.
#[inline(always)]
pub(crate) fn compare_into_flags<const QUIET: bool, const POP: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Step {
    cpu.require_x87_idle()?;
    note(cpu, op);
    let index = usize::from(op.src & 7);
    let flags = cpu.fpu.x87.compare_into_flags(index, QUIET, POP);
    cpu.flags = Flags::from_bits(flags);
    Ok(Flow::Next)
}

/// FCMOVcc.
#[inline(always)]
pub(crate) fn move_if(cpu: &mut Cpu, op: &Op, condition: Condition) -> Step {
    let holds = cpu.flags.holds(condition);
    registers(cpu, op, |unit, _, source| unit.move_if(holds, source))
}

/// FNOP.
pub(crate) fn nothing(cpu: &mut Cpu, _op: &Op) -> Step {
    cpu.require_x87_idle()?;
    Ok(Flow::Next)
}

/// FNENI, FNDISI, FNSETPM: nothing since the 387.
pub(crate) fn obsolete(cpu: &mut Cpu, _op: &Op) -> Step {
    cpu.require_x87()?;
    Ok(Flow::Next)
}

fn layout<const WIDE: bool>(cpu: &Cpu) -> Layout {
    Layout {
        wide: WIDE,
        real: !cpu.is_protected(),
    }
}

/// FNSTENV: masks all exceptions afterwards.
pub(crate) fn store_environment<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_x87()?;
    let layout = layout::<WIDE>(cpu);
    let image = cpu.fpu.x87.environment(layout);
    cpu.write_bytes(cpu.context, cpu.address(op), &image[..layout.bytes()])?;
    cpu.fpu.x87.control |= 0x3F;
    cpu.fpu.x87.summarise();
    Ok(Flow::Next)
}

/// FLDENV.
pub(crate) fn load_environment<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_x87_idle()?;
    let layout = layout::<WIDE>(cpu);
    let mut image = [0; 28];
    let bytes = &mut image[..layout.bytes()];
    cpu.read_bytes(cpu.context, cpu.address(op), bytes)?;
    cpu.fpu.x87.load_environment(bytes, layout);
    Ok(Flow::Next)
}

/// FNSAVE: initialises the unit afterwards.
pub(crate) fn save<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_x87()?;
    let layout = layout::<WIDE>(cpu);
    let head = layout.bytes();
    let mut image = [0; 28 + REGISTERS];
    image[..head].copy_from_slice(&cpu.fpu.x87.environment(layout)[..head]);
    image[head..head + REGISTERS].copy_from_slice(&cpu.fpu.x87.stack_image());
    cpu.write_bytes(cpu.context, cpu.address(op), &image[..head + REGISTERS])?;
    cpu.fpu.x87.initialise();
    Ok(Flow::Next)
}

/// FRSTOR.
pub(crate) fn restore<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.require_x87_idle()?;
    let layout = layout::<WIDE>(cpu);
    let head = layout.bytes();
    let mut image = [0; 28 + REGISTERS];
    cpu.read_bytes(cpu.context, cpu.address(op), &mut image[..head + REGISTERS])?;
    let mut stack = [0; REGISTERS];
    stack.copy_from_slice(&image[head..head + REGISTERS]);
    cpu.fpu.x87.load_environment(&image[..head], layout);
    cpu.fpu.x87.load_stack_image(&stack);
    Ok(Flow::Next)
}
