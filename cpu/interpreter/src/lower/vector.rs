//! Vector instructions that know nothing of floating point.

use atoll_x86::simd::arithmetic::*;
use atoll_x86::simd::shift::*;
use atoll_x86::simd::shuffle::*;
use atoll_x86::simd::text::{explicit, implicit};
use atoll_x86::simd::{Vector, Xmm};
use iced_x86::{Mnemonic as M, Register};

use crate::exec::vector::{self, Aligned, Low, Unaligned};
use crate::lower::{Form, Lowering, sized};
use crate::op::{Handler, op};
use crate::operand::{Mem, Src};

/// Handlers of `dst = f(dst, source, immediate)` for XMM registers, with memory read as `$width`.
macro_rules! xmm {
    ($l:ident, $width:ty, $f:expr) => {
        match $l.form(1)? {
            Form::Register => Some(op!(|cpu, op| vector::xmm_register(cpu, op, $f))),
            Form::Memory => Some(op!(|cpu, op| vector::xmm_memory::<$width>(cpu, op, $f))),
            Form::Immediate => None,
        }
    };
}

/// The same for MMX registers.
macro_rules! mmx {
    ($l:ident, $type:ty, $f:expr) => {
        match $l.form(1)? {
            Form::Register => Some(op!(|cpu, op| vector::mmx_register(cpu, op, $f))),
            Form::Memory => Some(op!(|cpu, op| vector::mmx_memory::<$type>(cpu, op, $f))),
            Form::Immediate => None,
        }
    };
}

/// For XMM or MMX, whichever the instruction names.
macro_rules! both {
    ($l:ident, $f:expr) => {
        if $l.instruction.op0_register().is_mm() {
            mmx!($l, u64, $f)
        } else {
            xmm!($l, Aligned, $f)
        }
    };
}

/// `match` on the mnemonic with lines `Mnemonic => function`, by kind.
macro_rules! table {
    (
        $l:ident;
        both { $($both:ident => $both_f:ident,)* }
        both_control { $($control:ident => $control_f:ident,)* }
        both_source { $($source:ident => $source_f:ident,)* }
        both_low { $($low:ident => $low_f:ident,)* }
        sse { $($sse:ident => $sse_f:ident,)* }
        sse_control { $($imm:ident => $imm_f:ident,)* }
        sse_source { $($one:ident => $one_f:ident,)* }
        extend { $($extend:ident => $extend_f:ident $extend_t:ty,)* }
        shift { $($shift:ident => $shift_f:ident,)* }
        $($rest:tt)*
    ) => {
        match $l.instruction.mnemonic() {
            $(M::$both => both!($l, |a, b, _| $both_f(a, b)),)*
            $(M::$control => both!($l, |a, b, control| $control_f(a, b, control)),)*
            $(M::$source => both!($l, |_, b, _| $source_f(b)),)*
            $(M::$low => if $l.instruction.op0_register().is_mm() {
                mmx!($l, u32, |a, b, _| $low_f(a, b))
            } else {
                xmm!($l, Aligned, |a, b, _| $low_f(a, b))
            },)*
            $(M::$sse => xmm!($l, Aligned, |a, b, _| $sse_f(a, b)),)*
            $(M::$imm => xmm!($l, Aligned, |a, b, control| $imm_f(a, b, control)),)*
            $(M::$one => xmm!($l, Aligned, |_, b, _| $one_f(b)),)*
            $(M::$extend => xmm!($l, Low<$extend_t>, |_, b, _| $extend_f(b)),)*
            $(M::$shift => match $l.form(1)? {
                Form::Immediate if $l.instruction.op0_register().is_mm() => Some(
                    op!(|cpu, op| {
                        vector::mmx_register(cpu, op, |a, _, count| $shift_f(a, count.into()))
                    }),
                ),
                Form::Immediate => Some(
                    op!(|cpu, op| {
                        vector::xmm_register(cpu, op, |a, _, count| $shift_f(a, count.into()))
                    }),
                ),
                _ => both!($l, |a, b, _| $shift_f(a, b.get(0))),
            },)*
            $($rest)*
        }
    };
}

/// Operations whose operands are whole registers.
pub(super) fn lower(l: &mut Lowering<'_>) -> Option<Handler> {
    table! { l;
        both {
            Paddb => paddb, Paddw => paddw, Paddd => paddd, Paddq => paddq,
            Psubb => psubb, Psubw => psubw, Psubd => psubd, Psubq => psubq,
            Paddsb => paddsb, Paddsw => paddsw, Paddusb => paddusb, Paddusw => paddusw,
            Psubsb => psubsb, Psubsw => psubsw, Psubusb => psubusb, Psubusw => psubusw,
            Pmullw => pmullw, Pmulhw => pmulhw, Pmulhuw => pmulhuw, Pmulhrsw => pmulhrsw,
            Pmuludq => pmuludq, Pmaddwd => pmaddwd, Pmaddubsw => pmaddubsw, Psadbw => psadbw,
            Pavgb => pavgb, Pavgw => pavgw,
            Pminub => pminub, Pminsw => pminsw, Pmaxub => pmaxub, Pmaxsw => pmaxsw,
            Pcmpeqb => pcmpeqb, Pcmpeqw => pcmpeqw, Pcmpeqd => pcmpeqd,
            Pcmpgtb => pcmpgtb, Pcmpgtw => pcmpgtw, Pcmpgtd => pcmpgtd,
            Pand => pand, Pandn => pandn, Por => por, Pxor => pxor,
            Psignb => psignb, Psignw => psignw, Psignd => psignd,
            Phaddw => phaddw, Phaddd => phaddd, Phaddsw => phaddsw,
            Phsubw => phsubw, Phsubd => phsubd, Phsubsw => phsubsw,
            Packsswb => packsswb, Packssdw => packssdw, Packuswb => packuswb,
            Punpckhbw => punpckhbw, Punpckhwd => punpckhwd, Punpckhdq => punpckhdq,
            Pshufb => pshufb,
        }
        both_control { Palignr => palignr, }
        both_source { Pabsb => pabsb, Pabsw => pabsw, Pabsd => pabsd, }
        both_low { Punpcklbw => punpcklbw, Punpcklwd => punpcklwd, Punpckldq => punpckldq, }
        sse {
            Andps => pand, Andpd => pand, Andnps => pandn, Andnpd => pandn,
            Orps => por, Orpd => por, Xorps => pxor, Xorpd => pxor,
            Pmulld => pmulld, Pmuldq => pmuldq,
            Pminsb => pminsb, Pminsd => pminsd, Pminuw => pminuw, Pminud => pminud,
            Pmaxsb => pmaxsb, Pmaxsd => pmaxsd, Pmaxuw => pmaxuw, Pmaxud => pmaxud,
            Pcmpeqq => pcmpeqq, Pcmpgtq => pcmpgtq, Packusdw => packusdw,
            Punpcklqdq => punpcklqdq, Punpckhqdq => punpckhqdq,
            Unpcklps => punpckldq, Unpckhps => punpckhdq,
            Unpcklpd => punpcklqdq, Unpckhpd => punpckhqdq,
        }
        sse_control {
            Shufps => shufps, Shufpd => shufpd, Mpsadbw => mpsadbw,
            Blendps => blendps, Blendpd => blendpd, Pblendw => pblendw,
        }
        sse_source { Phminposuw => phminposuw, Movshdup => movshdup, Movsldup => movsldup, }
        extend {
            Pmovsxbw => pmovsxbw u64, Pmovsxbd => pmovsxbd u32, Pmovsxbq => pmovsxbq u16,
            Pmovsxwd => pmovsxwd u64, Pmovsxwq => pmovsxwq u32, Pmovsxdq => pmovsxdq u64,
            Pmovzxbw => pmovzxbw u64, Pmovzxbd => pmovzxbd u32, Pmovzxbq => pmovzxbq u16,
            Pmovzxwd => pmovzxwd u64, Pmovzxwq => pmovzxwq u32, Pmovzxdq => pmovzxdq u64,
            Movddup => movddup u64,
        }
        shift {
            Psllw => psllw, Pslld => pslld, Psllq => psllq,
            Psrlw => psrlw, Psrld => psrld, Psrlq => psrlq,
            Psraw => psraw, Psrad => psrad,
        }
        M::Pslldq => Some(op!(|cpu, op| vector::xmm_register(cpu, op, |a, _, count| pslldq(a, count)))),
        M::Psrldq => Some(op!(|cpu, op| vector::xmm_register(cpu, op, |a, _, count| psrldq(a, count)))),
        M::Pshufd => xmm!(l, Aligned, |_, b, control| pshufd(b, control)),
        M::Pshufhw => xmm!(l, Aligned, |_, b, control| pshufhw(b, control)),
        M::Pshuflw => xmm!(l, Aligned, |_, b, control| pshuflw(b, control)),
        M::Pshufw => mmx!(l, u64, |_, b, control| pshufw(b, control)),
        _ => special(l),
    }
}

/// `blend(dst, source, xmm0)`.
macro_rules! by_mask {
    ($l:ident, $f:ident) => {
        match $l.form(1)? {
            Form::Register => Some(op!(|cpu, op| {
                let mask = cpu.xmm(0);
                vector::xmm_register(cpu, op, |a, b, _| $f(a, b, mask))
            })),
            Form::Memory => Some(op!(|cpu, op| {
                let mask = cpu.xmm(0);
                vector::xmm_memory::<Aligned>(cpu, op, |a, b, _| $f(a, b, mask))
            })),
            Form::Immediate => None,
        }
    };
}

/// Element number `immediate` of XMM to `$type` in memory or a register.
macro_rules! extracts {
    ($l:ident, $type:ty) => {
        match $l.form(0)? {
            Form::Register => Some(op!(|cpu, op| {
                vector::xmm_to_register(cpu, op, |a, index| extract::<$type, 16>(a, index).into())
            })),
            Form::Memory => Some(op!(|cpu, op| {
                vector::xmm_to_memory::<$type>(cpu, op, |a, index| extract(a, index))
            })),
            Form::Immediate => None,
        }
    };
}

/// `$type` from a register or memory to element number `immediate` of XMM.
macro_rules! inserts {
    ($l:ident, $type:ty) => {
        match $l.form(1)? {
            Form::Register => Some(op!(|cpu, op| vector::insert_register::<$type>(
                cpu, op, insert
            ))),
            Form::Memory => Some(op!(|cpu, op| vector::insert_memory::<$type>(
                cpu, op, insert
            ))),
            Form::Immediate => None,
        }
    };
}

macro_rules! compares {
    ($l:ident, $mask:literal, $compare:expr) => {
        match $l.form(1)? {
            Form::Register => Some(op!(|cpu, op| vector::strings::<false, $mask>(
                cpu, op, $compare
            ))),
            Form::Memory => Some(op!(|cpu, op| vector::strings::<true, $mask>(
                cpu, op, $compare
            ))),
            Form::Immediate => None,
        }
    };
}

/// Operations whose operands are of different kinds.
fn special(l: &mut Lowering<'_>) -> Option<Handler> {
    let from_mmx = l.instruction.op1_register().is_mm();
    let to_mmx = l.instruction.op0_register().is_mm();
    match l.instruction.mnemonic() {
        M::Pblendvb => by_mask!(l, pblendvb),
        M::Blendvps => by_mask!(l, blendvps),
        M::Blendvpd => by_mask!(l, blendvpd),
        M::Ptest => Some(match l.form(1)? {
            Form::Register => op!(vector::test::<Aligned, false>),
            _ => op!(vector::test::<Aligned, true>),
        }),
        M::Insertps => match l.form(1)? {
            Form::Register => Some(op!(|cpu, op| {
                vector::xmm_register(cpu, op, |a, b, control| {
                    insertps(a, extract(b, control >> 6), control)
                })
            })),
            _ => Some(op!(|cpu, op| {
                vector::xmm_memory::<Low<u32>>(cpu, op, |a, b, control| {
                    insertps(a, b.get(0), control)
                })
            })),
        },
        M::Pmovmskb if from_mmx => Some(op!(|cpu, op| vector::mmx_to_register(cpu, op, |a, _| {
            pmovmskb(a).into()
        }))),
        M::Pmovmskb => Some(op!(|cpu, op| vector::xmm_to_register(cpu, op, |a, _| {
            pmovmskb(a).into()
        }))),
        M::Movmskps => Some(op!(|cpu, op| vector::xmm_to_register(cpu, op, |a, _| {
            movmskps(a).into()
        }))),
        M::Movmskpd => Some(op!(|cpu, op| vector::xmm_to_register(cpu, op, |a, _| {
            movmskpd(a).into()
        }))),
        M::Pextrw if from_mmx => Some(op!(|cpu, op| {
            vector::mmx_to_register(cpu, op, |a, index| extract::<u16, 8>(a, index).into())
        })),
        M::Pextrb => extracts!(l, u8),
        M::Pextrw => extracts!(l, u16),
        M::Pextrd | M::Extractps => extracts!(l, u32),
        M::Pextrq => extracts!(l, u64),
        M::Pinsrw if to_mmx => match l.form(1)? {
            Form::Register => Some(op!(|cpu, op| vector::mmx_insert_register(cpu, op, insert))),
            _ => Some(op!(|cpu, op| {
                vector::mmx_memory::<u16>(cpu, op, |a, b, index| insert(a, b.get::<u16>(0), index))
            })),
        },
        M::Pinsrb => inserts!(l, u8),
        M::Pinsrw => inserts!(l, u16),
        M::Pinsrd => inserts!(l, u32),
        M::Pinsrq => inserts!(l, u64),
        M::Pcmpestri => {
            compares!(l, false, |cpu, a, b, control| {
                explicit(a, b, vector::lengths::<false>(cpu), control)
            })
        }
        M::Pcmpestri64 => {
            compares!(l, false, |cpu, a, b, control| {
                explicit(a, b, vector::lengths::<true>(cpu), control)
            })
        }
        M::Pcmpestrm => {
            compares!(l, true, |cpu, a, b, control| {
                explicit(a, b, vector::lengths::<false>(cpu), control)
            })
        }
        M::Pcmpestrm64 => {
            compares!(l, true, |cpu, a, b, control| {
                explicit(a, b, vector::lengths::<true>(cpu), control)
            })
        }
        M::Pcmpistri => compares!(l, false, |_, a, b, control| implicit(a, b, control)),
        M::Pcmpistrm => compares!(l, true, |_, a, b, control| implicit(a, b, control)),
        M::Maskmovdqu => masked(l, op!(vector::masked_store::<false>)),
        M::Maskmovq => masked(l, op!(vector::masked_store::<true>)),
        M::Emms => Some(op!(vector::empty_mmx)),
        M::Crc32 => {
            let size = l.size(1);
            match l.form(1)? {
                Form::Register => sized!(size, T => op!(vector::crc32::<T, Src>)),
                _ => sized!(size, T => op!(vector::crc32::<T, Mem>)),
            }
        }
        _ => moves(l),
    }
}

/// MASKMOVDQU and MASKMOVQ: the address is in RDI, the registers are the second and third operands.
fn masked(l: &mut Lowering<'_>, handler: Handler) -> Option<Handler> {
    use iced_x86::OpKind as K;
    let bytes = match l.instruction.op0_kind() {
        K::MemorySegDI => 2,
        K::MemorySegEDI => 4,
        _ => 8,
    };
    l.address_size(bytes);
    l.op.base = 7;
    l.op.dst = l.instruction.op1_register().number() as u8;
    l.op.src = l.instruction.op2_register().number() as u8;
    let segment = l.instruction.memory_segment();
    l.op.seg = match segment {
        Register::FS | Register::GS => segment.number() as u8,
        _ if l.mode == crate::cpu::Mode::Bits64 => 6,
        _ => segment.number() as u8,
    };
    Some(handler)
}

/// `b` with `a`'s upper elements of type `u32`: MOVSS between registers.
fn lowest_single(a: Xmm, b: Xmm, _: u8) -> Xmm {
    a.with(0, b.get::<u32>(0))
}

/// MOVSD between registers.
fn lowest_double(a: Xmm, b: Xmm, _: u8) -> Xmm {
    a.with(0, b.get::<u64>(0))
}

/// Moves: MOVAPS, MOVD, MOVHPS and their like.
fn moves(l: &mut Lowering<'_>) -> Option<Handler> {
    let to_memory = l.form(0) == Some(Form::Memory);
    let from_memory = l.form(1) == Some(Form::Memory);
    let (first, second) = (l.instruction.op0_register(), l.instruction.op1_register());
    match l.instruction.mnemonic() {
        M::Movaps | M::Movapd | M::Movdqa | M::Movntps | M::Movntpd | M::Movntdq | M::Movntdqa => {
            if to_memory {
                return Some(op!(vector::store::<true>));
            }
            xmm!(l, Aligned, |_, b, _| b)
        }
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu => {
            if to_memory {
                return Some(op!(vector::store::<false>));
            }
            xmm!(l, Unaligned, |_, b, _| b)
        }
        M::Movss if to_memory => Some(op!(vector::store_element::<u32, 0>)),
        M::Movss if from_memory => xmm!(l, Low<u32>, |_, b, _| b),
        M::Movss => xmm!(l, Low<u32>, lowest_single),
        M::Movsd if to_memory => Some(op!(vector::store_element::<u64, 0>)),
        M::Movsd if from_memory => xmm!(l, Low<u64>, |_, b, _| b),
        M::Movsd => xmm!(l, Low<u64>, lowest_double),
        M::Movlps | M::Movlpd if to_memory => Some(op!(vector::store_element::<u64, 0>)),
        M::Movlps | M::Movlpd => xmm!(l, Low<u64>, lowest_double),
        M::Movhps | M::Movhpd if to_memory => Some(op!(vector::store_element::<u64, 1>)),
        M::Movhps | M::Movhpd | M::Movlhps => {
            xmm!(l, Low<u64>, |a, b, _| a.with(1, b.get::<u64>(0)))
        }
        M::Movhlps => xmm!(l, Low<u64>, |a, b, _| a.with(0, b.get::<u64>(1))),
        M::Movntq => Some(op!(vector::store_mmx::<u64>)),
        M::Movq2dq => Some(op!(vector::mmx_to_xmm)),
        M::Movdq2q => Some(op!(vector::xmm_to_mmx)),
        M::Movd | M::Movq => {
            let wide = l.instruction.mnemonic() == M::Movq;
            if to_memory {
                return Some(match (second.is_mm(), wide) {
                    (true, true) => op!(vector::store_mmx::<u64>),
                    (true, false) => op!(vector::store_mmx::<u32>),
                    (false, true) => op!(vector::store_element::<u64, 0>),
                    (false, false) => op!(vector::store_element::<u32, 0>),
                });
            }
            if first.is_mm() {
                return match (second.is_gpr(), wide) {
                    (true, true) => Some(op!(vector::mmx_from_general::<u64>)),
                    (true, false) => Some(op!(vector::mmx_from_general::<u32>)),
                    (false, true) => mmx!(l, u64, |_, b, _| b),
                    (false, false) => mmx!(l, u32, |_, b, _| b),
                };
            }
            if first.is_gpr() {
                return Some(match (second.is_mm(), wide) {
                    (true, true) => op!(vector::mmx_to_general::<u64>),
                    (true, false) => op!(vector::mmx_to_general::<u32>),
                    (false, true) => op!(vector::to_general::<u64>),
                    (false, false) => op!(vector::to_general::<u32>),
                });
            }
            match (second.is_gpr(), wide) {
                (true, true) => Some(op!(vector::from_general::<u64>)),
                (true, false) => Some(op!(vector::from_general::<u32>)),
                (false, true) => xmm!(l, Low<u64>, |_, b, _| Vector::ZERO.with(0, b.get::<u64>(0))),
                (false, false) => xmm!(l, Low<u32>, |_, b, _| b),
            }
        }
        _ => None,
    }
}
