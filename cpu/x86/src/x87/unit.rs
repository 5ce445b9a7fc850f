//! The unit's registers.

/// The x87 unit: eight registers of 80 bits, used as a stack, and what controls them (Intel SDM vol. 1 §8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X87 {
    /// R0 to R7, in the low 80 bits.
    pub registers: [u128; 8],
    /// Control word.
    pub control: u16,
    /// Status word, the top of the stack in bits 11 to 13.
    pub status: u16,
    /// A bit a register: set when it is in use.
    pub tags: u8,
    /// Last instruction's opcode, 11 bits.
    pub opcode: u16,
    /// Last instruction's address.
    pub instruction: u64,
    /// Last memory operand's address.
    pub operand: u64,
}

impl Default for X87 {
    /// As after FNINIT, with all registers 0.
    fn default() -> Self {
        Self {
            registers: [0; 8],
            control: 0x37F,
            status: 0,
            tags: 0,
            opcode: 0,
            instruction: 0,
            operand: 0,
        }
    }
}

impl X87 {
    /// The register that is ST(0).
    #[inline(always)]
    pub fn top(&self) -> usize {
        usize::from(self.status >> 11 & 7)
    }

    /// Makes register `top` modulo 8 ST(0).
    #[inline(always)]
    pub fn set_top(&mut self, top: usize) {
        self.status = (self.status & !0x3800) | (top as u16 & 7) << 11;
    }

    /// Whether an unmasked exception waits for the next instruction that looks (bit ES of the status word).
    #[inline(always)]
    pub fn has_pending_exception(&self) -> bool {
        self.status & 0x80 != 0
    }

    /// Makes bits ES and B of the status word say whether an unmasked exception waits, after status or control word were
    /// written.
    #[inline]
    pub fn summarise(&mut self) {
        self.status &= 0x7F7F;
        if self.status & !self.control & 0x3F != 0 {
            self.status |= 0x8080;
        }
    }

    /// MMX register `index`, modulo 8, for reading or after [`X87::enter_mmx`].
    #[inline(always)]
    pub fn mmx(&self, index: u8) -> u64 {
        self.registers[usize::from(index & 7)] as u64
    }

    /// What every MMX instruction but EMMS does to the unit: the stack's top is 0, all registers are in use (Intel SDM
    /// vol. 1 §9.5.1).
    #[inline(always)]
    pub fn enter_mmx(&mut self) {
        self.status &= !0x3800;
        self.tags = 0xFF;
    }

    /// Writes MMX register `index`, modulo 8: as a floating-point number it becomes a NaN or infinity.
    #[inline(always)]
    pub fn set_mmx(&mut self, index: u8, value: u64) {
        self.registers[usize::from(index & 7)] = 0xFFFF << 64 | u128::from(value);
    }
}
