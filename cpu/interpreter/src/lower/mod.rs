//! From an instruction as decoded to the operation that executes it.

mod control;
mod data;
mod float;
mod integer;
mod pointer;
mod save;
pub(crate) mod string;
mod system;
mod vector;
mod x87;

use iced_x86::{Code, CpuidFeature, Instruction, OpKind, Register};

use crate::cpu::Mode;
use crate::exec;
use crate::handlers::UNDEFINED;
use crate::op::{
    Handler, LINKS, Op, RIP, WRAP_16_LINEAR, WRAP_32, WRAP_32_LINEAR, WRAP_NONE, ZERO, op,
};
use crate::operand::HIGH_BYTE;

/// What an instruction of the model gets that nobody lowers.
const UNSUPPORTED: Handler = op!(exec::system::unsupported);

/// An operation that has no number yet, what executes it, and whether its block ends with it.
#[derive(Clone, Copy)]
pub(crate) struct Lowered {
    pub(crate) op: Op,
    pub(crate) run: Handler,
    pub(crate) ends: bool,
}

/// What an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Register,
    Memory,
    Immediate,
}

/// One instruction on its way.
pub(crate) struct Lowering<'a> {
    pub(crate) instruction: &'a Instruction,
    pub(crate) mode: Mode,
    pub(crate) op: Op,
    pub(crate) ends: bool,
}

/// Lowers `instruction`, decoded with the block's start as address 0.
pub(crate) fn instruction(instruction: &Instruction, mode: Mode) -> Lowered {
    let mut lowering = Lowering {
        instruction,
        mode,
        op: blank(instruction.ip(), instruction.len()),
        ends: false,
    };
    lowering.operands();
    let handler = if instruction.is_invalid() || !lowering.lock_is_legal() {
        None
    } else {
        integer::lower(&mut lowering)
            .or_else(|| data::lower(&mut lowering))
            .or_else(|| control::lower(&mut lowering))
            .or_else(|| string::lower(&mut lowering))
            .or_else(|| system::lower(&mut lowering))
            .or_else(|| save::lower(&mut lowering))
            .or_else(|| pointer::lower(&mut lowering))
            .or_else(|| vector::lower(&mut lowering))
            .or_else(|| float::lower(&mut lowering))
            .or_else(|| x87::lower(&mut lowering))
    };
    let run = handler.unwrap_or_else(|| {
        lowering.op.imm = instruction.code() as u64;
        lowering.ends = true;
        if is_shown(instruction) {
            UNSUPPORTED
        } else {
            op!(exec::system::undefined)
        }
    });
    Lowered {
        op: lowering.op,
        run,
        ends: lowering.ends,
    }
}

/// Whether an instruction belongs to the CPU model shown, so that it ought to be known.
fn is_shown(instruction: &Instruction) -> bool {
    use CpuidFeature as F;
    !instruction.is_invalid()
        && instruction.code() != Code::INVALID
        && instruction.cpuid_features().iter().all(|feature| {
            matches!(
                feature,
                F::INTEL8086
                    | F::INTEL186
                    | F::INTEL286
                    | F::INTEL386
                    | F::INTEL486
                    | F::X64
                    | F::CMOV
                    | F::CX8
                    | F::CMPXCHG16B
                    | F::FPU
                    | F::FPU287
                    | F::FPU387
                    | F::FXSR
                    | F::MMX
                    | F::SSE
                    | F::SSE2
                    | F::SSE3
                    | F::SSSE3
                    | F::SSE4_1
                    | F::SSE4_2
                    | F::POPCNT
                    | F::XSAVE
            )
        })
}

/// The operation at a block's end that has no branch: goes on at `next`.
pub(crate) fn fall_through(next: u16) -> Lowered {
    Lowered {
        op: Op {
            scale: LINKS,
            ..blank(next.into(), 0)
        },
        run: op!(exec::control::fall_through),
        ends: true,
    }
}

/// An operation that is in no block.
pub(crate) fn nothing() -> Op {
    Op {
        count: 0,
        ..blank(0, 0)
    }
}

/// The operation of an instruction longer than 15 bytes.
pub(crate) fn too_long(instruction: &Instruction) -> Lowered {
    Lowered {
        op: blank(instruction.ip(), instruction.len()),
        run: op!(exec::system::too_long),
        ends: true,
    }
}

fn blank(offset: u64, len: usize) -> Op {
    Op {
        handler: UNDEFINED,
        imm: 0,
        disp: 0,
        dst: ZERO,
        src: ZERO,
        base: ZERO,
        index: ZERO,
        scale: 0,
        seg: 6,
        wrap: WRAP_NONE,
        extra: 0,
        offset: offset as u16,
        len: len as u8,
        count: 1,
        place: 0,
    }
}

/// The number by which [`Operand`](crate::operand::Operand) takes a general register.
pub(crate) fn number(register: Register) -> u8 {
    match register {
        Register::AH => HIGH_BYTE,
        Register::CH => HIGH_BYTE | 1,
        Register::DH => HIGH_BYTE | 2,
        Register::BH => HIGH_BYTE | 3,
        Register::None => ZERO,
        Register::RIP | Register::EIP => RIP,
        _ if register.is_gpr() => register.full_register().number() as u8,
        _ => register.number() as u8,
    }
}

impl Lowering<'_> {
    /// What operand `index` is; `None` for kinds that have no general form.
    pub(crate) fn form(&self, index: u32) -> Option<Form> {
        match self.instruction.try_op_kind(index).ok()? {
            OpKind::Register => Some(Form::Register),
            OpKind::Memory => Some(Form::Memory),
            OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => Some(Form::Immediate),
            _ => None,
        }
    }

    /// Bytes of operand `index`.
    pub(crate) fn size(&self, index: u32) -> usize {
        match self.instruction.op_kind(index) {
            OpKind::Register => self.instruction.op_register(index).size(),
            OpKind::Memory => self.instruction.memory_size().size(),
            _ => self.size(0),
        }
    }

    /// Fills in what the operands' kinds say: the first register as `dst`, the next as `src`, memory, immediate.
    fn operands(&mut self) {
        let mut registers = 0;
        for index in 0..self.instruction.op_count().min(4) {
            match self.form(index) {
                Some(Form::Register) => {
                    let register = number(self.instruction.op_register(index));
                    match (index, registers) {
                        (0, _) => self.op.dst = register,
                        (1, _) => self.op.src = register,
                        _ => self.op.extra = register,
                    }
                    registers += 1;
                }
                Some(Form::Memory) => self.memory(),
                Some(Form::Immediate) => self.op.imm = self.instruction.immediate(index),
                None => {}
            }
        }
    }

    fn memory(&mut self) {
        let instruction = self.instruction;
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        self.op.base = number(base);
        self.op.index = number(index);
        self.op.scale = instruction.memory_index_scale().trailing_zeros() as u8;
        self.op.disp = instruction.memory_displacement64();
        let size = if base != Register::None {
            base.size()
        } else if index != Register::None {
            index.size()
        } else {
            instruction.memory_displ_size() as usize
        };
        self.address_size(size);
        let segment = instruction.memory_segment();
        self.op.seg = match segment {
            Register::FS | Register::GS => segment.number() as u8,
            _ if self.mode == Mode::Bits64 => 6,
            _ => segment.number() as u8,
        };
    }

    /// Sets how addresses of `bytes` bytes wrap.
    pub(crate) fn address_size(&mut self, bytes: usize) {
        self.op.wrap = match (self.mode, bytes) {
            (Mode::Bits64, 4) => WRAP_32,
            (Mode::Bits64, _) => WRAP_NONE,
            (_, 2) => WRAP_16_LINEAR,
            _ => WRAP_32_LINEAR,
        };
    }

    /// Uses the handler and ends the block.
    pub(crate) fn last(&mut self, handler: Handler) -> Option<Handler> {
        self.ends = true;
        Some(handler)
    }

    /// LOCK goes with few instructions, and only when they write memory (Intel SDM vol. 2 LOCK).
    fn lock_is_legal(&self) -> bool {
        use iced_x86::Mnemonic as M;
        if !self.instruction.has_lock_prefix() {
            return true;
        }
        self.form(0) == Some(Form::Memory)
            && matches!(
                self.instruction.mnemonic(),
                M::Add
                    | M::Adc
                    | M::And
                    | M::Btc
                    | M::Btr
                    | M::Bts
                    | M::Cmpxchg
                    | M::Cmpxchg8b
                    | M::Cmpxchg16b
                    | M::Dec
                    | M::Inc
                    | M::Neg
                    | M::Not
                    | M::Or
                    | M::Sbb
                    | M::Sub
                    | M::Xadd
                    | M::Xchg
                    | M::Xor
            )
    }
}

/// Chooses a handler by operand size in bytes: `sized!(size, T => handler::<T>)`.
macro_rules! sized {
    ($size:expr, $type:ident => $handler:expr) => {
        match $size {
            1 => {
                type $type = u8;
                Some($handler)
            }
            2 => {
                type $type = u16;
                Some($handler)
            }
            4 => {
                type $type = u32;
                Some($handler)
            }
            8 => {
                type $type = u64;
                Some($handler)
            }
            _ => None,
        }
    };
}
pub(crate) use sized;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use iced_x86::{Decoder, DecoderOptions};

    use super::*;

    /// Opcodes of every map with every prefix that selects another, each with a register and a memory operand for every
    /// extension of the opcode; all of ModRM where its register half selects, too.
    fn every_encoding(mut visit: impl FnMut(&[u8])) {
        let prefixes: [&[u8]; 8] = [
            &[],
            &[0x66],
            &[0xF3],
            &[0xF2],
            &[0x48],
            &[0x66, 0x48],
            &[0xF3, 0x48],
            &[0xF2, 0x48],
        ];
        let maps: [&[u8]; 4] = [&[], &[0x0F], &[0x0F, 0x38], &[0x0F, 0x3A]];
        for prefix in prefixes {
            for map in maps {
                for opcode in 0..=255 {
                    let whole = match map {
                        [] => matches!(opcode, 0xD8..=0xDF),
                        [0x0F] => matches!(opcode, 0x01 | 0xAE | 0xC7),
                        _ => false,
                    };
                    for modrm in 0..=255 {
                        if !whole && !matches!(modrm & 0xC7, 0 | 0xC1) {
                            continue;
                        }
                        let mut bytes = [prefix, map, &[opcode, modrm]].concat();
                        bytes.resize(15, 0);
                        visit(&bytes);
                    }
                }
            }
        }
    }

    #[test]
    fn every_instruction_of_the_model_is_executed() {
        let mut missing = BTreeSet::new();
        for (bits, mode) in [(16, Mode::Bits16), (32, Mode::Bits32), (64, Mode::Bits64)] {
            every_encoding(|bytes| {
                let mut decoder = Decoder::new(bits, bytes, DecoderOptions::NONE);
                let decoded = decoder.decode();
                let lowered = instruction(&decoded, mode);
                if std::ptr::fn_addr_eq(lowered.run, UNSUPPORTED) {
                    missing.insert(format!("{:?} in {mode:?}", decoded.code()));
                }
            });
        }
        assert!(missing.is_empty(), "{missing:#?}");
    }
}
