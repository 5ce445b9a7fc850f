//! Branches, calls, returns, interrupts.

use iced_x86::{FlowControl, Mnemonic as M, OpKind};

use crate::cpu::Mode;
use crate::exec::{control, far};
use crate::lower::data::{condition_number, operand_size, stack_width};
use crate::lower::{Form, Lowering, sized};
use crate::op::{Handler, LINKS, op};
use crate::operand::{Dst, Mem};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<Handler> {
    let instruction = l.instruction;
    match instruction.mnemonic() {
        M::Jmp => jump(l),
        M::Call => call(l),
        M::Ret => {
            stack_width(l);
            l.op.imm = if instruction.op_count() == 1 {
                u64::from(instruction.immediate16())
            } else {
                0
            };
            let size = operand_size(l);
            l.ends = true;
            if size == 8 {
                return Some(op!(control::ret_64));
            }
            sized!(size, T => op!(control::ret::<T>))
        }
        M::Retf => {
            stack_width(l);
            l.op.imm = if instruction.op_count() == 1 {
                u64::from(instruction.immediate16())
            } else {
                0
            };
            l.ends = true;
            let size = operand_size(l);
            sized!(size, T => op!(far::ret::<T>))
        }
        M::Iret | M::Iretd | M::Iretq => {
            stack_width(l);
            l.last(match instruction.mnemonic() {
                M::Iret => op!(far::iret::<u16>),
                M::Iretd => op!(far::iret::<u32>),
                _ => op!(far::iret::<u64>),
            })
        }
        M::Int => {
            l.op.imm = u64::from(instruction.immediate8());
            l.last(op!(far::software_interrupt))
        }
        M::Int3 => {
            l.op.imm = 3;
            l.last(op!(far::software_interrupt))
        }
        M::Int1 => {
            l.op.imm = 1;
            l.last(op!(far::software_interrupt))
        }
        M::Into if l.mode != Mode::Bits64 => l.last(op!(far::interrupt_on_overflow)),
        M::Loop | M::Loope | M::Loopne | M::Jcxz | M::Jecxz | M::Jrcxz => counted(l),
        M::Syscall => l.last(op!(far::syscall)),
        M::Sysret | M::Sysretq => {
            l.op.extra = u8::from(instruction.mnemonic() == M::Sysretq);
            l.last(op!(far::sysret))
        }
        M::Sysenter => l.last(op!(far::sysenter)),
        M::Sysexit | M::Sysexitq => {
            l.op.extra = u8::from(instruction.mnemonic() == M::Sysexitq);
            l.last(op!(far::sysexit))
        }
        _ if instruction.flow_control() == FlowControl::ConditionalBranch => {
            target(l);
            l.ends = true;
            Some(control::CONDITIONAL[usize::from(condition_number(instruction.condition_code()))])
        }
        _ => None,
    }
}

/// The branch target relative to the block's start, and the width it wraps at.
fn target(l: &mut Lowering<'_>) {
    l.op.imm = l.instruction.near_branch_target();
    l.op.scale = LINKS;
    l.op.wrap = match l.instruction.op0_kind() {
        OpKind::NearBranch64 => 0,
        OpKind::NearBranch32 => 2,
        _ => 3,
    };
}

fn jump(l: &mut Lowering<'_>) -> Option<Handler> {
    l.ends = true;
    match l.instruction.op0_kind() {
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
            target(l);
            Some(op!(control::jump))
        }
        OpKind::FarBranch16 | OpKind::FarBranch32 => {
            far_target(l);
            Some(op!(far::jump_immediate))
        }
        _ if l.instruction.is_jmp_far_indirect() => {
            let size = far_offset_size(l);
            sized!(size, T => op!(far::jump_memory::<T>))
        }
        _ => {
            let size = l.size(0);
            match l.form(0)? {
                Form::Register => sized!(size, T => op!(control::jump_to::<T, Dst>)),
                Form::Memory => sized!(size, T => op!(control::jump_to::<T, Mem>)),
                Form::Immediate => None,
            }
        }
    }
}

fn call(l: &mut Lowering<'_>) -> Option<Handler> {
    l.ends = true;
    match l.instruction.op0_kind() {
        OpKind::NearBranch64 => {
            target(l);
            l.op.base = 4;
            Some(op!(control::call_64))
        }
        OpKind::NearBranch32 => {
            stack_width(l);
            target(l);
            Some(op!(control::call::<u32>))
        }
        OpKind::NearBranch16 => {
            stack_width(l);
            target(l);
            Some(op!(control::call::<u16>))
        }
        OpKind::FarBranch16 | OpKind::FarBranch32 => {
            far_target(l);
            Some(op!(far::call_immediate))
        }
        _ if l.instruction.is_call_far_indirect() => {
            let size = far_offset_size(l);
            sized!(size, T => op!(far::call_memory::<T>))
        }
        _ => {
            let size = l.size(0);
            match l.form(0)? {
                Form::Register => sized!(size, T => op!(control::call_to::<T, Dst>)),
                Form::Memory => sized!(size, T => op!(control::call_to::<T, Mem>)),
                Form::Immediate => None,
            }
        }
    }
}

fn far_target(l: &mut Lowering<'_>) {
    let offset = match l.instruction.op0_kind() {
        OpKind::FarBranch16 => u32::from(l.instruction.far_branch16()),
        _ => l.instruction.far_branch32(),
    };
    l.op.imm = u64::from(offset) | u64::from(l.instruction.far_branch_selector()) << 32;
    l.op.extra = if l.instruction.op0_kind() == OpKind::FarBranch16 {
        2
    } else {
        4
    };
}

/// Bytes of the offset in a far pointer in memory: the selector takes two more.
fn far_offset_size(l: &Lowering<'_>) -> usize {
    l.instruction.memory_size().size().saturating_sub(2)
}

fn counted(l: &mut Lowering<'_>) -> Option<Handler> {
    use iced_x86::Code as C;
    target(l);
    l.ends = true;
    let code = l.instruction.code();
    let name = format!("{code:?}");
    // The counter's width is the address size.
    l.op.dst = if name.contains("RCX") || name.contains("Jrcxz") {
        8
    } else if name.contains("ECX") || name.contains("Jecxz") {
        4
    } else {
        2
    };
    let _: C = code;
    Some(match l.instruction.mnemonic() {
        M::Loop => op!(control::count::<0>),
        M::Loope => op!(control::count::<1>),
        M::Loopne => op!(control::count::<2>),
        _ => op!(control::jump_if_zero),
    })
}
