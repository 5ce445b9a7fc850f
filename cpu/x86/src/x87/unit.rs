//! The unit's registers, its stack and its exceptions.

use crate::x87::arithmetic::BEFORE;
use crate::x87::number::{Extended, IE, INDEFINITE, Outcome};

/// Stack fault.
pub(crate) const SF: u16 = 1 << 6;
/// Condition code 0.
pub(crate) const C0: u16 = 1 << 8;
/// Condition code 1: rounded up, or which stack fault.
pub(crate) const C1: u16 = 1 << 9;
/// Condition code 2.
pub(crate) const C2: u16 = 1 << 10;
/// Condition code 3.
pub(crate) const C3: u16 = 1 << 14;
/// An unmasked exception waits: ES and B.
const PENDING: u16 = 0x8080;

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

    /// The register that is ST(`index`).
    #[inline(always)]
    fn register(&self, index: usize) -> usize {
        (self.top() + index) & 7
    }

    /// ST(`index`), whether it is in use or not.
    #[inline(always)]
    pub fn st(&self, index: usize) -> u128 {
        self.registers[self.register(index)]
    }

    /// Writes ST(`index`), which is then in use.
    #[inline(always)]
    pub(crate) fn set_st(&mut self, index: usize, bits: u128) {
        let register = self.register(index);
        self.registers[register] = bits;
        self.tags |= 1 << register;
    }

    /// Whether ST(`index`) is not in use.
    #[inline(always)]
    pub fn is_empty(&self, index: usize) -> bool {
        self.tags >> self.register(index) & 1 == 0
    }

    /// ST(`index`) taken apart; `None` when it is not in use.
    pub(crate) fn occupied(&self, index: usize) -> Option<Extended> {
        (!self.is_empty(index)).then(|| Extended::new(self.st(index)))
    }

    /// Frees ST(0) and makes the next register the top.
    #[inline]
    pub fn pop(&mut self) {
        let top = self.top();
        self.tags &= !(1 << top);
        self.set_top(top + 1);
    }

    /// Pushes a value onto the stack, which has room.
    pub(crate) fn push_bits(&mut self, bits: u128) {
        self.set_top(self.top() + 7);
        self.set_st(0, bits);
    }

    /// FFREE.
    pub fn free(&mut self, index: usize) {
        self.status &= !C1;
        self.tags &= !(1 << self.register(index));
    }

    /// FINCSTP.
    pub fn increment_top(&mut self) {
        self.status &= !C1;
        self.set_top(self.top() + 1);
    }

    /// FDECSTP.
    pub fn decrement_top(&mut self) {
        self.status &= !C1;
        self.set_top(self.top() + 7);
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
        self.status &= !PENDING;
        if self.status & !self.control & 0x3F != 0 {
            self.status |= PENDING;
        }
    }

    /// Notes exceptions; says whether one of them is not masked.
    pub(crate) fn raise(&mut self, flags: u16) -> bool {
        self.status |= flags;
        let unmasked = flags & !self.control & 0x3F != 0;
        if unmasked {
            self.status |= PENDING;
        }
        unmasked
    }

    /// Notes those of `flags` that are found before computing, if one of them is not masked, and says so.
    pub(crate) fn raise_before(&mut self, flags: u16) -> bool {
        if flags & BEFORE & !self.control != 0 {
            return self.raise(flags & BEFORE);
        }
        self.raise(flags);
        false
    }

    /// Notes a stack underflow; says whether it is not masked.
    pub(crate) fn stack_underflow(&mut self) -> bool {
        self.status &= !C1;
        self.raise(IE | SF)
    }

    /// Notes a stack overflow; says whether it is not masked.
    pub(crate) fn stack_overflow(&mut self) -> bool {
        self.status |= C1;
        self.raise(IE | SF)
    }

    /// A stack underflow of an instruction whose result goes to ST(`destination`).
    pub(crate) fn underflow_into(&mut self, destination: usize, pop: bool) {
        if !self.stack_underflow() {
            self.set_st(destination, INDEFINITE);
            if pop {
                self.pop();
            }
        }
    }

    /// A stack underflow of an instruction that gives two results.
    pub(crate) fn underflow_into_two(&mut self) {
        if !self.stack_underflow() {
            self.set_st(0, INDEFINITE);
            self.push_bits(INDEFINITE);
        }
    }

    /// A stack overflow of an instruction that gives two results.
    pub(crate) fn overflow_into_two(&mut self) {
        if !self.stack_overflow() {
            self.set_st(0, INDEFINITE);
            self.push_bits(INDEFINITE);
        }
    }

    /// Puts a result into ST(`destination`) unless an exception forbids it; says whether it is there.
    pub(crate) fn finish(&mut self, destination: usize, outcome: Outcome, pop: bool) -> bool {
        self.status &= !C1;
        if self.raise_before(outcome.flags) {
            return false;
        }
        if outcome.up {
            self.status |= C1;
        }
        self.set_st(destination, outcome.bits);
        if pop {
            self.pop();
        }
        true
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
