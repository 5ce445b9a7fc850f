//! The environment and state images of FNSTENV, FLDENV, FNSAVE and FRSTOR (Intel SDM vol. 1 §8.1.10).
//!
//! Selectors are stored as 0 and ignored, as processors do that no longer keep them (CPUID.07H:EBX bit 13).

use crate::x87::number::{Class, Extended};
use crate::x87::unit::X87;

/// Which of the four layouts an image has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// 32-bit operand size: 28 bytes instead of 14.
    pub wide: bool,
    /// Real mode: addresses are linear.
    pub real: bool,
}

impl Layout {
    /// Bytes of an environment.
    #[must_use]
    pub fn bytes(self) -> usize {
        if self.wide { 28 } else { 14 }
    }
}

/// Bytes of the eight registers after the environment.
pub const REGISTERS: usize = 80;

impl X87 {
    /// The tag word: two bits a register, 0 valid, 1 zero, 2 special, 3 empty.
    #[must_use]
    pub fn tag_word(&self) -> u16 {
        (0..8).fold(0, |word, register| {
            let operand = Extended::new(self.registers[register]);
            let tag = match operand.class {
                _ if self.tags >> register & 1 == 0 => 3,
                Class::Zero => 1,
                Class::Finite(_) if !operand.denormal => 0,
                _ => 2,
            };
            word | tag << (2 * register)
        })
    }

    /// The environment, in the first [`Layout::bytes`] bytes.
    #[must_use]
    pub fn environment(&self, layout: Layout) -> [u8; 28] {
        let mut image = [0; 28];
        let opcode = u32::from(self.opcode & 0x7FF);
        let (instruction, operand) = (self.instruction as u32, self.operand as u32);
        let high = |address: u32| (address >> 16) << 12;
        let words = match (layout.wide, layout.real) {
            (true, false) => [instruction, opcode << 16, operand, 0],
            (true, true) => [
                instruction & 0xFFFF,
                high(instruction) | opcode,
                operand & 0xFFFF,
                high(operand),
            ],
            (false, false) => [instruction, 0, operand, 0],
            (false, true) => [
                instruction,
                high(instruction) | opcode,
                operand,
                high(operand),
            ],
        };
        let first = [self.control, self.status, self.tag_word()].map(u32::from);
        if layout.wide {
            for (index, word) in first.into_iter().enumerate() {
                let word = word | 0xFFFF_0000;
                image[index * 4..index * 4 + 4].copy_from_slice(&word.to_le_bytes());
            }
            for (index, word) in words.into_iter().enumerate() {
                // The upper half of the last word is reserved; so are those of the offsets in real mode.
                let reserved = index == 3 || (layout.real && index % 2 == 0);
                let word = if reserved && !(layout.real && index == 3) {
                    word | 0xFFFF_0000
                } else {
                    word
                };
                let at = 12 + index * 4;
                image[at..at + 4].copy_from_slice(&word.to_le_bytes());
            }
        } else {
            for (index, word) in first.into_iter().chain(words).enumerate() {
                image[index * 2..index * 2 + 2].copy_from_slice(&(word as u16).to_le_bytes());
            }
        }
        image
    }

    /// FLDENV of an image of [`Layout::bytes`] bytes or more; shorter ones count as followed by zeroes.
    pub fn load_environment(&mut self, image: &[u8], layout: Layout) {
        let step = if layout.wide { 4 } else { 2 };
        let word = |index: usize| {
            let byte = |at: usize| u32::from(image.get(index * step + at).copied().unwrap_or(0));
            (0..step).fold(0, |word, at| word | byte(at) << (8 * at))
        };
        self.control = (word(0) as u16 & 0x1F7F) | 0x40;
        self.status = word(1) as u16;
        let tags = word(2);
        self.tags = (0..8).fold(0, |used, register| {
            used | u8::from(tags >> (2 * register) & 3 != 3) << register
        });
        let (low, high) = (word(3), word(4));
        let (operand_low, operand_high) = (word(5), word(6));
        let address = |low: u32, high: u32| {
            if layout.real {
                u64::from((low & 0xFFFF) | (high >> 12 & 0xFFFF) << 16)
            } else {
                u64::from(low)
            }
        };
        self.instruction = address(low, high);
        self.operand = address(operand_low, operand_high);
        self.opcode = match (layout.wide, layout.real) {
            (_, true) => high as u16 & 0x7FF,
            (true, false) => (high >> 16) as u16 & 0x7FF,
            (false, false) => 0,
        };
        self.summarise();
    }

    /// The registers as FNSAVE stores them, ST(0) first.
    #[must_use]
    pub fn stack_image(&self) -> [u8; REGISTERS] {
        let mut image = [0; REGISTERS];
        for (index, bytes) in image.chunks_exact_mut(10).enumerate() {
            bytes.copy_from_slice(&self.st(index).to_le_bytes()[..10]);
        }
        image
    }

    /// Takes registers as FRSTOR loads them; call after [`X87::load_environment`].
    pub fn load_stack_image(&mut self, image: &[u8; REGISTERS]) {
        let top = self.top();
        for (index, bytes) in image.chunks_exact(10).enumerate() {
            let mut wide = [0; 16];
            wide[..10].copy_from_slice(bytes);
            self.registers[(top + index) & 7] = u128::from_le_bytes(wide);
        }
    }

    /// FNINIT: the registers' contents stay, but count as empty.
    pub fn initialise(&mut self) {
        *self = Self {
            registers: self.registers,
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_gives_back_what_it_holds() {
        for (wide, real) in [(false, false), (false, true), (true, false), (true, true)] {
            let layout = Layout { wide, real };
            let unit = X87 {
                registers: std::array::from_fn(|index| 0x3FFF_8000_0000_0000_0000 + index as u128),
                control: 0x0B7F,
                status: 0x3921,
                tags: 0b1010_0110,
                // 16-bit protected mode has no opcode and 16 bits of address; real mode 20.
                opcode: if wide || real { 0x5A3 } else { 0 },
                instruction: if wide || real { 0xF_1234 } else { 0x1234 },
                operand: if wide || real { 0xE_5678 } else { 0x5678 },
            };
            let mut again = X87 {
                registers: unit.registers,
                ..X87::default()
            };
            again.load_environment(&unit.environment(layout)[..layout.bytes()], layout);
            assert_eq!(again, unit, "{layout:?}");
            assert_eq!(again.stack_image(), unit.stack_image());
            let mut restored = again;
            restored.registers = [0; 8];
            restored.load_stack_image(&again.stack_image());
            assert_eq!(restored, unit);
        }
    }
}
