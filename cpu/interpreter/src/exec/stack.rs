//! The stack. RSP changes only when the access has succeeded.

use crate::cpu::{AC, Cpu, DF, ID, IF, IOPL, Mode, NT, RF, RSP, SS, TF, VM};
use crate::exception::GP;
use crate::exec::data::after_segment;
use crate::memory::bytes_of;
use crate::op::{Fault, Flow, Op, Step};
use crate::operand::{Operand, Source};

impl Cpu {
    /// Linear address of `pointer` on the stack.
    #[inline(always)]
    fn stack_address(&self, pointer: u64) -> u64 {
        match self.mode {
            Mode::Bits64 => pointer,
            Mode::Bits32 => self.seg_base[SS].wrapping_add(pointer & 0xFFFF_FFFF) & 0xFFFF_FFFF,
            Mode::Bits16 => self.seg_base[SS].wrapping_add(pointer & 0xFFFF) & 0xFFFF_FFFF,
        }
    }

    /// Sets the stack pointer at the stack's width.
    #[inline(always)]
    pub(crate) fn set_stack(&mut self, pointer: u64) {
        self.regs[RSP] = match self.mode {
            Mode::Bits64 => pointer,
            Mode::Bits32 => pointer & 0xFFFF_FFFF,
            Mode::Bits16 => (self.regs[RSP] & !0xFFFF) | pointer & 0xFFFF,
        };
    }

    /// Pushes a value.
    #[inline(always)]
    pub(crate) fn push<T: Operand>(&mut self, value: T) -> Result<(), Fault> {
        let pointer = self.regs[RSP].wrapping_sub(bytes_of::<T>());
        self.store(self.stack_address(pointer), value)?;
        self.set_stack(pointer);
        Ok(())
    }

    /// Reads the value `skip` bytes above the top of the stack.
    #[inline(always)]
    pub(crate) fn peek<T: Operand>(&mut self, skip: u64) -> Result<T, Fault> {
        let pointer = self.regs[RSP].wrapping_add(skip);
        self.load(self.stack_address(pointer))
    }

    /// Pops a value.
    #[inline(always)]
    pub(crate) fn pop<T: Operand>(&mut self) -> Result<T, Fault> {
        let value = self.peek(0)?;
        self.set_stack(self.regs[RSP].wrapping_add(bytes_of::<T>()));
        Ok(value)
    }
}

/// PUSH of a 64-bit register in 64-bit mode: the commonest.
#[inline(always)]
pub(crate) fn push_register_64(cpu: &mut Cpu, op: &Op) -> Step {
    let value = cpu.regs[usize::from(op.src & 31)];
    let pointer = cpu.regs[RSP].wrapping_sub(8);
    cpu.store(pointer, value)?;
    cpu.regs[RSP] = pointer;
    Ok(Flow::Next)
}

/// POP to a 64-bit register in 64-bit mode.
#[inline(always)]
pub(crate) fn pop_register_64(cpu: &mut Cpu, op: &Op) -> Step {
    let pointer = cpu.regs[RSP];
    let value: u64 = cpu.load(pointer)?;
    cpu.regs[RSP] = pointer.wrapping_add(8);
    cpu.regs[usize::from(op.dst & 31)] = value;
    Ok(Flow::Next)
}

/// PUSH.
#[inline(always)]
pub(crate) fn push<T: Operand, S: Source>(cpu: &mut Cpu, op: &Op) -> Step {
    let value: T = S::read(cpu, op)?;
    cpu.push(value)?;
    Ok(Flow::Next)
}

/// POP to a register.
#[inline(always)]
pub(crate) fn pop_register<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let value: T = cpu.pop()?;
    value.set(cpu, op.dst);
    Ok(Flow::Next)
}

/// POP to memory: an address through RSP is that after the pop.
#[inline(always)]
pub(crate) fn pop_memory<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let before = cpu.regs[RSP];
    let value: T = cpu.pop()?;
    let address = cpu.address(op);
    if let Err(fault) = cpu.store(address, value) {
        cpu.regs[RSP] = before;
        return Err(fault);
    }
    Ok(Flow::Next)
}

/// PUSH of a segment register.
#[inline(always)]
pub(crate) fn push_segment<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let selector = cpu.segments[usize::from(op.extra).min(5)].selector;
    cpu.push(T::low(u64::from(selector)))?;
    Ok(Flow::Next)
}

/// POP to a segment register.
#[inline(always)]
pub(crate) fn pop_segment<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let slot = usize::from(op.extra).min(5);
    let selector: T = cpu.peek(0)?;
    cpu.load_segment(slot, selector.zero_extended() as u16)?;
    cpu.set_stack(cpu.regs[RSP].wrapping_add(bytes_of::<T>()));
    after_segment(cpu, slot);
    cpu.leave(op)
}

/// PUSHA.
#[inline(always)]
pub(crate) fn push_all<T: Operand>(cpu: &mut Cpu, _op: &Op) -> Step {
    let before = cpu.regs[RSP];
    for register in 0..8 {
        let value = if usize::from(register) == RSP {
            T::low(before)
        } else {
            T::get(cpu, register)
        };
        if let Err(fault) = cpu.push(value) {
            cpu.regs[RSP] = before;
            return Err(fault);
        }
    }
    Ok(Flow::Next)
}

/// POPA: SP's place is skipped.
#[inline(always)]
pub(crate) fn pop_all<T: Operand>(cpu: &mut Cpu, _op: &Op) -> Step {
    let mut values = [T::ZERO; 8];
    for (place, value) in values.iter_mut().enumerate() {
        *value = cpu.peek(place as u64 * bytes_of::<T>())?;
    }
    cpu.set_stack(cpu.regs[RSP].wrapping_add(8 * bytes_of::<T>()));
    for register in 0..8 {
        if usize::from(register) != RSP {
            values[7 - usize::from(register)].set(cpu, register);
        }
    }
    Ok(Flow::Next)
}

/// LEAVE.
#[inline(always)]
pub(crate) fn leave<T: Operand>(cpu: &mut Cpu, _op: &Op) -> Step {
    let frame = cpu.regs[5];
    let value: T = cpu.load(cpu.stack_address(frame))?;
    cpu.set_stack(frame.wrapping_add(bytes_of::<T>()));
    value.set(cpu, 5);
    Ok(Flow::Next)
}

/// ENTER.
#[inline(always)]
pub(crate) fn enter<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let (allocate, level) = (op.imm & 0xFFFF, op.imm >> 16 & 31);
    let (stack, frame) = (cpu.regs[RSP], cpu.regs[5]);
    let done = enter_frames::<T>(cpu, level).and_then(|top| {
        let pointer = cpu.regs[RSP].wrapping_sub(allocate);
        // The new top must be writable.
        cpu.prepare_write(cpu.context, cpu.stack_address(pointer), 1)?;
        cpu.set_stack(pointer);
        T::low(top).set(cpu, 5);
        Ok(())
    });
    if let Err(fault) = done {
        (cpu.regs[RSP], cpu.regs[5]) = (stack, frame);
        return Err(fault);
    }
    Ok(Flow::Next)
}

fn enter_frames<T: Operand>(cpu: &mut Cpu, level: u64) -> Result<u64, Fault> {
    cpu.push(T::get(cpu, 5))?;
    let top = cpu.regs[RSP];
    for step in 1..level {
        let outer: T =
            cpu.load(cpu.stack_address(cpu.regs[5].wrapping_sub(step * bytes_of::<T>())))?;
        cpu.push(outer)?;
    }
    if level > 0 {
        cpu.push(T::low(top))?;
    }
    Ok(top)
}

/// PUSHF.
#[inline(always)]
pub(crate) fn push_flags<T: Operand>(cpu: &mut Cpu, _op: &Op) -> Step {
    let flags = cpu.rflags() & !(VM | RF);
    cpu.push(T::low(flags))?;
    Ok(Flow::Next)
}

/// POPF: privilege decides which flags change.
#[inline(always)]
pub(crate) fn pop_flags<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let value: T = cpu.pop()?;
    let mut changes = atoll_x86::flags::STATUS | TF | DF | NT | AC | ID;
    let level = (cpu.system_flags & IOPL) >> 12;
    if u64::from(cpu.cpl) <= level {
        changes |= IF;
    }
    if cpu.cpl == 0 {
        changes |= IOPL;
    }
    if T::BITS == 16 {
        changes &= 0xFFFF;
    }
    let flags = (cpu.rflags() & !changes) | (value.zero_extended() & changes);
    cpu.set_rflags(flags);
    cpu.leave(op)
}

/// A privilege check for CLI and STI.
pub(crate) fn check_io_privilege(cpu: &mut Cpu) -> Result<(), Fault> {
    if u64::from(cpu.cpl) > (cpu.system_flags & IOPL) >> 12 {
        return Err(cpu.raise(GP, Some(0)));
    }
    Ok(())
}
