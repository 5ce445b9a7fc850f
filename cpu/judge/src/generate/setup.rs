//! States: random ones, in which the instruction at hand has something to do.

use atoll_cpu_api::Fpu;
use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind, Register};

use super::operands::{address, segment_base};
use super::{Draft, number};
use crate::case::{STATUS_FLAGS, TRAP_FLAG};
use crate::layout::{DATA, DATA_LEN};
use crate::random::{Lanes, Random};

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;
const RSP: usize = 4;
const RBP: usize = 5;
const RSI: usize = 6;
const RDI: usize = 7;

/// Fills in the draft's state and memory.
pub(super) fn state(random: &mut Random, draft: &mut Draft) {
    let instruction = draft.instruction;
    draft.case.state.rflags = random.bits() & STATUS_FLAGS;
    if random.chance(2) {
        draft.case.state.rflags |= TRAP_FLAG;
    }
    if random.chance(70) {
        // The direction is up in nearly all programs.
        draft.case.state.rflags &= !(1 << 10);
    }
    let kind = lanes(random, &instruction);
    draft.case.state.fpu = fpu(random, kind, is_mmx(&instruction));
    implicit_addresses(random, draft, &instruction);
    implicit_values(random, draft, &instruction);
    for register in 0..16 {
        let value = if random.chance(3) {
            address(random, 8)
        } else {
            random.integer()
        };
        draft.set(register, value);
    }
    operand_values(random, draft, &instruction);
}

/// Registers that point somewhere without being named by ModRM.
fn implicit_addresses(random: &mut Random, draft: &mut Draft, instruction: &Instruction) {
    use OpKind as K;
    // Stack accesses mostly work; RSP is an operand like any other where the stack isn't used.
    let stack = instruction.code().op_code().is_stack_instruction();
    if stack || random.chance(80) {
        let len = 8 * (1 + random.below(4)) as usize;
        let value = if random.chance(90) {
            DATA + 64 + random.below(DATA_LEN as u64 - 128)
        } else {
            address(random, len)
        };
        draft.set(RSP, value);
    }
    if matches!(instruction.mnemonic(), Mnemonic::Leave | Mnemonic::Enter) {
        let value = address(random, 64);
        draft.set(RBP, value);
    }
    if instruction.mnemonic() == Mnemonic::Xlatb {
        let base = segment_base(random, draft);
        let value = address(random, 1).wrapping_sub(base);
        draft.set(RBX, value.wrapping_sub(random.below(256)));
    }
    for i in 0..instruction.op_count() {
        let (register, segmented) = match instruction.op_kind(i) {
            K::MemorySegRSI | K::MemorySegESI => (RSI, true),
            K::MemoryESRDI | K::MemoryESEDI => (RDI, false),
            K::MemorySegRDI | K::MemorySegEDI => (RDI, true),
            _ => continue,
        };
        let base = if segmented {
            segment_base(random, draft)
        } else {
            0
        };
        let narrow = matches!(
            instruction.op_kind(i),
            K::MemorySegESI | K::MemoryESEDI | K::MemorySegEDI
        );
        let mut value = address(random, 64).wrapping_sub(base);
        if narrow {
            value = value & 0xFFFF_FFFF | random.bits() << 32;
        }
        draft.set(register, value);
    }
}

/// Counts, comparands, dividends and bit offsets.
fn implicit_values(random: &mut Random, draft: &mut Draft, instruction: &Instruction) {
    use Mnemonic as M;
    let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    match instruction.mnemonic() {
        M::Loop | M::Loope | M::Loopne | M::Jcxz | M::Jecxz | M::Jrcxz => {
            let high = if random.chance(30) { 1 << 32 } else { 0 };
            draft.set(RCX, random.below(4) | high);
        }
        M::Div | M::Idiv => dividend(random, draft),
        M::Bt | M::Bts | M::Btr | M::Btc => {
            if let Some(offset) = number(instruction.op1_register())
                && instruction.op1_kind() == OpKind::Register
                && random.chance(85)
            {
                draft.set(offset, random.below(4096).wrapping_sub(2048));
            }
        }
        M::Pcmpestri | M::Pcmpestrm => {
            for register in [RAX, RDX] {
                if random.chance(85) {
                    draft.set(register, random.below(40).wrapping_sub(20));
                }
            }
        }
        _ if repeated => {
            let junk = if random.chance(30) {
                random.bits() << 32
            } else {
                0
            };
            let narrow = (0..instruction.op_count()).any(|i| {
                matches!(
                    instruction.op_kind(i),
                    OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::MemorySegEDI
                )
            });
            let count = random.below(20);
            draft.set(RCX, if narrow { count | junk } else { count });
        }
        // Shift counts in CL.
        _ if instruction.op_count() > 1 && uses_cl(instruction) => {
            draft.set(RCX, random.integer() & 0xFF | random.bits() << 8);
        }
        _ => {}
    }
}

fn uses_cl(instruction: &Instruction) -> bool {
    let last = instruction.op_count() - 1;
    instruction.op_kind(last) == OpKind::Register && instruction.op_register(last) == Register::CL
}

/// RDX:RAX of which the quotient has a chance to fit.
fn dividend(random: &mut Random, draft: &mut Draft) {
    let low = random.integer();
    let sign = (low as i64 >> 63) as u64;
    let high = match random.below(6) {
        0 => random.integer(),
        1 | 2 => 0,
        3 => random.below(1000),
        _ => sign,
    };
    draft.set(RAX, low);
    draft.set(RDX, high);
}

/// What lies in memory where the instruction looks.
fn operand_values(random: &mut Random, draft: &mut Draft, instruction: &Instruction) {
    use Mnemonic as M;
    let Some(target) = draft.target else {
        string_values(random, draft, instruction);
        return;
    };
    let registers = draft.case.state.registers;
    let (rax, rdx) = (registers[RAX], registers[RDX]);
    let bytes = match instruction.mnemonic() {
        M::Cmpxchg if random.chance(60) => rax.to_le_bytes().to_vec(),
        M::Cmpxchg8b if random.chance(60) => (rax & 0xFFFF_FFFF | rdx << 32).to_le_bytes().to_vec(),
        M::Cmpxchg16b if random.chance(60) => (u128::from(rax) | u128::from(rdx) << 64)
            .to_le_bytes()
            .to_vec(),
        M::Ldmxcsr => mxcsr(random).to_le_bytes().to_vec(),
        M::Fxrstor | M::Fxrstor64 => {
            let integers = random.chance(50);
            crate::fxsave::image(&fpu(random, Lanes::Doubles, integers)).to_vec()
        }
        M::Fldcw => control(random).to_le_bytes().to_vec(),
        _ => contents(random, instruction, target.len),
    };
    if !bytes.is_empty() && random.chance(85) {
        draft.case.patch(target.address, &bytes);
    }
}

/// Contents of the kind that the instruction expects.
fn contents(random: &mut Random, instruction: &Instruction, len: usize) -> Vec<u8> {
    let size = instruction.memory_size();
    match size.element_type() {
        MemorySize::Float80 => random.extended().to_le_bytes()[..10].to_vec(),
        MemorySize::Bcd => bcd(random),
        _ if len <= 16 => {
            let lanes = lanes(random, instruction);
            random.vector(lanes).to_le_bytes()[..len].to_vec()
        }
        _ => Vec::new(),
    }
}

/// 18 decimal digits and a sign; some digits over nine.
fn bcd(random: &mut Random) -> Vec<u8> {
    let highest = if random.chance(80) { 10 } else { 16 };
    let mut digits = || (random.below(highest) | random.below(highest) << 4) as u8;
    let mut bytes: Vec<u8> = (0..9).map(|_| digits()).collect();
    bytes.push(random.pick(&[0, 0x80, 0xFF, 0x01]));
    bytes
}

/// Makes the two sides of CMPS and SCAS equal for a while.
fn string_values(random: &mut Random, draft: &mut Draft, instruction: &Instruction) {
    let registers = draft.case.state.registers;
    let repeats = [registers[RAX].to_le_bytes(); 4].concat();
    match instruction.mnemonic() {
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq => {
            let source = registers[RSI];
            let mut text = vec![random.below(4) as u8; 40];
            draft.case.patch(source, &text);
            let at = random.below(40) as usize;
            text[at] ^= random.below(2) as u8;
            draft.case.patch(registers[RDI], &text);
        }
        Mnemonic::Scasb | Mnemonic::Scasw | Mnemonic::Scasd | Mnemonic::Scasq
            if random.chance(70) =>
        {
            draft.case.patch(registers[RDI], &repeats);
        }
        Mnemonic::Popf | Mnemonic::Popfq if random.chance(50) => {
            let flags = random.bits() & !TRAP_FLAG;
            draft.case.patch(registers[RSP], &flags.to_le_bytes());
        }
        Mnemonic::Ret if random.chance(60) => {
            let to = draft.case.state.rip & !0xFFF | random.below(4096);
            draft.case.patch(registers[RSP], &to.to_le_bytes());
        }
        _ => {}
    }
}

/// What the instruction takes vector registers for.
fn lanes(random: &mut Random, instruction: &Instruction) -> Lanes {
    let name = format!("{:?}", instruction.mnemonic());
    let likely = if name.ends_with("ps") || name.ends_with("ss") {
        Lanes::Singles
    } else if name.ends_with("pd") || name.ends_with("sd") {
        Lanes::Doubles
    } else if name.starts_with("Pcmp") && name.contains("str") {
        Lanes::Text
    } else if name.starts_with('F') {
        random.pick(&[Lanes::Singles, Lanes::Doubles, Lanes::Integers])
    } else {
        Lanes::Integers
    };
    if random.chance(80) {
        likely
    } else {
        random.pick(&[Lanes::Singles, Lanes::Doubles, Lanes::Integers, Lanes::Text])
    }
}

fn is_mmx(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|i| instruction.op_register(i).is_mm())
}

/// Random x87 and SSE state; `integers` in the x87 registers when they are used as MMX.
pub(super) fn fpu(random: &mut Random, lanes: Lanes, integers: bool) -> Fpu {
    let mut fpu = Fpu {
        mxcsr: mxcsr(random),
        control: control(random),
        ..Fpu::default()
    };
    for xmm in &mut fpu.xmm {
        *xmm = random.vector(lanes);
    }
    for st in &mut fpu.st {
        *st = if integers && random.chance(80) {
            u128::from(random.integer()) | u128::from(random.bits() as u16) << 64
        } else {
            random.extended()
        };
    }
    // Mostly a full stack; condition codes and masked exceptions at random.
    fpu.tags = match random.below(4) {
        0 => random.bits() as u8,
        1 => 0,
        _ => 0xFF,
    };
    fpu.status = (random.bits() as u16) & 0x7F00;
    let masked = (random.bits() as u16) & 0x7F & fpu.control;
    if random.chance(30) {
        fpu.status |= masked;
    }
    if random.chance(2) {
        let pending = !fpu.control & 0x3F & random.bits() as u16;
        if pending != 0 {
            fpu.status |= pending | 0x8080;
        }
    }
    fpu
}

/// A control word: as after FNINIT, or with other precision, rounding and masks. Reserved bits as the processor has them.
fn control(random: &mut Random) -> u16 {
    match random.below(10) {
        0..=4 => 0x37F,
        5..=7 => 0x7F | random.pick(&[0, 0x200, 0x300]) | (random.below(4) as u16) << 10,
        _ => 0x40 | random.bits() as u16 & 0x1F3F,
    }
}

/// An MXCSR: as after reset, or with other rounding, denormals as zeros, flush to zero, exceptions unmasked.
fn mxcsr(random: &mut Random) -> u32 {
    match random.below(10) {
        0..=4 => 0x1F80,
        5..=7 => 0x1F80 | (random.below(4) as u32) << 13 | random.bits() as u32 & 0x8040,
        _ => random.bits() as u32 & 0xFFFF,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_exceptions_are_summarised() {
        let mut random = Random::new(5);
        let mut pending = 0;
        for _ in 0..2000 {
            let fpu = fpu(&mut random, Lanes::Integers, false);
            let unmasked = fpu.status & !fpu.control & 0x3F != 0;
            assert_eq!(unmasked, fpu.status & 0x80 != 0);
            assert_eq!(unmasked, fpu.status & 0x8000 != 0);
            pending += u32::from(unmasked);
        }
        assert!(pending > 0);
    }
}
