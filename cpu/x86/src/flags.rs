//! RFLAGS' status flags, kept as what they are computed from.
//!
//! An instruction stores its result and its carries; CF, PF, AF, ZF, SF and OF are worked out only when something reads
//! them, which is after about one instruction in four.

use crate::integer::Integer;

/// Carry.
pub const CF: u64 = 1 << 0;
/// Parity of the low byte: set when even.
pub const PF: u64 = 1 << 2;
/// Carry out of bit 3.
pub const AF: u64 = 1 << 4;
/// Zero.
pub const ZF: u64 = 1 << 6;
/// Sign.
pub const SF: u64 = 1 << 7;
/// Overflow.
pub const OF: u64 = 1 << 11;
/// All six.
pub const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// The status flags, lazily.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags {
    /// The last result, sign-extended: ZF, SF and PF come from it.
    result: u64,
    /// Bit 31: CF. Bit 30: CF xor OF. Bit 3: AF. Bits 8–15: xored to the result's low byte for PF. Bit 0: xored to the
    /// result's sign for SF.
    aux: u32,
}

const CARRY: u32 = 1 << 31;
const CARRY_AND_OVERFLOW: u32 = 3 << 30;
const ADJUST: u32 = 1 << 3;

impl Default for Flags {
    fn default() -> Self {
        Self::from_bits(0)
    }
}

/// The condition codes of Jcc, SETcc and CMOVcc, as instructions number them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the manual's own names")]
pub enum Condition {
    O,
    No,
    B,
    Ae,
    E,
    Ne,
    Be,
    A,
    S,
    Ns,
    P,
    Np,
    L,
    Ge,
    Le,
    G,
}

impl Condition {
    /// All, each at its number.
    pub const ALL: [Self; 16] = [
        Self::O,
        Self::No,
        Self::B,
        Self::Ae,
        Self::E,
        Self::Ne,
        Self::Be,
        Self::A,
        Self::S,
        Self::Ns,
        Self::P,
        Self::Np,
        Self::L,
        Self::Ge,
        Self::Le,
        Self::G,
    ];
}

impl Flags {
    /// The flags that the status bits of `bits` (in RFLAGS' places) name.
    pub fn from_bits(bits: u64) -> Self {
        // A result of 0 is ZF; one of 256 is neither zero nor negative, with an even low byte.
        let result = if bits & ZF != 0 { 0 } else { 256 };
        let carry = bits & CF != 0;
        let overflow = bits & OF != 0;
        let mut aux = 0;
        if carry {
            aux |= CARRY;
        }
        if carry != overflow {
            aux |= CARRY >> 1;
        }
        if bits & AF != 0 {
            aux |= ADJUST;
        }
        if bits & PF == 0 {
            aux |= 1 << 8;
        }
        if bits & SF != 0 {
            aux |= 1;
        }
        Self { result, aux }
    }

    /// The status bits, in RFLAGS' places.
    pub fn bits(self) -> u64 {
        let bit = |set: bool, flag: u64| if set { flag } else { 0 };
        bit(self.carry(), CF)
            | bit(self.parity(), PF)
            | bit(self.adjust(), AF)
            | bit(self.zero(), ZF)
            | bit(self.sign(), SF)
            | bit(self.overflow(), OF)
    }

    /// CF.
    #[inline(always)]
    pub fn carry(self) -> bool {
        self.aux >> 31 != 0
    }

    /// PF.
    #[inline(always)]
    pub fn parity(self) -> bool {
        (self.result as u8 ^ (self.aux >> 8) as u8)
            .count_ones()
            .is_multiple_of(2)
    }

    /// AF.
    #[inline(always)]
    pub fn adjust(self) -> bool {
        self.aux & ADJUST != 0
    }

    /// ZF.
    #[inline(always)]
    pub fn zero(self) -> bool {
        self.result == 0
    }

    /// SF.
    #[inline(always)]
    pub fn sign(self) -> bool {
        (self.result >> 63) as u32 ^ (self.aux & 1) != 0
    }

    /// OF.
    #[inline(always)]
    pub fn overflow(self) -> bool {
        (self.aux ^ (self.aux << 1)) >> 31 != 0
    }

    /// Whether `condition` holds.
    #[inline(always)]
    pub fn holds(self, condition: Condition) -> bool {
        match condition {
            Condition::O => self.overflow(),
            Condition::No => !self.overflow(),
            Condition::B => self.carry(),
            Condition::Ae => !self.carry(),
            Condition::E => self.zero(),
            Condition::Ne => !self.zero(),
            Condition::Be => self.carry() | self.zero(),
            Condition::A => !(self.carry() | self.zero()),
            Condition::S => self.sign(),
            Condition::Ns => !self.sign(),
            Condition::P => self.parity(),
            Condition::Np => !self.parity(),
            Condition::L => self.sign() != self.overflow(),
            Condition::Ge => self.sign() == self.overflow(),
            Condition::Le => self.zero() | (self.sign() != self.overflow()),
            Condition::G => !(self.zero() | (self.sign() != self.overflow())),
        }
    }

    /// All flags from a result and the carry out of each of its bits.
    #[inline(always)]
    pub fn arithmetic<T: Integer>(result: T, carries: T) -> Self {
        let carries = carries.zero_extended();
        // The two top carries at bits 63 and 62, whatever the width.
        let top = (carries << (64 - T::BITS)) >> 32;
        Self {
            result: result.sign_extended(),
            aux: (top as u32 & CARRY_AND_OVERFLOW) | (carries as u32 & ADJUST),
        }
    }

    /// ZF, SF and PF from a result; CF, OF and AF clear.
    #[inline(always)]
    pub fn logic<T: Integer>(result: T) -> Self {
        Self {
            result: result.sign_extended(),
            aux: 0,
        }
    }

    /// Sets CF alone.
    #[inline(always)]
    pub fn set_carry(&mut self, carry: bool) {
        if self.carry() != carry {
            // OF stays: it is the xor of both bits.
            self.aux ^= CARRY_AND_OVERFLOW;
        }
    }

    /// Sets CF and OF alone.
    #[inline(always)]
    pub fn set_carry_overflow(&mut self, carry: bool, overflow: bool) {
        self.aux &= !CARRY_AND_OVERFLOW;
        self.aux |= u32::from(carry) << 31 | u32::from(carry != overflow) << 30;
    }

    /// Sets AF alone.
    #[inline(always)]
    pub fn set_adjust(&mut self, adjust: bool) {
        self.aux = (self.aux & !ADJUST) | u32::from(adjust) << 3;
    }

    /// Sets ZF alone, keeping the others.
    pub fn set_zero(&mut self, zero: bool) {
        let bits = (self.bits() & !ZF) | if zero { ZF } else { 0 };
        *self = Self::from_bits(bits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_combination_survives() {
        for pattern in 0..64u64 {
            let flag = |bit: u32, flag: u64| if pattern >> bit & 1 != 0 { flag } else { 0 };
            let bits =
                flag(0, CF) | flag(1, PF) | flag(2, AF) | flag(3, ZF) | flag(4, SF) | flag(5, OF);
            let mut flags = Flags::from_bits(bits);
            assert_eq!(flags.bits(), bits);
            flags.set_carry(bits & CF == 0);
            assert_eq!(flags.bits(), bits ^ CF);
            flags.set_zero(bits & ZF == 0);
            assert_eq!(flags.bits(), bits ^ CF ^ ZF);
            flags.set_carry_overflow(true, false);
            assert_eq!(flags.bits() & (CF | OF), CF);
            flags.set_adjust(true);
            assert_eq!(flags.bits() & AF, AF);
        }
    }
}
