//! Transfers between segments and privileges: far branches, interrupts by software, system calls.

use crate::cpu::{CS, Cpu, DF, EFER_SCE, IF, IOPL, Mode, NT, RF, RSP, SS, TF, VM};
use crate::exception::{GP, NP, OF, Origin, SS as STACK_FAULT, UD};
use crate::memory::bytes_of;
use crate::op::{Fault, Flow, Op, RIP, Step};
use crate::operand::Operand;
use crate::segment::Descriptor;

/// SYSCALL's selectors.
pub(crate) const STAR: u32 = 0xC000_0081;
/// SYSCALL's target.
pub(crate) const LSTAR: u32 = 0xC000_0082;
/// SYSCALL's target from 32-bit code (AMD only).
pub(crate) const CSTAR: u32 = 0xC000_0083;
/// Flags that SYSCALL clears.
pub(crate) const FMASK: u32 = 0xC000_0084;
/// SYSENTER's selector.
pub(crate) const SYSENTER_CS: u32 = 0x174;
/// SYSENTER's stack.
pub(crate) const SYSENTER_ESP: u32 = 0x175;
/// SYSENTER's target.
pub(crate) const SYSENTER_EIP: u32 = 0x176;

/// INT n, INT3, INT1.
pub(crate) fn software_interrupt(cpu: &mut Cpu, op: &Op) -> Step {
    let before = cpu.rip;
    cpu.rip = cpu.regs[usize::from(RIP)].wrapping_add(u64::from(op.next()));
    cpu.step_traps = false;
    let origin = if op.imm == 1 {
        Origin::Exception
    } else {
        Origin::Software
    };
    if let Err(fault) = cpu.deliver(op.imm as u8, None, origin) {
        cpu.rip = before;
        return Err(fault);
    }
    Ok(Flow::Leave)
}

/// INTO.
pub(crate) fn interrupt_on_overflow(cpu: &mut Cpu, op: &Op) -> Step {
    if !cpu.flags.overflow() {
        return cpu.leave(op);
    }
    software_interrupt(
        cpu,
        &Op {
            imm: u64::from(OF),
            ..*op
        },
    )
}

impl Cpu {
    /// Goes to `offset` in the code segment of `selector` at the same privilege.
    fn far_jump(&mut self, selector: u16, offset: u64) -> Result<(), Fault> {
        if !self.is_protected() {
            self.segments[CS].selector = selector;
            self.segments[CS].base = u64::from(selector) << 4;
            self.rip = offset;
            self.update_mode();
            return Ok(());
        }
        let error = Some(u32::from(selector & !3));
        if selector & !3 == 0 {
            return Err(self.raise(GP, Some(0)));
        }
        let descriptor = self.descriptor(selector, 0)?;
        if !descriptor.is_segment() {
            return Err(self.unsupported("a far branch through a gate or task"));
        }
        let descriptor = if descriptor.is_code() {
            self.code_descriptor(selector, 0)?
        } else {
            descriptor
        };
        let conforming = descriptor.kind() & 4 != 0;
        let privilege = descriptor.privilege();
        let permitted = if conforming {
            privilege <= self.cpl
        } else {
            privilege == self.cpl && (selector & 3) as u8 <= self.cpl
        };
        if !descriptor.is_code() || !permitted || (descriptor.is_long() && descriptor.is_32_bit()) {
            return Err(self.raise(GP, error));
        }
        self.enter_code(descriptor, (selector & !3) | u16::from(self.cpl), offset)
    }

    /// Loads CS and RIP together; privilege must be right in SS or not change.
    fn enter_code(
        &mut self,
        descriptor: Descriptor,
        selector: u16,
        offset: u64,
    ) -> Result<(), Fault> {
        let long = self.is_long_mode() && descriptor.is_long();
        if long && !self.is_canonical(offset) {
            return Err(self.raise(GP, Some(0)));
        }
        self.set_code(descriptor, selector);
        self.rip = if long { offset } else { offset & 0xFFFF_FFFF };
        self.update_mode();
        Ok(())
    }
}

/// JMP far to an immediate.
pub(crate) fn jump_immediate(cpu: &mut Cpu, op: &Op) -> Step {
    cpu.far_jump((op.imm >> 32) as u16, op.imm & 0xFFFF_FFFF)?;
    Ok(Flow::Leave)
}

fn pointer<T: Operand>(cpu: &mut Cpu, op: &Op) -> Result<(u64, u16), Fault> {
    let address = cpu.address(op);
    let offset: T = cpu.load(address)?;
    let selector: u16 = cpu.load(address.wrapping_add(bytes_of::<T>()))?;
    Ok((offset.zero_extended(), selector))
}

/// JMP far to a pointer in memory.
pub(crate) fn jump_memory<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let (offset, selector) = pointer::<T>(cpu, op)?;
    cpu.far_jump(selector, offset)?;
    Ok(Flow::Leave)
}

fn far_call<T: Operand>(cpu: &mut Cpu, op: &Op, selector: u16, offset: u64) -> Step {
    let (stack, code) = (cpu.regs[RSP], cpu.segments[CS].selector);
    let next = cpu.regs[usize::from(RIP)].wrapping_add(u64::from(op.next()));
    let pushed = cpu
        .push(T::low(u64::from(code)))
        .and_then(|()| cpu.push(T::low(next)))
        .and_then(|()| cpu.far_jump(selector, offset));
    if let Err(fault) = pushed {
        cpu.regs[RSP] = stack;
        return Err(fault);
    }
    Ok(Flow::Leave)
}

/// CALL far to an immediate.
pub(crate) fn call_immediate(cpu: &mut Cpu, op: &Op) -> Step {
    let (selector, offset) = ((op.imm >> 32) as u16, op.imm & 0xFFFF_FFFF);
    if op.extra == 2 {
        far_call::<u16>(cpu, op, selector, offset)
    } else {
        far_call::<u32>(cpu, op, selector, offset)
    }
}

/// CALL far to a pointer in memory.
pub(crate) fn call_memory<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let (offset, selector) = pointer::<T>(cpu, op)?;
    far_call::<T>(cpu, op, selector, offset)
}

/// What a return takes from the stack.
struct Return {
    offset: u64,
    code: u16,
    /// Flags, for IRET.
    flags: Option<u64>,
    /// Bytes taken so far, with RET's immediate.
    taken: u64,
    /// The stack is in the frame even when privilege stays (IRET in 64-bit mode).
    always_stack: bool,
}

/// The common end of RETF and IRET (Intel SDM vol. 2 RET, IRET).
fn return_to<T: Operand>(cpu: &mut Cpu, frame: &Return) -> Step {
    let error = Some(u32::from(frame.code & !3));
    if frame.code & !3 == 0 {
        return Err(cpu.raise(GP, Some(0)));
    }
    let requested = (frame.code & 3) as u8;
    let descriptor = cpu.descriptor(frame.code, 0)?;
    let privilege = descriptor.privilege();
    let conforming = descriptor.kind() & 4 != 0;
    let fits = if conforming {
        privilege <= requested
    } else {
        privilege == requested
    };
    if !descriptor.is_code() || requested < cpu.cpl || !fits {
        return Err(cpu.raise(GP, error));
    }
    if !descriptor.is_present() {
        return Err(cpu.raise(NP, error));
    }
    let descriptor = cpu.code_descriptor(frame.code, 0)?;
    let long = cpu.is_long_mode() && descriptor.is_long();
    if long && !cpu.is_canonical(frame.offset) {
        return Err(cpu.raise(GP, Some(0)));
    }
    let outward = requested > cpu.cpl;
    let mut stack = None;
    if outward || frame.always_stack {
        let pointer: T = cpu.peek(frame.taken)?;
        let selector: T = cpu.peek(frame.taken + bytes_of::<T>())?;
        let selector = selector.zero_extended() as u16;
        stack = Some((
            pointer.zero_extended(),
            stack_segment(cpu, selector, requested, long)?,
            selector,
        ));
    }
    let old_cpl = cpu.cpl;
    if stack.is_none() {
        cpu.set_stack(cpu.regs[RSP].wrapping_add(frame.taken));
    }
    cpu.set_code(descriptor, frame.code);
    if let Some((pointer, segment, selector)) = stack {
        cpu.segments[SS] = segment.segment(selector);
        cpu.segments[SS].attributes =
            (cpu.segments[SS].attributes & !0x60) | u16::from(requested) << 5;
        cpu.rip = frame.offset;
        cpu.update_mode();
        cpu.set_stack(pointer);
    }
    cpu.rip = if long {
        frame.offset
    } else {
        frame.offset & 0xFFFF_FFFF
    };
    cpu.update_mode();
    if let Some(flags) = frame.flags {
        restore_flags::<T>(cpu, flags, old_cpl);
    }
    if outward {
        cpu.drop_privileged_segments();
    }
    Ok(Flow::Leave)
}

/// The stack segment that a return loads; null only for 64-bit code below privilege 3.
fn stack_segment(
    cpu: &mut Cpu,
    selector: u16,
    privilege: u8,
    long: bool,
) -> Result<Descriptor, Fault> {
    let error = Some(u32::from(selector & !3));
    if selector & !3 == 0 {
        if !long || privilege == 3 {
            return Err(cpu.raise(GP, Some(0)));
        }
        return Ok(Descriptor::FLAT_DATA);
    }
    let descriptor = cpu.descriptor(selector, 0)?;
    let writable = descriptor.is_segment() && !descriptor.is_code() && descriptor.kind() & 2 != 0;
    if (selector & 3) as u8 != privilege || !writable || descriptor.privilege() != privilege {
        return Err(cpu.raise(GP, error));
    }
    if !descriptor.is_present() {
        return Err(cpu.raise(STACK_FAULT, error));
    }
    Ok(descriptor)
}

/// The flags that IRET restores, by the privilege it had.
fn restore_flags<T: Operand>(cpu: &mut Cpu, flags: u64, old_cpl: u8) {
    let mut changes = atoll_x86::flags::STATUS | TF | DF | NT;
    if T::BITS > 16 {
        changes |= RF | crate::cpu::AC | crate::cpu::ID;
    }
    if u64::from(old_cpl) <= (cpu.system_flags & IOPL) >> 12 {
        changes |= IF;
    }
    if old_cpl == 0 {
        changes |= IOPL;
    }
    let new = (cpu.rflags() & !changes) | (flags & changes);
    cpu.set_rflags(new);
}

/// RETF.
pub(crate) fn ret<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let offset: T = cpu.peek(0)?;
    let code: T = cpu.peek(bytes_of::<T>())?;
    let taken = 2 * bytes_of::<T>() + op.imm;
    let (offset, code) = (offset.zero_extended(), code.zero_extended() as u16);
    if !cpu.is_protected() {
        cpu.set_stack(cpu.regs[RSP].wrapping_add(taken));
        cpu.far_jump(code, offset)?;
        return Ok(Flow::Leave);
    }
    return_to::<T>(
        cpu,
        &Return {
            offset,
            code,
            flags: None,
            taken,
            always_stack: false,
        },
    )
}

/// IRET, IRETD, IRETQ.
pub(crate) fn iret<T: Operand>(cpu: &mut Cpu, _op: &Op) -> Step {
    cpu.nmi_blocked = false;
    let offset: T = cpu.peek(0)?;
    let code: T = cpu.peek(bytes_of::<T>())?;
    let flags: T = cpu.peek(2 * bytes_of::<T>())?;
    let (offset, code, flags) = (
        offset.zero_extended(),
        code.zero_extended() as u16,
        flags.zero_extended(),
    );
    if !cpu.is_protected() {
        cpu.set_stack(cpu.regs[RSP].wrapping_add(3 * bytes_of::<T>()));
        cpu.far_jump(code, offset)?;
        restore_flags::<T>(cpu, flags, 0);
        return Ok(Flow::Leave);
    }
    if cpu.system_flags & NT != 0 {
        return Err(if cpu.is_long_mode() {
            cpu.raise(GP, Some(0))
        } else {
            cpu.unsupported("IRET of a nested task")
        });
    }
    return_to::<T>(
        cpu,
        &Return {
            offset,
            code,
            flags: Some(flags),
            taken: 3 * bytes_of::<T>(),
            always_stack: cpu.mode == Mode::Bits64,
        },
    )
}

/// A flat segment as SYSCALL and its like load it.
fn flat(selector: u16, code: bool, long: bool, privilege: u16) -> atoll_cpu_api::Segment {
    let kind = if code { 0xB } else { 0x3 };
    let size = if long { 1 << 13 } else { 1 << 14 };
    atoll_cpu_api::Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        attributes: 0x8090 | kind | size | privilege << 5,
    }
}

impl Cpu {
    fn set_flat(&mut self, code: u16, stack: u16, long: bool, privilege: u16) {
        self.segments[CS] = flat(code, true, long, privilege);
        self.segments[SS] = flat(stack, false, false, privilege);
        self.update_mode();
    }
}

/// SYSCALL.
pub(crate) fn syscall(cpu: &mut Cpu, op: &Op) -> Step {
    if cpu.efer & EFER_SCE == 0 || cpu.mode != Mode::Bits64 {
        return Err(cpu.raise(UD, None));
    }
    cpu.regs[1] = cpu.regs[usize::from(RIP)].wrapping_add(u64::from(op.next()));
    cpu.regs[11] = cpu.rflags() & !RF;
    cpu.rip = cpu.msrs.lstar;
    let flags = cpu.regs[11] & !cpu.msrs.fmask & !RF;
    cpu.set_rflags(flags);
    let selector = (cpu.msrs.star >> 32) as u16 & !3;
    cpu.set_flat(selector, selector.wrapping_add(8), true, 0);
    Ok(Flow::Leave)
}

/// SYSRET.
pub(crate) fn sysret(cpu: &mut Cpu, op: &Op) -> Step {
    if cpu.efer & EFER_SCE == 0 || cpu.mode != Mode::Bits64 {
        return Err(cpu.raise(UD, None));
    }
    if cpu.cpl != 0 {
        return Err(cpu.raise(GP, Some(0)));
    }
    let long = op.extra == 1;
    let target = if long {
        cpu.regs[1]
    } else {
        cpu.regs[1] & 0xFFFF_FFFF
    };
    if !cpu.is_canonical(target) {
        return Err(cpu.raise(GP, Some(0)));
    }
    let base = (cpu.msrs.star >> 48) as u16;
    let code = base.wrapping_add(if long { 16 } else { 0 }) | 3;
    cpu.rip = target;
    cpu.set_flat(code, base.wrapping_add(8) | 3, long, 3);
    let flags = cpu.regs[11] & !(RF | VM);
    cpu.set_rflags(flags);
    Ok(Flow::Leave)
}

/// SYSENTER.
pub(crate) fn sysenter(cpu: &mut Cpu, _op: &Op) -> Step {
    let selector = cpu.msrs.other(SYSENTER_CS) as u16 & !3;
    if !cpu.is_protected() || selector == 0 {
        return Err(cpu.raise(GP, Some(0)));
    }
    let long = cpu.is_long_mode();
    cpu.system_flags &= !(VM | IF);
    cpu.set_flat(selector, selector.wrapping_add(8), long, 0);
    cpu.regs[RSP] = cpu.msrs.other(SYSENTER_ESP);
    cpu.rip = cpu.msrs.other(SYSENTER_EIP);
    Ok(Flow::Leave)
}

/// SYSEXIT.
pub(crate) fn sysexit(cpu: &mut Cpu, op: &Op) -> Step {
    let selector = cpu.msrs.other(SYSENTER_CS) as u16 & !3;
    if !cpu.is_protected() || selector == 0 || cpu.cpl != 0 {
        return Err(cpu.raise(GP, Some(0)));
    }
    let long = op.extra == 1;
    let mask = if long { u64::MAX } else { 0xFFFF_FFFF };
    let (stack, target) = (cpu.regs[1] & mask, cpu.regs[2] & mask);
    if long && !(cpu.is_canonical(stack) && cpu.is_canonical(target)) {
        return Err(cpu.raise(GP, Some(0)));
    }
    let code = selector.wrapping_add(if long { 32 } else { 16 }) | 3;
    cpu.set_flat(code, code.wrapping_add(8), long, 3);
    cpu.regs[RSP] = stack;
    cpu.rip = target;
    Ok(Flow::Leave)
}
