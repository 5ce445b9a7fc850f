//! Makes cases: random instructions of the CPU model, random states, the same for the same seed.
//!
//! ```text
//!   code ─► operands: registers, immediates, a memory operand that goes to an interesting address
//!        ─► setup: the state that makes the instruction do something (counts, comparands, divisors that fit, …)
//!        ─► encode, sometimes with odd prefixes or flipped bits
//! ```

mod operands;
mod select;
mod sequence;
mod setup;

use iced_x86::{Code, Decoder, DecoderOptions, Encoder, Instruction, Register};

use self::operands::Target;
use crate::case::Case;
use crate::layout::CODE;
use crate::random::Random;

/// How often a code is tried with other operands before another one is taken.
const TRIES: u32 = 50;
/// Percent of single instructions whose bytes are changed after encoding.
const MUTATED: u64 = 8;

/// A source of cases.
pub struct Generator {
    random: Random,
    codes: Vec<Code>,
    encoder: Encoder,
}

/// An instruction on its way to being a case.
struct Draft {
    instruction: Instruction,
    /// Where its memory operand goes, and by which registers.
    target: Option<Target>,
    case: Case,
    /// Registers whose values are settled, by number.
    settled: u16,
}

impl Draft {
    /// Gives general-purpose register `number` a value, unless it has one that matters.
    fn set(&mut self, number: usize, value: u64) -> bool {
        let free = self.settled & 1 << number == 0;
        if free {
            self.case.state.registers[number] = value;
            self.settled |= 1 << number;
        }
        free
    }
}

impl Generator {
    /// Cases from `seed` of the instructions that `wanted` accepts, of those of the CPU model.
    pub fn new(seed: u64, wanted: impl Fn(Code) -> bool) -> Self {
        let codes = select::codes().into_iter().filter(|code| wanted(*code));
        Self {
            random: Random::new(seed),
            codes: codes.collect(),
            encoder: Encoder::new(64),
        }
    }

    /// How many kinds of instruction (mnemonic, operand kinds and encoding) it draws from.
    pub fn codes(&self) -> &[Code] {
        &self.codes
    }

    /// A case of one instruction; `None` when no instruction was wanted, or none of many tries could be encoded.
    pub fn single(&mut self) -> Option<Case> {
        for _ in 0..TRIES {
            let code = *self
                .codes
                .get(self.random.below(self.codes.len().max(1) as u64) as usize)?;
            if let Some(case) = self.of(code) {
                return Some(case);
            }
        }
        None
    }

    /// A case of one instruction `code`; `None` when no operands that can be encoded were found.
    pub fn of(&mut self, code: Code) -> Option<Case> {
        for _ in 0..TRIES {
            let mut draft = Draft {
                instruction: Instruction::default(),
                target: None,
                case: Case::default(),
                settled: 0,
            };
            // Mostly at the same place; sometimes so that the instruction ends with the page, or would cross it.
            if self.random.chance(3) {
                draft.case.state.rip = CODE + 0xFF0 + self.random.below(16);
            }
            if !operands::choose(&mut self.random, &mut draft, code) {
                return None;
            }
            let rip = draft.case.state.rip;
            if self.encoder.encode(&draft.instruction, rip).is_err() {
                drop(self.encoder.take_buffer());
                continue;
            }
            let mut bytes = self.encoder.take_buffer();
            setup::state(&mut self.random, &mut draft);
            if self.random.chance(MUTATED) {
                self.mutate(&mut bytes, rip);
            }
            bytes.truncate((CODE + 4096 - rip) as usize);
            draft.case.code = bytes;
            if draft.case.is_valid() {
                return Some(draft.case);
            }
        }
        None
    }

    /// Adds a prefix to `bytes`, or flips a bit, if what comes of it may be executed.
    fn mutate(&mut self, bytes: &mut Vec<u8>, rip: u64) {
        const PREFIXES: [u8; 12] = [
            0x66, 0x67, 0xF2, 0xF3, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65, 0xF0, 0x48,
        ];
        let mut changed = bytes.clone();
        match self.random.below(8) {
            0 => {
                let at = self.random.below(changed.len() as u64) as usize;
                changed[at] ^= 1 << self.random.below(8);
            }
            1 => changed.insert(0, 0x40 | self.random.below(16) as u8),
            2 => {
                // To the longest instruction and beyond.
                let prefix = self.random.pick(&PREFIXES);
                let room = 15_usize.saturating_sub(changed.len());
                let count = room + self.random.below(3) as usize;
                changed.splice(0..0, std::iter::repeat_n(prefix, count));
            }
            _ => changed.insert(0, self.random.pick(&PREFIXES)),
        }
        // The breakpoints that follow are part of what is decoded.
        let mut seen = changed.clone();
        seen.resize(seen.len() + 16, crate::layout::FILL);
        let mut decoder = Decoder::with_ip(64, &seen, rip, DecoderOptions::NONE);
        let first = decoder.decode();
        // What follows a shorter instruction was never looked at.
        let whole = first.is_invalid() || decoder.position() >= changed.len();
        if whole && select::is_harmless(&first) {
            *bytes = changed;
        }
    }
}

/// The number of a general-purpose register of any width, by which states index it.
fn number(register: Register) -> Option<usize> {
    let full = register.full_register();
    full.is_gpr64().then(|| full.number())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_gives_cases_that_decode_as_it() {
        let mut generator = Generator::new(1, |_| true);
        let codes = generator.codes().to_vec();
        let mut missing = Vec::new();
        for code in codes {
            let found = (0..20).any(|_| {
                generator.of(code).is_some_and(|case| {
                    let mut decoder =
                        Decoder::with_ip(64, &case.code, case.state.rip, DecoderOptions::NONE);
                    let decoded = decoder.decode().code();
                    decoded == code || decoded.mnemonic() == code.mnemonic()
                })
            });
            if !found {
                missing.push(code);
            }
        }
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_cases() {
        let cases = |seed| -> Vec<Case> {
            let mut generator = Generator::new(seed, |_| true);
            (0..50).filter_map(|_| generator.single()).collect()
        };
        assert_eq!(cases(3), cases(3));
        assert_ne!(cases(3), cases(4));
    }

    #[test]
    fn nothing_wanted_gives_nothing() {
        assert_eq!(Generator::new(1, |_| false).single(), None);
    }
}
