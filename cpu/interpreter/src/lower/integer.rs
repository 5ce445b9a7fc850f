//! Arithmetic, logic, shifts, multiplication, bits.

use iced_x86::Mnemonic as M;

use crate::exec::{alu, bits, multiply, shift};
use crate::lower::{Form, Lowering, sized};
use crate::op::{Handler, op};
use crate::operand::{Dst, Imm, Mem, Src};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<Handler> {
    match l.instruction.mnemonic() {
        M::Add => binary::<alu::Add>(l),
        M::Adc => binary::<alu::Adc>(l),
        M::Sub => binary::<alu::Sub>(l),
        M::Sbb => binary::<alu::Sbb>(l),
        M::And => binary::<alu::And>(l),
        M::Or => binary::<alu::Or>(l),
        M::Xor => binary::<alu::Xor>(l),
        M::Cmp => comparison::<alu::Sub>(l),
        M::Test => comparison::<alu::And>(l),
        M::Inc => unary::<alu::Inc>(l),
        M::Dec => unary::<alu::Dec>(l),
        M::Neg => unary::<alu::Neg>(l),
        M::Not => unary::<alu::Not>(l),
        M::Shl | M::Sal => shifted::<shift::Left>(l),
        M::Shr => shifted::<shift::Right>(l),
        M::Sar => shifted::<shift::RightSigned>(l),
        M::Rol => shifted::<shift::RotateLeft>(l),
        M::Ror => shifted::<shift::RotateRight>(l),
        M::Rcl => shifted::<shift::RotateCarryLeft>(l),
        M::Rcr => shifted::<shift::RotateCarryRight>(l),
        M::Shld => double::<shift::DoubleLeft>(l),
        M::Shrd => double::<shift::DoubleRight>(l),
        M::Mul => one::<multiply::Mul>(l),
        M::Imul if l.instruction.op_count() == 1 => one::<multiply::Imul>(l),
        M::Imul => product(l),
        M::Div => one::<multiply::Div>(l),
        M::Idiv => one::<multiply::Idiv>(l),
        M::Bt => bit::<bits::Test>(l),
        M::Bts => bit::<bits::Set>(l),
        M::Btr => bit::<bits::Reset>(l),
        M::Btc => bit::<bits::Complement>(l),
        M::Bsf => scan::<bits::ScanForward>(l),
        M::Bsr => scan::<bits::ScanReverse>(l),
        M::Popcnt => scan::<bits::Population>(l),
        M::Daa => Some(op!(alu::decimal::<false>)),
        M::Das => Some(op!(alu::decimal::<true>)),
        M::Aaa => Some(op!(alu::ascii::<false>)),
        M::Aas => Some(op!(alu::ascii::<true>)),
        M::Aam => Some(op!(alu::ascii_multiply)),
        M::Aad => Some(op!(alu::ascii_divide)),
        _ => None,
    }
}

fn binary<A: alu::Binary>(l: &Lowering<'_>) -> Option<Handler> {
    let size = l.size(0);
    let lock = l.instruction.has_lock_prefix();
    match (l.form(0)?, l.form(1)?) {
        (Form::Register, Form::Register) => {
            sized!(size, T => op!(alu::binary::<A, T, Dst, Src, false>))
        }
        (Form::Register, Form::Memory) => {
            sized!(size, T => op!(alu::binary::<A, T, Dst, Mem, false>))
        }
        (Form::Register, Form::Immediate) => {
            sized!(size, T => op!(alu::binary::<A, T, Dst, Imm, false>))
        }
        (Form::Memory, Form::Register) if lock => {
            sized!(size, T => op!(alu::binary::<A, T, Mem, Src, true>))
        }
        (Form::Memory, Form::Immediate) if lock => {
            sized!(size, T => op!(alu::binary::<A, T, Mem, Imm, true>))
        }
        (Form::Memory, Form::Register) => {
            sized!(size, T => op!(alu::binary::<A, T, Mem, Src, false>))
        }
        (Form::Memory, Form::Immediate) => {
            sized!(size, T => op!(alu::binary::<A, T, Mem, Imm, false>))
        }
        _ => None,
    }
}

fn comparison<A: alu::Binary>(l: &Lowering<'_>) -> Option<Handler> {
    let size = l.size(0);
    match (l.form(0)?, l.form(1)?) {
        (Form::Register, Form::Register) => sized!(size, T => op!(alu::compare::<A, T, Dst, Src>)),
        (Form::Register, Form::Memory) => sized!(size, T => op!(alu::compare::<A, T, Dst, Mem>)),
        (Form::Register, Form::Immediate) => sized!(size, T => op!(alu::compare::<A, T, Dst, Imm>)),
        (Form::Memory, Form::Register) => sized!(size, T => op!(alu::compare::<A, T, Mem, Src>)),
        (Form::Memory, Form::Immediate) => sized!(size, T => op!(alu::compare::<A, T, Mem, Imm>)),
        _ => None,
    }
}

fn unary<U: alu::Unary>(l: &Lowering<'_>) -> Option<Handler> {
    let size = l.size(0);
    match l.form(0)? {
        Form::Register => sized!(size, T => op!(alu::unary::<U, T, Dst, false>)),
        Form::Memory if l.instruction.has_lock_prefix() => {
            sized!(size, T => op!(alu::unary::<U, T, Mem, true>))
        }
        Form::Memory => sized!(size, T => op!(alu::unary::<U, T, Mem, false>)),
        Form::Immediate => None,
    }
}

fn shifted<S: shift::Shift>(l: &mut Lowering<'_>) -> Option<Handler> {
    let size = l.size(0);
    match (l.form(0)?, l.form(1)?) {
        (Form::Register, Form::Immediate) => sized!(size, T => op!(shift::immediate::<S, T, Dst>)),
        (Form::Memory, Form::Immediate) => sized!(size, T => op!(shift::immediate::<S, T, Mem>)),
        (Form::Register, Form::Register) => sized!(size, T => op!(shift::variable::<S, T, Dst>)),
        (Form::Memory, Form::Register) => sized!(size, T => op!(shift::variable::<S, T, Mem>)),
        _ => None,
    }
}

fn double<S: shift::Double>(l: &mut Lowering<'_>) -> Option<Handler> {
    let size = l.size(0);
    match (l.form(0)?, l.form(2)?) {
        (Form::Register, Form::Immediate) => {
            sized!(size, T => op!(shift::double_immediate::<S, T, Dst>))
        }
        (Form::Memory, Form::Immediate) => {
            sized!(size, T => op!(shift::double_immediate::<S, T, Mem>))
        }
        (Form::Register, Form::Register) => {
            sized!(size, T => op!(shift::double_variable::<S, T, Dst>))
        }
        (Form::Memory, Form::Register) => {
            sized!(size, T => op!(shift::double_variable::<S, T, Mem>))
        }
        _ => None,
    }
}

fn one<W: multiply::Wide>(l: &Lowering<'_>) -> Option<Handler> {
    let size = l.size(0);
    match l.form(0)? {
        Form::Register => sized!(size, T => op!(multiply::wide::<W, T, Dst>)),
        Form::Memory => sized!(size, T => op!(multiply::wide::<W, T, Mem>)),
        Form::Immediate => None,
    }
}

fn product(l: &Lowering<'_>) -> Option<Handler> {
    let size = l.size(0);
    if l.instruction.op_count() == 2 {
        return match l.form(1)? {
            Form::Register => sized!(size, T => op!(multiply::product::<T, Dst, Src>)),
            Form::Memory => sized!(size, T => op!(multiply::product::<T, Dst, Mem>)),
            Form::Immediate => None,
        };
    }
    match l.form(1)? {
        Form::Register => sized!(size, T => op!(multiply::product::<T, Src, Imm>)),
        Form::Memory => sized!(size, T => op!(multiply::product::<T, Mem, Imm>)),
        Form::Immediate => None,
    }
}

fn bit<B: bits::Change>(l: &Lowering<'_>) -> Option<Handler> {
    let size = l.size(0);
    let lock = l.instruction.has_lock_prefix();
    match (l.form(0)?, l.form(1)?) {
        (Form::Register, Form::Register) => sized!(size, T => op!(bits::register::<B, T, Src>)),
        (Form::Register, Form::Immediate) => sized!(size, T => op!(bits::register::<B, T, Imm>)),
        (Form::Memory, Form::Immediate) if lock => {
            sized!(size, T => op!(bits::memory_immediate::<B, T, true>))
        }
        (Form::Memory, Form::Immediate) => {
            sized!(size, T => op!(bits::memory_immediate::<B, T, false>))
        }
        (Form::Memory, Form::Register) if lock => {
            sized!(size, T => op!(bits::memory_register::<B, T, true>))
        }
        (Form::Memory, Form::Register) => {
            sized!(size, T => op!(bits::memory_register::<B, T, false>))
        }
        _ => None,
    }
}

fn scan<S: bits::Scan>(l: &Lowering<'_>) -> Option<Handler> {
    let size = l.size(0);
    match l.form(1)? {
        Form::Register => sized!(size, T => op!(bits::scan::<S, T, Src>)),
        Form::Memory => sized!(size, T => op!(bits::scan::<S, T, Mem>)),
        Form::Immediate => None,
    }
}
