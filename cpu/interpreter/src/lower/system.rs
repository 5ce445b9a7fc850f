//! System instructions.

use iced_x86::Mnemonic as M;

use crate::cpu::Mode;
use crate::exec::{system, tables};
use crate::lower::{Form, Lowering, number, sized};
use crate::op::{Handler, op};
use crate::operand::{Dst, Mem, Src};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<Handler> {
    match l.instruction.mnemonic() {
        M::Mov => special_move(l),
        M::Hlt => l.last(op!(system::halt)),
        M::Cli => Some(op!(system::clear_interrupts)),
        M::Sti => l.last(op!(system::set_interrupts)),
        M::Clac => Some(op!(system::clear_access)),
        M::Stac => Some(op!(system::set_access)),
        M::Clts => Some(op!(system::clear_task_switched)),
        M::Cpuid => Some(op!(system::cpuid)),
        M::Rdtsc => Some(op!(system::rdtsc)),
        M::Rdtscp => Some(op!(system::rdtscp)),
        M::Rdpmc => Some(op!(system::rdpmc)),
        M::Rdmsr => Some(op!(system::rdmsr)),
        M::Wrmsr => l.last(op!(system::wrmsr)),
        M::Swapgs => Some(op!(system::swapgs)),
        M::Invlpg => l.last(op!(system::invlpg)),
        M::Wbinvd | M::Invd => Some(op!(system::flush_caches)),
        M::Xgetbv => Some(op!(system::xgetbv)),
        M::Xsetbv => Some(op!(system::xsetbv)),
        M::Ud2 | M::Ud0 | M::Ud1 => l.last(op!(system::undefined)),
        M::Rdfsbase => base(
            l,
            op!(system::read_base::<u32, 4>),
            op!(system::read_base::<u64, 4>),
        ),
        M::Rdgsbase => base(
            l,
            op!(system::read_base::<u32, 5>),
            op!(system::read_base::<u64, 5>),
        ),
        M::Wrfsbase => base(
            l,
            op!(system::write_base::<u32, 4>),
            op!(system::write_base::<u64, 4>),
        ),
        M::Wrgsbase => base(
            l,
            op!(system::write_base::<u32, 5>),
            op!(system::write_base::<u64, 5>),
        ),
        M::Lgdt => Some(op!(tables::load_table::<false>)),
        M::Lidt => Some(op!(tables::load_table::<true>)),
        M::Sgdt => Some(op!(tables::store_table::<false>)),
        M::Sidt => Some(op!(tables::store_table::<true>)),
        M::Lldt => word(
            l,
            op!(tables::load_local::<Dst>),
            op!(tables::load_local::<Mem>),
        ),
        M::Ltr => word(
            l,
            op!(tables::load_task::<Dst>),
            op!(tables::load_task::<Mem>),
        ),
        M::Sldt => store(l, Which::Local),
        M::Str => store(l, Which::Task),
        M::Smsw => store(l, Which::Status),
        M::Lmsw => {
            l.ends = true;
            word(
                l,
                op!(system::load_status::<Dst>),
                op!(system::load_status::<Mem>),
            )
        }
        M::Verr => word(
            l,
            op!(tables::verify::<Dst, false>),
            op!(tables::verify::<Mem, false>),
        ),
        M::Verw => word(
            l,
            op!(tables::verify::<Dst, true>),
            op!(tables::verify::<Mem, true>),
        ),
        M::Lar | M::Lsl => {
            let size = l.size(0);
            let limit = l.instruction.mnemonic() == M::Lsl;
            match (l.form(1)?, limit) {
                (Form::Register, false) => sized!(size, T => op!(tables::access_rights::<T, Src>)),
                (Form::Memory, false) => sized!(size, T => op!(tables::access_rights::<T, Mem>)),
                (Form::Register, true) => sized!(size, T => op!(tables::segment_limit::<T, Src>)),
                (Form::Memory, true) => sized!(size, T => op!(tables::segment_limit::<T, Mem>)),
                _ => None,
            }
        }
        _ => None,
    }
}

fn special_move(l: &mut Lowering<'_>) -> Option<Handler> {
    let (first, second) = (l.instruction.op0_register(), l.instruction.op1_register());
    let wide = l.mode == Mode::Bits64;
    if first.is_cr() {
        l.op.extra = first.number() as u8;
        l.op.src = number(second);
        return l.last(if wide {
            op!(system::write_control::<u64>)
        } else {
            op!(system::write_control::<u32>)
        });
    }
    if second.is_cr() {
        l.op.extra = second.number() as u8;
        return Some(if wide {
            op!(system::read_control::<u64>)
        } else {
            op!(system::read_control::<u32>)
        });
    }
    if first.is_dr() {
        l.op.extra = first.number() as u8;
        l.op.src = number(second);
        return l.last(if wide {
            op!(system::write_debug::<u64>)
        } else {
            op!(system::write_debug::<u32>)
        });
    }
    if second.is_dr() {
        l.op.extra = second.number() as u8;
        return Some(if wide {
            op!(system::read_debug::<u64>)
        } else {
            op!(system::read_debug::<u32>)
        });
    }
    None
}

fn base(l: &Lowering<'_>, narrow: Handler, wide: Handler) -> Option<Handler> {
    if l.mode != Mode::Bits64 {
        return None;
    }
    Some(if l.size(0) == 8 { wide } else { narrow })
}

fn word(l: &Lowering<'_>, register: Handler, memory: Handler) -> Option<Handler> {
    match l.form(0)? {
        Form::Register => Some(register),
        Form::Memory => Some(memory),
        Form::Immediate => None,
    }
}

enum Which {
    Local,
    Task,
    Status,
}

fn store(l: &Lowering<'_>, which: Which) -> Option<Handler> {
    let size = l.size(0);
    match (l.form(0)?, which) {
        (Form::Register, Which::Local) => sized!(size, T => op!(tables::store_local::<T, Dst>)),
        (Form::Register, Which::Task) => sized!(size, T => op!(tables::store_task::<T, Dst>)),
        (Form::Register, Which::Status) => sized!(size, T => op!(system::store_status::<T, Dst>)),
        (Form::Memory, Which::Local) => Some(op!(tables::store_local::<u16, Mem>)),
        (Form::Memory, Which::Task) => Some(op!(tables::store_task::<u16, Mem>)),
        (Form::Memory, Which::Status) => Some(op!(system::store_status::<u16, Mem>)),
        _ => None,
    }
}
