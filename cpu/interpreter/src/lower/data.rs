//! Moves, extensions, exchanges, stack, flags.

use iced_x86::{Mnemonic as M, OpKind, Register};

use crate::cpu::Mode;
use crate::exec::{data, exchange, flags, stack};
use crate::lower::{Form, Lowering, number, sized};
use crate::op::{Handler, op};
use crate::operand::{Dst, Imm, Mem, Src};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<Handler> {
    let mnemonic = l.instruction.mnemonic();
    match mnemonic {
        M::Mov => mov(l),
        M::Lea => {
            let size = l.size(0);
            sized!(size, T => op!(data::lea::<T>))
        }
        M::Movzx => extend(l, false),
        M::Movsx | M::Movsxd => extend(l, true),
        M::Cbw => Some(op!(data::sign_into_self::<u8, u16>)),
        M::Cwde => Some(op!(data::sign_into_self::<u16, u32>)),
        M::Cdqe => Some(op!(data::sign_into_self::<u32, u64>)),
        M::Cwd => Some(op!(data::sign_into_dx::<u16>)),
        M::Cdq => Some(op!(data::sign_into_dx::<u32>)),
        M::Cqo => Some(op!(data::sign_into_dx::<u64>)),
        M::Bswap => {
            let size = l.size(0);
            sized!(size, T => op!(data::byte_swap::<T>))
        }
        M::Xchg => xchg(l),
        M::Xadd => {
            let size = l.size(0);
            match (l.form(0)?, l.instruction.has_lock_prefix()) {
                (Form::Register, _) => sized!(size, T => op!(exchange::add_register::<T>)),
                (_, true) => sized!(size, T => op!(exchange::add_memory::<T, true>)),
                (_, false) => sized!(size, T => op!(exchange::add_memory::<T, false>)),
            }
        }
        M::Cmpxchg => {
            let size = l.size(0);
            match (l.form(0)?, l.instruction.has_lock_prefix()) {
                (Form::Register, _) => sized!(size, T => op!(exchange::compare_register::<T>)),
                (_, true) => sized!(size, T => op!(exchange::compare::<T, true>)),
                (_, false) => sized!(size, T => op!(exchange::compare::<T, false>)),
            }
        }
        M::Cmpxchg8b => Some(op!(exchange::compare_8)),
        M::Cmpxchg16b => Some(op!(exchange::compare_16)),
        M::Push | M::Pop => push_pop(l, mnemonic),
        M::Pusha | M::Pushad | M::Popa | M::Popad if l.mode != Mode::Bits64 => {
            let wide = matches!(mnemonic, M::Pushad | M::Popad);
            stack_width(l);
            Some(match (matches!(mnemonic, M::Pusha | M::Pushad), wide) {
                (true, true) => op!(stack::push_all::<u32>),
                (true, false) => op!(stack::push_all::<u16>),
                (false, true) => op!(stack::pop_all::<u32>),
                (false, false) => op!(stack::pop_all::<u16>),
            })
        }
        M::Leave => {
            stack_width(l);
            let size = operand_size(l);
            sized!(size, T => op!(stack::leave::<T>))
        }
        M::Enter => {
            stack_width(l);
            l.op.imm = u64::from(l.instruction.immediate16())
                | u64::from(l.instruction.immediate8_2nd()) << 16;
            let size = operand_size(l);
            sized!(size, T => op!(stack::enter::<T>))
        }
        M::Pushf | M::Pushfd | M::Pushfq => {
            stack_width(l);
            Some(match mnemonic {
                M::Pushf => op!(stack::push_flags::<u16>),
                M::Pushfd => op!(stack::push_flags::<u32>),
                _ => op!(stack::push_flags::<u64>),
            })
        }
        M::Popf | M::Popfd | M::Popfq => {
            stack_width(l);
            l.last(match mnemonic {
                M::Popf => op!(stack::pop_flags::<u16>),
                M::Popfd => op!(stack::pop_flags::<u32>),
                _ => op!(stack::pop_flags::<u64>),
            })
        }
        M::Clc => Some(op!(flags::clear_carry)),
        M::Stc => Some(op!(flags::set_carry)),
        M::Cmc => Some(op!(flags::complement_carry)),
        M::Cld => Some(op!(flags::clear_direction)),
        M::Std => Some(op!(flags::set_direction)),
        M::Lahf => Some(op!(flags::load_ah)),
        M::Sahf => Some(op!(flags::store_ah)),
        M::Salc if l.mode != Mode::Bits64 => Some(op!(flags::set_al_from_carry)),
        M::Nop
        | M::Pause
        | M::Lfence
        | M::Mfence
        | M::Sfence
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchw
        | M::Endbr64
        | M::Endbr32
        | M::Reservednop => Some(op!(data::nothing)),
        M::Clflush => Some(op!(data::touch)),
        M::Movnti => {
            let size = l.size(0);
            sized!(size, T => op!(data::mov::<T, Mem, Src>))
        }
        M::Xlatb => {
            let segment = l.instruction.memory_segment();
            l.op.seg = match segment {
                Register::FS | Register::GS => segment.number() as u8,
                _ if l.mode == Mode::Bits64 => 6,
                _ => segment.number() as u8,
            };
            l.address_size(l.instruction.memory_base().size());
            Some(op!(data::translate))
        }
        _ => conditional(l),
    }
}

/// CMOVcc and SETcc.
fn conditional(l: &mut Lowering<'_>) -> Option<Handler> {
    use iced_x86::ConditionCode as C;
    let condition = l.instruction.condition_code();
    if condition == C::None {
        return None;
    }
    let name = format!("{:?}", l.instruction.mnemonic());
    l.op.extra = condition_number(condition);
    if name.starts_with("Cmov") {
        let size = l.size(0);
        return match l.form(1)? {
            Form::Register => sized!(size, T => op!(data::conditional_move::<T, Src>)),
            Form::Memory => sized!(size, T => op!(data::conditional_move::<T, Mem>)),
            Form::Immediate => None,
        };
    }
    if name.starts_with("Set") {
        return match l.form(0)? {
            Form::Register => Some(op!(data::set_on_condition::<Dst>)),
            Form::Memory => Some(op!(data::set_on_condition::<Mem>)),
            Form::Immediate => None,
        };
    }
    None
}

/// A condition's number in instruction encodings.
pub(crate) fn condition_number(condition: iced_x86::ConditionCode) -> u8 {
    use iced_x86::ConditionCode as C;
    match condition {
        C::o => 0,
        C::no => 1,
        C::b => 2,
        C::ae => 3,
        C::e => 4,
        C::ne => 5,
        C::be => 6,
        C::a => 7,
        C::s => 8,
        C::ns => 9,
        C::p => 10,
        C::np => 11,
        C::l => 12,
        C::ge => 13,
        C::le => 14,
        _ => 15,
    }
}

fn mov(l: &mut Lowering<'_>) -> Option<Handler> {
    let (first, second) = (l.instruction.op0_register(), l.instruction.op1_register());
    if first.is_segment_register() {
        // Blocks end here: after SS no interrupt may come.
        return match l.form(1)? {
            Form::Register => l.last(op!(data::load_segment::<Src>)),
            Form::Memory => l.last(op!(data::load_segment::<Mem>)),
            Form::Immediate => None,
        };
    }
    if second.is_segment_register() {
        l.op.extra = number(second);
        let size = l.size(0);
        return match l.form(0)? {
            Form::Register => sized!(size, T => op!(data::store_segment::<T, Dst>)),
            Form::Memory => Some(op!(data::store_segment::<u16, Mem>)),
            Form::Immediate => None,
        };
    }
    if first.is_cr()
        || second.is_cr()
        || first.is_dr()
        || second.is_dr()
        || first.is_tr()
        || second.is_tr()
    {
        return None;
    }
    let size = l.size(0);
    match (l.form(0)?, l.form(1)?) {
        (Form::Register, Form::Register) => sized!(size, T => op!(data::mov::<T, Dst, Src>)),
        (Form::Register, Form::Memory) => sized!(size, T => op!(data::mov::<T, Dst, Mem>)),
        (Form::Register, Form::Immediate) => sized!(size, T => op!(data::mov::<T, Dst, Imm>)),
        (Form::Memory, Form::Register) => sized!(size, T => op!(data::mov::<T, Mem, Src>)),
        (Form::Memory, Form::Immediate) => sized!(size, T => op!(data::mov::<T, Mem, Imm>)),
        _ => None,
    }
}

fn extend(l: &mut Lowering<'_>, signed: bool) -> Option<Handler> {
    macro_rules! from {
        ($to:ty) => {
            match (l.size(1), l.form(1)?, signed) {
                (1, Form::Register, false) => op!(data::extend::<u8, $to, Src, false>),
                (1, Form::Memory, false) => op!(data::extend::<u8, $to, Mem, false>),
                (2, Form::Register, false) => op!(data::extend::<u16, $to, Src, false>),
                (2, Form::Memory, false) => op!(data::extend::<u16, $to, Mem, false>),
                (1, Form::Register, true) => op!(data::extend::<u8, $to, Src, true>),
                (1, Form::Memory, true) => op!(data::extend::<u8, $to, Mem, true>),
                (2, Form::Register, true) => op!(data::extend::<u16, $to, Src, true>),
                (2, Form::Memory, true) => op!(data::extend::<u16, $to, Mem, true>),
                (4, Form::Register, true) => op!(data::extend::<u32, $to, Src, true>),
                (4, Form::Memory, true) => op!(data::extend::<u32, $to, Mem, true>),
                _ => return None,
            }
        };
    }
    Some(match l.size(0) {
        2 => from!(u16),
        4 => from!(u32),
        8 => from!(u64),
        _ => return None,
    })
}

fn xchg(l: &mut Lowering<'_>) -> Option<Handler> {
    let size = l.size(0);
    match (l.form(0)?, l.form(1)?) {
        (Form::Register, Form::Register) => sized!(size, T => op!(exchange::registers::<T>)),
        (Form::Memory, Form::Register) => sized!(size, T => op!(exchange::memory::<T>)),
        (Form::Register, Form::Memory) => {
            l.op.src = l.op.dst;
            sized!(size, T => op!(exchange::memory::<T>))
        }
        _ => None,
    }
}

/// Bytes of a stack operation's operand: by prefix and mode.
pub(super) fn operand_size(l: &Lowering<'_>) -> usize {
    // Code names carry the size: `Retnq_imm16`, `Leaved`, `Pushw_FS`.
    let name = format!("{:?}", l.instruction.code());
    match name.split('_').next().and_then(|stem| stem.chars().last()) {
        Some('q') => 8,
        Some('d') => 4,
        _ => 2,
    }
}

/// Sets the segment and width of stack addresses. 16-bit code with a 32-bit stack (and the reverse) follows the code.
pub(super) fn stack_width(l: &mut Lowering<'_>) {
    match l.mode {
        Mode::Bits64 => l.address_size(8),
        Mode::Bits32 => l.address_size(4),
        Mode::Bits16 => l.address_size(2),
    }
    if l.form(0) != Some(Form::Memory) {
        l.op.base = 4;
        l.op.seg = if l.mode == Mode::Bits64 { 6 } else { 2 };
    }
}

fn push_pop(l: &mut Lowering<'_>, mnemonic: M) -> Option<Handler> {
    let push = mnemonic == M::Push;
    let register = l.instruction.op0_register();
    if register.is_segment_register() {
        stack_width(l);
        l.op.extra = number(register);
        let size = match l.mode {
            Mode::Bits64 => 8,
            Mode::Bits32 => 4,
            Mode::Bits16 => 2,
        };
        let size = if operand_size(l) == 2 { 2 } else { size };
        return if push {
            sized!(size, T => op!(stack::push_segment::<T>))
        } else {
            l.ends = true;
            sized!(size, T => op!(stack::pop_segment::<T>))
        };
    }
    match l.form(0)? {
        Form::Register => {
            stack_width(l);
            let size = register.size();
            if push {
                l.op.src = l.op.dst;
                if l.mode == Mode::Bits64 && size == 8 {
                    return Some(op!(stack::push_register_64));
                }
                sized!(size, T => op!(stack::push::<T, Dst>))
            } else {
                if l.mode == Mode::Bits64 && size == 8 {
                    return Some(op!(stack::pop_register_64));
                }
                sized!(size, T => op!(stack::pop_register::<T>))
            }
        }
        Form::Memory => {
            let size = l.instruction.memory_size().size();
            if push {
                sized!(size, T => op!(stack::push::<T, Mem>))
            } else {
                sized!(size, T => op!(stack::pop_memory::<T>))
            }
        }
        Form::Immediate => {
            stack_width(l);
            let size = match l.instruction.op0_kind() {
                OpKind::Immediate8to64 | OpKind::Immediate32to64 => 8,
                OpKind::Immediate8to32 | OpKind::Immediate32 => 4,
                _ => 2,
            };
            sized!(size, T => op!(stack::push::<T, Imm>))
        }
    }
}
