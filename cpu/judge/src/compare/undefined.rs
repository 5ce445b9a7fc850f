//! What instructions leave undefined, or to the processor model (Intel SDM vol. 2, each instruction's page).

use std::ops::Range;

use iced_x86::{Code, Instruction, MemorySize, Mnemonic, OpKind, Register, RflagsBits};

use crate::case::{Case, End, Outcome};

/// Bits of RFLAGS by iced-x86's names.
const RFLAGS: [(u32, u64); 8] = [
    (RflagsBits::OF, 1 << 11),
    (RflagsBits::SF, 1 << 7),
    (RflagsBits::ZF, 1 << 6),
    (RflagsBits::AF, 1 << 4),
    (RflagsBits::CF, 1),
    (RflagsBits::PF, 1 << 2),
    (RflagsBits::DF, 1 << 10),
    (RflagsBits::AC, 1 << 18),
];
/// Condition codes of the x87 status word.
const CONDITIONS: [(u32, u16); 4] = [
    (RflagsBits::C0, 1 << 8),
    (RflagsBits::C1, 1 << 9),
    (RflagsBits::C2, 1 << 10),
    (RflagsBits::C3, 1 << 14),
];

/// Flags whose values nobody can know after some instructions.
#[derive(Clone, Copy, Debug, Default)]
pub struct UndefinedFlags(u32);

impl UndefinedFlags {
    /// After `instructions`, of which all were executed (`whole`) or nobody knows which.
    pub fn after(instructions: &[Instruction], whole: bool) -> Self {
        let mut undefined = Self::default();
        for instruction in instructions {
            if whole {
                undefined.follow(instruction);
            } else {
                undefined.follow_if_taken(instruction);
            }
        }
        undefined
    }

    /// After `instruction`, too.
    pub fn follow(&mut self, instruction: &Instruction) {
        if !may_leave_flags(instruction) {
            self.0 &= !(instruction.rflags_written()
                | instruction.rflags_cleared()
                | instruction.rflags_set());
        }
        self.follow_if_taken(instruction);
    }

    /// After `instruction`, if it was executed.
    pub fn follow_if_taken(&mut self, instruction: &Instruction) {
        self.0 |= instruction.rflags_undefined();
    }

    /// Whether what `instruction` does may depend on an undefined flag.
    pub fn may_decide(self, instruction: &Instruction) -> bool {
        self.0 & instruction.rflags_read() != 0
    }

    /// As bits of RFLAGS.
    pub fn rflags(self) -> u64 {
        let set = RFLAGS.iter().filter(|(flag, _)| self.0 & flag != 0);
        set.fold(0, |bits, (_, bit)| bits | bit)
    }

    /// As bits of the x87 status word.
    pub fn status_word(self) -> u16 {
        let set = CONDITIONS.iter().filter(|(flag, _)| self.0 & flag != 0);
        set.fold(0, |bits, (_, bit)| bits | bit)
    }
}

/// Whether flags stay as they were in some cases: shifts by CL that may be 0, repeated string instructions.
fn may_leave_flags(instruction: &Instruction) -> bool {
    let by_cl = (1..instruction.op_count()).any(|i| instruction.op_register(i) == Register::CL);
    by_cl || instruction.has_rep_prefix() || instruction.has_repne_prefix()
}

/// Whether a result other than flags may be undefined, for some operands.
pub(crate) fn has_undefined_result(code: Code) -> bool {
    use Mnemonic as M;
    matches!(
        code.mnemonic(),
        M::Bsf | M::Bsr | M::Shld | M::Shrd | M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss
    )
}

/// Whether the result of `instruction` is undefined in `case`.
pub(super) fn is_undefined(instruction: &Instruction, case: &Case) -> bool {
    use Code as C;
    let cl = case.state.registers[1];
    let count = match instruction.code() {
        C::Shld_rm16_r16_imm8 | C::Shrd_rm16_r16_imm8 => instruction.immediate8().into(),
        C::Shld_rm16_r16_CL | C::Shrd_rm16_r16_CL => cl,
        C::Bswap_r16 => return true,
        _ => return false,
    };
    count & 31 > 16
}

/// Data that differs between processors: x87 instruction and operand pointers in memory.
pub(super) fn ignored_bytes(instructions: &[Instruction], case: &Case) -> Vec<Range<u64>> {
    use Code as C;
    let mut ranges = Vec::new();
    for instruction in instructions {
        // From the start of the operand.
        let ignored = match instruction.code() {
            C::Fnstenv_m14byte | C::Fnsave_m94byte => 6..14,
            C::Fnstenv_m28byte | C::Fnsave_m108byte => 12..28,
            C::Fxsave_m512byte | C::Fxsave64_m512byte => 6..24,
            _ => continue,
        };
        let address = instruction.virtual_address(0, 0, |register, _, _| {
            Some(match register {
                Register::FS => case.state.fs_base,
                Register::GS => case.state.gs_base,
                _ if register.is_segment_register() => 0,
                _ => {
                    let full = case.state.registers[register.full_register().number()];
                    if register.is_gpr32() {
                        full & 0xFFFF_FFFF
                    } else {
                        full
                    }
                }
            })
        });
        if let (Some(address), OpKind::Memory) = (address, instruction.op0_kind()) {
            let at = |offset| address.wrapping_add(offset);
            ranges.push(at(ignored.start)..at(ignored.end));
        }
    }
    ranges
}

/// Whether `instruction` is a masked store that faulted natively: whether bytes that the mask leaves out are accessed
/// is up to the processor (Intel SDM vol. 2 "MASKMOVQ").
pub(super) fn is_masked_fault(instruction: &Instruction, case: &Case, native: &End) -> bool {
    let number = instruction.op2_register().number();
    let fpu = &case.state.fpu;
    let top = usize::from(fpu.status >> 11 & 7);
    let (mask, signs) = match instruction.mnemonic() {
        Mnemonic::Maskmovdqu => (fpu.xmm[number], 0x80 * (u128::MAX / 0xFF)),
        // MMX registers don't move with the top of the stack.
        Mnemonic::Maskmovq => (fpu.st[(number + 8 - top) % 8], 0x8080_8080_8080_8080),
        _ => return false,
    };
    matches!(
        native,
        End::Exception {
            vector: 12..=14,
            ..
        }
    ) && mask & signs != signs
}

/// How far apart the addresses of page faults may be: a processor need not touch the bytes of a long operand in order.
pub(super) fn faults_anywhere(instructions: &[Instruction]) -> u64 {
    use Mnemonic as M;
    let any = |wanted: &[M]| {
        instructions
            .iter()
            .any(|one| wanted.contains(&one.mnemonic()))
    };
    if any(&[M::Fxsave, M::Fxsave64, M::Fxrstor, M::Fxrstor64]) {
        511
    } else if is_in_parts(instructions) {
        107
    } else if any(&[M::Maskmovdqu, M::Maskmovq]) {
        15
    } else {
        0
    }
}

/// Whether memory is accessed in several parts, each of which may fault: which does first, and whether parts before it
/// were already written, is up to the processor.
pub(super) fn is_in_parts(instructions: &[Instruction]) -> bool {
    use Mnemonic as M;
    instructions.iter().any(|one| match one.mnemonic() {
        M::Fnsave | M::Frstor | M::Fnstenv | M::Fldenv | M::Fbld | M::Fbstp => true,
        M::Fld | M::Fstp => one.memory_size() == MemorySize::Float80,
        _ => false,
    })
}

/// Whether the upper halves of RSI and RDI may or may not be cleared: a repeated string instruction with 32-bit addresses
/// that executed no iteration, or was stopped by a fault.
pub(super) fn keeps_halves(instructions: &[Instruction], case: &Case, end: &End) -> bool {
    let narrow = |one: &Instruction| {
        (0..one.op_count()).any(|i| {
            matches!(
                one.op_kind(i),
                OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::MemorySegEDI
            )
        })
    };
    let repeated = |one: &Instruction| one.has_rep_prefix() || one.has_repne_prefix();
    let none = case.state.registers[1] & 0xFFFF_FFFF == 0;
    let ended = matches!(end, End::Exception { vector: 3, .. });
    (none || !ended) && instructions.iter().any(|one| narrow(one) && repeated(one))
}

/// Where a call to an address that is none may or may not have pushed its return address before the fault.
pub(super) fn refused_call(instructions: &[Instruction], native: &Outcome) -> Option<Range<u64>> {
    let call = instructions.first()?.mnemonic() == Mnemonic::Call;
    let refused = matches!(native.end, End::Exception { vector: 13, .. });
    let stack = native.state.registers[4];
    (call && refused).then_some(stack.wrapping_sub(8)..stack)
}

/// How far results of approximations may be from each other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tolerance {
    /// RCPPS and RSQRTPS: 1.5 × 2^-12 from the truth on either side.
    reciprocal: bool,
    /// The x87's transcendental functions: processors differ in the last place, and far from 0 in more.
    transcendental: bool,
}

impl Tolerance {
    pub(super) fn of(instructions: &[Instruction]) -> Self {
        use Mnemonic as M;
        let any = |wanted: &[M]| {
            instructions
                .iter()
                .any(|one| wanted.contains(&one.mnemonic()))
        };
        Self {
            reciprocal: any(&[M::Rcpps, M::Rcpss, M::Rsqrtps, M::Rsqrtss]),
            transcendental: any(&[
                M::Fsin,
                M::Fcos,
                M::Fsincos,
                M::Fptan,
                M::Fpatan,
                M::F2xm1,
                M::Fyl2x,
                M::Fyl2xp1,
            ]),
        }
    }

    pub(super) fn covers_vector(self, native: u128, other: u128) -> bool {
        let lane = |value: u128, i: u32| f32::from_bits((value >> (32 * i)) as u32);
        self.reciprocal
            && (0..4).all(|i| {
                let (native, other) = (lane(native, i), lane(other, i));
                let near = (native - other).abs() <= native.abs() / 1024.0;
                near || native.to_bits() == other.to_bits()
            })
    }

    pub(super) fn covers_extended(self, native: u128, other: u128) -> bool {
        // Next to each other as numbers is next to each other as bits, within a sign.
        self.transcendental
            && native >> 79 == other >> 79
            && native.abs_diff(other) <= 1 << 8
            && native >> 64 & 0x7FFF != 0x7FFF
    }

    /// Bits of the status word that follow from the last place: precision, and which way it was rounded.
    pub(super) fn status_word(self) -> u16 {
        if self.transcendental { 0x220 } else { 0 }
    }
}
