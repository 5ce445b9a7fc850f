//! Straight lines of several instructions: what a CPU in software keeps between instructions (flags not yet evaluated,
//! decoded blocks) is met by them.

use iced_x86::{Code, Instruction, InstructionInfoFactory, MemorySize, OpKind, Register};

use super::{Draft, Generator, TRIES, operands, setup};
use crate::case::Case;
use crate::compare::{UndefinedFlags, has_undefined_result};
use crate::layout::{CODE_MAX, DATA, DATA_LEN};
use crate::random::Lanes;

/// The register that addresses the data; no instruction of a sequence writes it.
const POINTER: Register = Register::R15;
/// Percent of instructions that are a jump over the next one.
const JUMPS: u64 = 15;

impl Generator {
    /// A case of up to `count` instructions. Flags that one leaves undefined are not read by a later one.
    pub fn sequence(&mut self, count: usize) -> Option<Case> {
        let mut draft = Draft {
            instruction: Instruction::default(),
            target: None,
            case: Case::default(),
            settled: 0,
        };
        let mut undefined = UndefinedFlags::default();
        for _ in 0..count {
            let jump = self.random.chance(JUMPS);
            let at = draft.case.code.len() + if jump { 2 } else { 0 };
            let Some((instruction, bytes)) = self.link(&draft, at, &undefined) else {
                break;
            };
            if at + bytes.len() > CODE_MAX {
                break;
            }
            if jump {
                let condition = self.random.below(16) as u8;
                let jump = [0x70 | condition, bytes.len() as u8];
                if undefined.may_decide(&decode(&jump)) {
                    continue;
                }
                draft.case.code.extend(jump);
                undefined.follow_if_taken(&instruction);
            } else {
                undefined.follow(&instruction);
            }
            draft.case.code.extend(bytes);
        }
        let pointer = DATA + DATA_LEN as u64 / 4 + (self.random.below(DATA_LEN as u64 / 2) & !15);
        draft.set(POINTER.number(), pointer);
        setup::state(&mut self.random, &mut draft);
        draft.case.state.fpu = setup::fpu(&mut self.random, Lanes::Integers, true);
        (!draft.case.code.is_empty() && draft.case.is_valid()).then_some(draft.case)
    }

    /// One instruction that may stand in a sequence, at offset `at`.
    fn link(
        &mut self,
        of: &Draft,
        at: usize,
        undefined: &UndefinedFlags,
    ) -> Option<(Instruction, Vec<u8>)> {
        let mut factory = InstructionInfoFactory::new();
        for _ in 0..TRIES {
            let code = *self
                .codes
                .get(self.random.below(self.codes.len().max(1) as u64) as usize)?;
            if !may_stand(code) {
                continue;
            }
            let mut draft = Draft {
                instruction: Instruction::default(),
                target: None,
                case: Case::default(),
                settled: 0,
            };
            if !operands::choose(&mut self.random, &mut draft, code) {
                continue;
            }
            let instruction = &mut draft.instruction;
            if (0..instruction.op_count()).any(|i| instruction.op_kind(i) == OpKind::Memory) {
                instruction.set_segment_prefix(Register::None);
                instruction.set_memory_base(POINTER);
                instruction.set_memory_index(Register::None);
                instruction.set_memory_displ_size(8);
                let mut offset = self.random.below(DATA_LEN as u64) / 2;
                if operands::needs_alignment(code) {
                    offset &= !15;
                }
                instruction.set_memory_displacement64(offset.wrapping_sub(DATA_LEN as u64 / 4));
            }
            let writes_pointer = factory
                .info(instruction)
                .used_registers()
                .iter()
                .any(|used| {
                    let full = used.register().full_register();
                    (full == POINTER || full == Register::RSP)
                        && !matches!(
                            used.access(),
                            iced_x86::OpAccess::Read | iced_x86::OpAccess::NoMemAccess
                        )
                });
            if writes_pointer || undefined.may_decide(instruction) {
                continue;
            }
            let rip = of.case.state.rip + at as u64;
            let encoded = self.encoder.encode(instruction, rip);
            let bytes = self.encoder.take_buffer();
            if encoded.is_ok() {
                // As the decoder has it, lengths included.
                return Some((decode(&bytes), bytes));
            }
        }
        None
    }
}

fn decode(bytes: &[u8]) -> Instruction {
    iced_x86::Decoder::new(64, bytes, iced_x86::DecoderOptions::NONE).decode()
}

/// Integer and packed integer instructions that go on to the next and mostly don't fault.
fn may_stand(code: Code) -> bool {
    let op_code = code.op_code();
    let string = op_code.op_kinds().iter().any(|kind| {
        matches!(
            kind,
            iced_x86::OpCodeOperandKind::seg_rSI
                | iced_x86::OpCodeOperandKind::es_rDI
                | iced_x86::OpCodeOperandKind::seg_rDI
                | iced_x86::OpCodeOperandKind::seg_rBX_al
                | iced_x86::OpCodeOperandKind::mem_offs
        )
    });
    code.flow_control() == iced_x86::FlowControl::Next
        && !op_code.is_stack_instruction()
        && !op_code.is_privileged()
        && !op_code.may_require_cpl0()
        && !op_code.is_save_restore()
        && !has_undefined_result(code)
        && !string
        && code.op_code().memory_size() != MemorySize::Unknown
        && !matches!(
            code.mnemonic(),
            iced_x86::Mnemonic::Div | iced_x86::Mnemonic::Idiv
        )
        && !format!("{:?}", code.mnemonic()).starts_with('F')
}
