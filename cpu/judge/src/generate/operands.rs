//! Operands: which registers, immediates and addresses an instruction gets.

use iced_x86::{Code, Mnemonic, OpCodeOperandKind, OpKind, Register};

use super::{Draft, number};
use crate::layout::{CODE, DATA, DATA_LEN, PAGE, READ_ONLY};
use crate::random::Random;

/// A memory operand's way to its address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// Its linear address.
    pub(super) address: u64,
    /// Its bytes.
    pub(super) len: usize,
}

/// Gives the draft's instruction `code` and random operands; false when an operand is of a kind not known here.
pub(super) fn choose(random: &mut Random, draft: &mut Draft, code: Code) -> bool {
    draft.instruction.set_code(code);
    let kinds = code.op_code().op_kinds();
    for (i, kind) in (0..).zip(kinds) {
        if !operand(random, draft, code, i, *kind) {
            return false;
        }
    }
    prefixes(random, draft, code);
    true
}

/// REP and LOCK where they mean something.
fn prefixes(random: &mut Random, draft: &mut Draft, code: Code) {
    let op_code = code.op_code();
    let instruction = &mut draft.instruction;
    if op_code.can_use_rep_prefix() && random.chance(60) {
        instruction.set_has_repe_prefix(true);
    } else if op_code.can_use_repne_prefix() && random.chance(50) {
        instruction.set_has_repne_prefix(true);
    }
    if op_code.can_use_lock_prefix()
        && random.chance(30)
        && instruction.op0_kind() == OpKind::Memory
    {
        instruction.set_has_lock_prefix(true);
    }
}

fn operand(
    random: &mut Random,
    draft: &mut Draft,
    code: Code,
    i: u32,
    kind: OpCodeOperandKind,
) -> bool {
    use OpCodeOperandKind as K;
    let register = |random: &mut Random, first: Register, count: u64| {
        let mut choice = random.below(count);
        // A stack pointer as a destination tells little and ruins addresses.
        if choice == 4 && random.chance(70) {
            choice = random.below(4);
        }
        first + choice as u32
    };
    let set = |draft: &mut Draft, register: Register| {
        draft.instruction.set_op_kind(i, OpKind::Register);
        draft.instruction.set_op_register(i, register);
    };
    let memory = |random: &mut Random| random.chance(60);
    match kind {
        K::r8_or_mem
        | K::r16_or_mem
        | K::r32_or_mem
        | K::r64_or_mem
        | K::mm_or_mem
        | K::xmm_or_mem
            if memory(random) =>
        {
            set_memory(random, draft, code, i);
        }
        K::mem => set_memory(random, draft, code, i),
        K::mem_offs => {
            let target = target(random, code);
            let instruction = &mut draft.instruction;
            instruction.set_op_kind(i, OpKind::Memory);
            instruction.set_memory_displ_size(8);
            instruction.set_memory_displacement64(target.address);
            draft.target = Some(target);
        }
        K::r8_or_mem | K::r8_reg | K::r8_opcode => set(draft, register(random, Register::AL, 20)),
        K::r16_or_mem | K::r16_reg | K::r16_reg_mem | K::r16_rm | K::r16_opcode => {
            set(draft, register(random, Register::AX, 16));
        }
        K::r32_or_mem | K::r32_reg | K::r32_reg_mem | K::r32_rm | K::r32_opcode => {
            set(draft, register(random, Register::EAX, 16));
        }
        K::r64_or_mem | K::r64_reg | K::r64_reg_mem | K::r64_rm | K::r64_opcode => {
            set(draft, register(random, Register::RAX, 16));
        }
        K::mm_or_mem | K::mm_reg | K::mm_rm => set(draft, Register::MM0 + random.below(8) as u32),
        K::xmm_or_mem | K::xmm_reg | K::xmm_rm => {
            set(draft, Register::XMM0 + random.below(16) as u32);
        }
        K::st0 => set(draft, Register::ST0),
        K::sti_opcode => set(draft, Register::ST0 + random.below(8) as u32),
        K::seg_reg => set(draft, Register::ES + random.below(6) as u32),
        K::cr_reg => set(
            draft,
            random.pick(&[Register::CR0, Register::CR3, Register::CR8]),
        ),
        K::dr_reg => set(draft, Register::DR0 + random.below(8) as u32),
        K::es => set(draft, Register::ES),
        K::cs => set(draft, Register::CS),
        K::ss => set(draft, Register::SS),
        K::ds => set(draft, Register::DS),
        K::fs => set(draft, Register::FS),
        K::gs => set(draft, Register::GS),
        K::al => set(draft, Register::AL),
        K::cl => set(draft, Register::CL),
        K::ax => set(draft, Register::AX),
        K::dx => set(draft, Register::DX),
        K::eax => set(draft, Register::EAX),
        K::rax => set(draft, Register::RAX),
        K::seg_rSI | K::es_rDI | K::seg_rDI => set_string(random, draft, i, kind),
        K::seg_rBX_al => {
            draft.instruction.set_op_kind(i, OpKind::Memory);
            draft.instruction.set_memory_base(Register::RBX);
            draft.instruction.set_memory_index(Register::AL);
            set_segment(random, draft);
        }
        K::br64_1 | K::br64_4 => {
            draft.instruction.set_op_kind(i, OpKind::NearBranch64);
            // Beyond the instruction itself, whose bytes could be anything.
            let near = draft.case.state.rip.wrapping_add(16 + random.below(84));
            draft.instruction.set_near_branch64(match random.below(20) {
                0 if kind == K::br64_4 => DATA,
                1 if kind == K::br64_4 => CODE + 0x1000 + random.below(0x1000),
                _ => near.max(CODE),
            });
        }
        _ => return immediate(random, draft, code, i, kind),
    }
    true
}

fn immediate(
    random: &mut Random,
    draft: &mut Draft,
    code: Code,
    i: u32,
    kind: OpCodeOperandKind,
) -> bool {
    use OpCodeOperandKind as K;
    let value = random.integer();
    let instruction = &mut draft.instruction;
    let op_kind = match kind {
        K::imm8 if i > 0 && code.op_code().op_kind(i - 1) == K::imm16 => OpKind::Immediate8_2nd,
        K::imm8 | K::imm8_const_1 => OpKind::Immediate8,
        K::imm8sex16 => OpKind::Immediate8to16,
        K::imm8sex32 => OpKind::Immediate8to32,
        K::imm8sex64 => OpKind::Immediate8to64,
        K::imm16 => OpKind::Immediate16,
        K::imm32 => OpKind::Immediate32,
        K::imm32sex64 => OpKind::Immediate32to64,
        K::imm64 => OpKind::Immediate64,
        _ => return false,
    };
    instruction.set_op_kind(i, op_kind);
    match op_kind {
        OpKind::Immediate8 if kind == K::imm8_const_1 => instruction.set_immediate8(1),
        OpKind::Immediate8 => instruction.set_immediate8(value as u8),
        // ENTER's nesting level.
        OpKind::Immediate8_2nd => instruction.set_immediate8_2nd(random.below(34) as u8),
        OpKind::Immediate8to16 => instruction.set_immediate8to16((value as i8).into()),
        OpKind::Immediate8to32 => instruction.set_immediate8to32((value as i8).into()),
        OpKind::Immediate8to64 => instruction.set_immediate8to64((value as i8).into()),
        OpKind::Immediate16 => instruction.set_immediate16(value as u16),
        OpKind::Immediate32 => instruction.set_immediate32(value as u32),
        OpKind::Immediate32to64 => instruction.set_immediate32to64((value as i32).into()),
        _ => instruction.set_immediate64(value),
    }
    true
}

/// An operand of a string instruction; sometimes by 32-bit registers.
fn set_string(random: &mut Random, draft: &mut Draft, i: u32, kind: OpCodeOperandKind) {
    use OpCodeOperandKind as K;
    // Both operands have the same address size.
    let narrow = match draft.instruction.op_kind(0) {
        _ if i == 0 => random.chance(8),
        OpKind::MemoryESEDI | OpKind::MemorySegESI | OpKind::MemorySegEDI => true,
        OpKind::MemoryESRDI | OpKind::MemorySegRSI | OpKind::MemorySegRDI => false,
        _ => random.chance(8),
    };
    let op_kind = match (kind, narrow) {
        (K::seg_rSI, false) => OpKind::MemorySegRSI,
        (K::seg_rSI, true) => OpKind::MemorySegESI,
        (K::es_rDI, false) => OpKind::MemoryESRDI,
        (K::es_rDI, true) => OpKind::MemoryESEDI,
        (_, false) => OpKind::MemorySegRDI,
        (_, true) => OpKind::MemorySegEDI,
    };
    draft.instruction.set_op_kind(i, op_kind);
    if kind != K::es_rDI {
        set_segment(random, draft);
    }
}

/// A segment prefix, in few cases.
fn set_segment(random: &mut Random, draft: &mut Draft) {
    let segment = match random.below(40) {
        0 => Register::ES,
        1 => Register::SS,
        2 => Register::DS,
        3..=5 => Register::FS,
        6 | 7 => Register::GS,
        _ => return,
    };
    draft.instruction.set_segment_prefix(segment);
}

/// The base that the draft's segment prefix adds; made up here when it has one.
pub(super) fn segment_base(random: &mut Random, draft: &mut Draft) -> u64 {
    let near = DATA.wrapping_add(random.integer() >> random.below(60));
    let base = if random.chance(70) {
        random.below(1 << 31)
    } else {
        near
    };
    let canonical = (base << 16) as i64 >> 16;
    match draft.instruction.segment_prefix() {
        Register::FS => draft.case.state.fs_base = canonical as u64,
        Register::GS => draft.case.state.gs_base = canonical as u64,
        _ => return 0,
    }
    canonical as u64
}

/// An interesting address for `code`'s memory operand.
fn target(random: &mut Random, code: Code) -> Target {
    let len = operand_len(code);
    Target {
        address: address(random, len),
        len,
    }
}

/// Bytes that `code` accesses; 16 where that depends.
fn operand_len(code: Code) -> usize {
    match code.op_code().memory_size().size() {
        0 => 16,
        len => len,
    }
}

/// An address for `len` bytes: mostly in the data, aligned or not, at ends of pages; seldom where access faults.
pub(super) fn address(random: &mut Random, len: usize) -> u64 {
    let len = len as u64;
    let end = DATA + DATA_LEN as u64;
    let middle = DATA + PAGE as u64;
    let inside = random.below(DATA_LEN as u64 - len + 1);
    match random.below(100) {
        0..=54 => DATA + (inside & !15),
        55..=69 => DATA + inside,
        // Up to, and over, the border between two pages.
        70..=84 => middle - random.below(len + 2).min(len + 1),
        85..=88 => end - len,
        // Over the end.
        89..=92 => end - random.below(len),
        93 => DATA - random.below(len + 1),
        94..=96 => READ_ONLY + random.below(PAGE as u64 - len + 1),
        97 => random.integer(),
        98 => 0x8000_0000_0000 - random.below(len + 8),
        _ => 0xFFFF_8000_0000_A000,
    }
}

/// A memory operand with ModRM.
fn set_memory(random: &mut Random, draft: &mut Draft, code: Code, i: u32) {
    let len = operand_len(code);
    let mut address = address(random, len);
    if needs_alignment(code) && random.chance(90) {
        address &= !15;
    }
    draft.instruction.set_op_kind(i, OpKind::Memory);
    set_segment(random, draft);
    let segment_base = segment_base(random, draft);
    let offset = address.wrapping_sub(segment_base);
    draft.target = Some(Target { address, len });
    let near_code = |offset: u64| i32::try_from(offset.wrapping_sub(CODE).cast_signed()).is_ok();
    match random.below(20) {
        0 | 1 if near_code(offset) => {
            draft.instruction.set_memory_base(Register::RIP);
            draft.instruction.set_memory_displ_size(8);
            draft.instruction.set_memory_displacement64(offset);
        }
        2 if i32::try_from(offset.cast_signed()).is_ok() => {
            draft.instruction.set_memory_displ_size(8);
            draft.instruction.set_memory_displacement64(offset);
        }
        3 => set_registers(random, draft, offset, Register::EAX, u64::from(u32::MAX)),
        _ => set_registers(random, draft, offset, Register::RAX, u64::MAX),
    }
}

/// `[base + index * scale + displacement]` that makes `offset`, in registers from `first`; `mask` is the address's width.
fn set_registers(random: &mut Random, draft: &mut Draft, offset: u64, first: Register, mask: u64) {
    let stack = draft.instruction.code().op_code().is_stack_instruction();
    let base = loop {
        let choice = random.below(16) as u32;
        if choice != 4 || !stack {
            break first + choice;
        }
    };
    let displacement = match random.below(4) {
        0 => 0,
        1 => i64::from(random.bits() as i8),
        _ => i64::from(random.integer() as i32),
    };
    let mut rest = offset.wrapping_sub(displacement as u64);
    let instruction = &mut draft.instruction;
    instruction.set_memory_base(base);
    instruction.set_memory_displacement64(displacement as u64 & mask);
    instruction.set_memory_displ_size(match displacement {
        0 => 0,
        -128..=127 => 1,
        _ if mask == u64::MAX => 8,
        _ => 4,
    });
    // An index, but not RSP (none) nor the base (its value is settled by the rest).
    let index = first + random.below(16) as u32;
    if random.chance(40) && index != first + 4u32 && index != base {
        let scale = 1 << random.below(4);
        let value = random.integer();
        instruction.set_memory_index(index);
        instruction.set_memory_index_scale(scale);
        if let Some(index) = number(index) {
            draft.set(index, value);
        }
        rest = rest.wrapping_sub(value.wrapping_mul(scale.into()));
    }
    if let Some(base) = number(base) {
        // The upper half does not matter where addresses have 32 bits.
        let junk = if mask == u64::MAX {
            0
        } else {
            random.bits() & !mask
        };
        draft.set(base, rest & mask | junk);
    }
}

/// Whether an unaligned operand of 16 bytes only ever faults.
pub(super) fn needs_alignment(code: Code) -> bool {
    let unaligned = matches!(
        code.mnemonic(),
        Mnemonic::Movups
            | Mnemonic::Movupd
            | Mnemonic::Movdqu
            | Mnemonic::Lddqu
            | Mnemonic::Pcmpestri
            | Mnemonic::Pcmpestrm
            | Mnemonic::Pcmpistri
            | Mnemonic::Pcmpistrm
    );
    let fx = matches!(
        code.mnemonic(),
        Mnemonic::Fxsave | Mnemonic::Fxsave64 | Mnemonic::Fxrstor | Mnemonic::Fxrstor64
    );
    fx || code.op_code().memory_size().size() == 16 && !unaligned
}
