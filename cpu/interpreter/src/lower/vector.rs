//! Vector instructions on integers, and moves.

use iced_x86::{Mnemonic as M, Register};

use crate::cpu::Mode;
use crate::exec::vector::packed::{self, Shape};
use crate::exec::vector::{elements, moves, special};
use crate::lower::{Form, Lowering, number};
use crate::op::Handler;
use crate::operand::{Mem, Src};

pub(super) fn lower(l: &mut Lowering<'_>) -> Option<Handler> {
    let mnemonic = l.instruction.mnemonic();
    let memory = (0..l.instruction.op_count()).any(|index| l.form(index) == Some(Form::Memory));
    let xmm = (0..l.instruction.op_count()).any(|index| l.instruction.op_register(index).is_xmm());
    let shape = Shape {
        xmm,
        memory,
        immediate: l.form(1) == Some(Form::Immediate),
    };
    if !xmm && memory && matches!(mnemonic, M::Punpcklbw | M::Punpcklwd | M::Punpckldq) {
        return Some(match mnemonic {
            M::Punpcklbw => packed::mmx_unpack_low_memory::<1>,
            M::Punpcklwd => packed::mmx_unpack_low_memory::<2>,
            _ => packed::mmx_unpack_low_memory::<4>,
        });
    }
    packed::binary(mnemonic, shape)
        .or_else(|| packed::unpack_low(mnemonic, shape))
        .or_else(|| packed::unary(mnemonic, shape))
        .or_else(|| packed::shifts(mnemonic, shape))
        .or_else(|| elements::widen(mnemonic, memory))
        .or_else(|| vector_moves(l, memory))
        .or_else(|| shuffles(l, memory, xmm))
        .or_else(|| element_moves(l, memory, xmm))
        .or_else(|| specials(l, memory))
}

/// Register to register, load, store.
fn direction(
    l: &Lowering<'_>,
    register: Handler,
    load: Handler,
    store: Handler,
) -> Option<Handler> {
    match (l.form(0)?, l.form(1)?) {
        (Form::Register, Form::Register) => Some(register),
        (Form::Register, Form::Memory) => Some(load),
        (Form::Memory, Form::Register) => Some(store),
        _ => None,
    }
}

fn vector_moves(l: &Lowering<'_>, memory: bool) -> Option<Handler> {
    match l.instruction.mnemonic() {
        M::Movaps | M::Movapd | M::Movdqa => direction(
            l,
            moves::registers,
            moves::load::<true>,
            moves::store::<true>,
        ),
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu => direction(
            l,
            moves::registers,
            moves::load::<false>,
            moves::store::<false>,
        ),
        M::Movntps | M::Movntpd | M::Movntdq | M::Movntdqa => direction(
            l,
            moves::registers,
            moves::load::<true>,
            moves::store::<true>,
        ),
        M::Movss => direction(
            l,
            moves::merge_low::<u32>,
            moves::load_low::<u32>,
            moves::store_low::<u32>,
        ),
        M::Movsd => direction(
            l,
            moves::merge_low::<u64>,
            moves::load_low::<u64>,
            moves::store_low::<u64>,
        ),
        M::Movlps | M::Movlpd => direction(
            l,
            moves::registers,
            moves::load_half::<0>,
            moves::store_low::<u64>,
        ),
        M::Movhps | M::Movhpd => direction(
            l,
            moves::registers,
            moves::load_half::<1>,
            moves::store_high,
        ),
        M::Movhlps => Some(moves::half_register::<1, 0>),
        M::Movlhps => Some(moves::half_register::<0, 1>),
        M::Movddup if memory => Some(moves::duplicate_double_memory),
        M::Movddup => Some(elements::movddup),
        M::Movntq => Some(moves::mmx_store::<u64>),
        M::Movdq2q => Some(moves::xmm_to_mmx),
        M::Movq2dq => Some(moves::mmx_to_xmm),
        M::Movd | M::Movq => narrow_move(l),
        _ => None,
    }
}

/// MOVD and MOVQ between all kinds of registers and memory.
fn narrow_move(l: &Lowering<'_>) -> Option<Handler> {
    let (first, second) = (l.instruction.op0_register(), l.instruction.op1_register());
    let wide = l.instruction.mnemonic() == M::Movq;
    let pick = |narrow: Handler, whole: Handler| Some(if wide { whole } else { narrow });
    let kind = |register: Register| {
        if register.is_xmm() {
            'x'
        } else if register.is_mm() {
            'm'
        } else if register == Register::None {
            '-'
        } else {
            'g'
        }
    };
    match (kind(first), kind(second)) {
        ('x', 'x') => Some(moves::low_register),
        ('x', '-') => pick(moves::load_low::<u32>, moves::load_low::<u64>),
        ('-', 'x') => pick(moves::store_low::<u32>, moves::store_low::<u64>),
        ('x', 'g') => pick(moves::from_general::<u32>, moves::from_general::<u64>),
        ('g', 'x') => pick(moves::to_general::<u32>, moves::to_general::<u64>),
        ('m', 'm') => Some(moves::mmx_register),
        ('m', '-') => pick(moves::mmx_load::<u32>, moves::mmx_load::<u64>),
        ('-', 'm') => pick(moves::mmx_store::<u32>, moves::mmx_store::<u64>),
        ('m', 'g') => pick(
            moves::mmx_from_general::<u32>,
            moves::mmx_from_general::<u64>,
        ),
        ('g', 'm') => pick(moves::mmx_to_general::<u32>, moves::mmx_to_general::<u64>),
        _ => None,
    }
}

fn shuffles(l: &Lowering<'_>, memory: bool, xmm: bool) -> Option<Handler> {
    let pick =
        |register: Handler, from_memory: Handler| Some(if memory { from_memory } else { register });
    match l.instruction.mnemonic() {
        M::Pshufd => pick(elements::pshufd, elements::pshufd_memory),
        M::Pshufhw => pick(elements::pshufhw, elements::pshufhw_memory),
        M::Pshuflw => pick(elements::pshuflw, elements::pshuflw_memory),
        M::Pshufw => pick(elements::pshufw, elements::pshufw_memory),
        M::Shufps => pick(elements::shufps, elements::shufps_memory),
        M::Shufpd => pick(elements::shufpd, elements::shufpd_memory),
        M::Palignr if xmm => pick(elements::palignr, elements::palignr_memory),
        M::Palignr => pick(elements::palignr_mmx, elements::palignr_mmx_memory),
        M::Blendps => pick(elements::blendps, elements::blendps_memory),
        M::Blendpd => pick(elements::blendpd, elements::blendpd_memory),
        M::Pblendw => pick(elements::pblendw, elements::pblendw_memory),
        M::Mpsadbw => pick(elements::mpsadbw, elements::mpsadbw_memory),
        M::Phminposuw => pick(elements::phminposuw, elements::phminposuw_memory),
        M::Movshdup => pick(elements::movshdup, elements::movshdup_memory),
        M::Movsldup => pick(elements::movsldup, elements::movsldup_memory),
        M::Pslldq => pick(elements::pslldq, elements::pslldq_memory),
        M::Psrldq => pick(elements::psrldq, elements::psrldq_memory),
        M::Pblendvb => pick(elements::pblendvb, elements::pblendvb_memory),
        M::Blendvps => pick(elements::blendvps, elements::blendvps_memory),
        M::Blendvpd => pick(elements::blendvpd, elements::blendvpd_memory),
        _ => None,
    }
}

fn element_moves(l: &Lowering<'_>, memory: bool, xmm: bool) -> Option<Handler> {
    let pick =
        |register: Handler, from_memory: Handler| Some(if memory { from_memory } else { register });
    match l.instruction.mnemonic() {
        M::Pmovmskb if xmm => Some(elements::byte_mask),
        M::Pmovmskb => Some(elements::byte_mask_mmx),
        M::Movmskps => Some(elements::single_mask),
        M::Movmskpd => Some(elements::double_mask),
        M::Pinsrb => pick(elements::insert::<u8>, elements::insert_memory::<u8>),
        M::Pinsrw if xmm => pick(elements::insert::<u16>, elements::insert_memory::<u16>),
        M::Pinsrw => pick(elements::insert_mmx, elements::insert_mmx_memory),
        M::Pinsrd => pick(elements::insert::<u32>, elements::insert_memory::<u32>),
        M::Pinsrq => pick(elements::insert::<u64>, elements::insert_memory::<u64>),
        M::Pextrb => pick(elements::extract::<u8>, elements::extract_memory::<u8>),
        M::Pextrw if xmm => pick(elements::extract::<u16>, elements::extract_memory::<u16>),
        M::Pextrw => Some(elements::extract_mmx),
        M::Pextrd | M::Extractps => pick(elements::extract::<u32>, elements::extract_memory::<u32>),
        M::Pextrq => pick(elements::extract::<u64>, elements::extract_memory::<u64>),
        M::Insertps => pick(elements::insertps, elements::insertps_memory),
        _ => None,
    }
}

fn specials(l: &mut Lowering<'_>, memory: bool) -> Option<Handler> {
    let pick =
        |register: Handler, from_memory: Handler| Some(if memory { from_memory } else { register });
    match l.instruction.mnemonic() {
        M::Pcmpestri | M::Pcmpestri64 | M::Pcmpestrm | M::Pcmpestrm64 => {
            let index = matches!(l.instruction.mnemonic(), M::Pcmpestri | M::Pcmpestri64);
            l.op.extra = u8::from(matches!(
                l.instruction.mnemonic(),
                M::Pcmpestri64 | M::Pcmpestrm64
            ));
            if index {
                pick(
                    special::compare_text::<true, true, false>,
                    special::compare_text::<true, true, true>,
                )
            } else {
                pick(
                    special::compare_text::<true, false, false>,
                    special::compare_text::<true, false, true>,
                )
            }
        }
        M::Pcmpistri => pick(
            special::compare_text::<false, true, false>,
            special::compare_text::<false, true, true>,
        ),
        M::Pcmpistrm => pick(
            special::compare_text::<false, false, false>,
            special::compare_text::<false, false, true>,
        ),
        M::Ptest => pick(special::test::<false>, special::test::<true>),
        M::Maskmovdqu | M::Maskmovq => {
            // The data and the mask are the second and third operand; the place is [RDI].
            l.op.dst = number(l.instruction.op1_register());
            l.op.src = number(l.instruction.op2_register());
            (l.op.base, l.op.index, l.op.disp) = (7, crate::op::ZERO, 0);
            let segment = l.instruction.memory_segment();
            l.op.seg = match segment {
                Register::FS | Register::GS => segment.number() as u8,
                _ if l.mode == Mode::Bits64 => 6,
                _ => segment.number() as u8,
            };
            l.address_size(match l.instruction.op0_kind() {
                iced_x86::OpKind::MemorySegDI => 2,
                iced_x86::OpKind::MemorySegEDI => 4,
                _ => 8,
            });
            Some(if l.instruction.mnemonic() == M::Maskmovq {
                special::masked_mmx
            } else {
                special::masked_xmm
            })
        }
        M::Crc32 => {
            let size = l.size(1);
            match l.form(1)? {
                Form::Register => crate::lower::sized!(size, T => special::crc32::<T, Src>),
                Form::Memory => crate::lower::sized!(size, T => special::crc32::<T, Mem>),
                Form::Immediate => None,
            }
        }
        _ => None,
    }
}
