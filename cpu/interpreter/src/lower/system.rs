//! System instructions.

use iced_x86::Mnemonic as M;

use crate::cpu::Mode;
use crate::exec::{system, tables};
use crate::lower::{Form, Lowering, number, sized};
use crate::op::Handler;
use crate::operand::{Dst, Mem, Src};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<Handler> {
    match l.instruction.mnemonic() {
        M::Mov => special_move(l),
        M::Hlt => l.last(system::halt),
        M::Cli => Some(system::clear_interrupts),
        M::Sti => l.last(system::set_interrupts),
        M::Clac => Some(system::clear_access),
        M::Stac => Some(system::set_access),
        M::Clts => Some(system::clear_task_switched),
        M::Cpuid => Some(system::cpuid),
        M::Rdtsc => Some(system::rdtsc),
        M::Rdtscp => Some(system::rdtscp),
        M::Rdpmc => Some(system::rdpmc),
        M::Rdmsr => Some(system::rdmsr),
        M::Wrmsr => l.last(system::wrmsr),
        M::Swapgs => Some(system::swapgs),
        M::Invlpg => l.last(system::invlpg),
        M::Wbinvd | M::Invd => Some(system::flush_caches),
        M::Xgetbv => Some(system::xgetbv),
        M::Xsetbv => Some(system::xsetbv),
        M::Ud2 | M::Ud0 | M::Ud1 => l.last(system::undefined),
        M::Rdfsbase => base(l, system::read_base::<u32, 4>, system::read_base::<u64, 4>),
        M::Rdgsbase => base(l, system::read_base::<u32, 5>, system::read_base::<u64, 5>),
        M::Wrfsbase => base(
            l,
            system::write_base::<u32, 4>,
            system::write_base::<u64, 4>,
        ),
        M::Wrgsbase => base(
            l,
            system::write_base::<u32, 5>,
            system::write_base::<u64, 5>,
        ),
        M::Lgdt => Some(tables::load_table::<false>),
        M::Lidt => Some(tables::load_table::<true>),
        M::Sgdt => Some(tables::store_table::<false>),
        M::Sidt => Some(tables::store_table::<true>),
        M::Lldt => word(l, tables::load_local::<Dst>, tables::load_local::<Mem>),
        M::Ltr => word(l, tables::load_task::<Dst>, tables::load_task::<Mem>),
        M::Sldt => store(l, Which::Local),
        M::Str => store(l, Which::Task),
        M::Smsw => store(l, Which::Status),
        M::Lmsw => {
            l.ends = true;
            word(l, system::load_status::<Dst>, system::load_status::<Mem>)
        }
        M::Verr => word(
            l,
            tables::verify::<Dst, false>,
            tables::verify::<Mem, false>,
        ),
        M::Verw => word(l, tables::verify::<Dst, true>, tables::verify::<Mem, true>),
        M::Lar | M::Lsl => {
            let size = l.size(0);
            let limit = l.instruction.mnemonic() == M::Lsl;
            match (l.form(1)?, limit) {
                (Form::Register, false) => sized!(size, T => tables::access_rights::<T, Src>),
                (Form::Memory, false) => sized!(size, T => tables::access_rights::<T, Mem>),
                (Form::Register, true) => sized!(size, T => tables::segment_limit::<T, Src>),
                (Form::Memory, true) => sized!(size, T => tables::segment_limit::<T, Mem>),
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
            system::write_control::<u64>
        } else {
            system::write_control::<u32>
        });
    }
    if second.is_cr() {
        l.op.extra = second.number() as u8;
        return Some(if wide {
            system::read_control::<u64>
        } else {
            system::read_control::<u32>
        });
    }
    if first.is_dr() {
        l.op.extra = first.number() as u8;
        l.op.src = number(second);
        return l.last(if wide {
            system::write_debug::<u64>
        } else {
            system::write_debug::<u32>
        });
    }
    if second.is_dr() {
        l.op.extra = second.number() as u8;
        return Some(if wide {
            system::read_debug::<u64>
        } else {
            system::read_debug::<u32>
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
        (Form::Register, Which::Local) => sized!(size, T => tables::store_local::<T, Dst>),
        (Form::Register, Which::Task) => sized!(size, T => tables::store_task::<T, Dst>),
        (Form::Register, Which::Status) => sized!(size, T => system::store_status::<T, Dst>),
        (Form::Memory, Which::Local) => Some(tables::store_local::<u16, Mem>),
        (Form::Memory, Which::Task) => Some(tables::store_task::<u16, Mem>),
        (Form::Memory, Which::Status) => Some(system::store_status::<u16, Mem>),
        _ => None,
    }
}
