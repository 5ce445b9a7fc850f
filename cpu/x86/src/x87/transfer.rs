//! Loads, stores, conversions, exchange.

use crate::float::Float;
use crate::float::format::{Class as NarrowClass, Operand, pack_direction};
use crate::float::{Control, INDEFINITE_DOUBLE, INDEFINITE_SINGLE};
use crate::real::{Real, Rounding};
use crate::x87::arithmetic::{Memory, NO_STORE};
use crate::x87::number::{
    Class, DE, Extended, IE, INDEFINITE, OE, ONE, Outcome, PE, Precision, QUIET, UE, infinity,
    pack, zero,
};
use crate::x87::unit::{C1, X87};

/// The numbers that FLDZ and its like load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constant {
    /// FLD1.
    One,
    /// FLDZ.
    Zero,
    /// FLDPI.
    Pi,
    /// FLDL2T: log2 10.
    Log2Of10,
    /// FLDL2E: log2 e.
    Log2OfE,
    /// FLDLG2: log10 2.
    Log10Of2,
    /// FLDLN2: ln 2.
    LnOf2,
}

/// An integer a store converts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 16 bits.
    Word = 16,
    /// 32 bits.
    Doubleword = 32,
    /// 64 bits.
    Quadword = 64,
}

/// A number of single or double precision in the unit's format; NaNs stay as they are.
fn widen<F: Float>(bits: u64) -> Memory {
    let operand = Operand::new::<F>(bits, &Control::new(0));
    let negative = operand.negative;
    let value = match operand.class {
        NarrowClass::Zero => zero(negative),
        NarrowClass::Infinity => infinity(negative),
        NarrowClass::Finite(number) => pack(number, &Precision::full(0x37F)).bits,
        NarrowClass::Quiet | NarrowClass::Signalling => {
            let fraction = bits & ((1 << F::FRACTION) - 1);
            infinity(negative) | u128::from(fraction) << (63 - F::FRACTION)
        }
    };
    Memory {
        bits: value,
        denormal: operand.denormal,
    }
}

impl Memory {
    /// A number of single precision.
    pub fn single(bits: u32) -> Self {
        widen::<f32>(bits.into())
    }

    /// A number of double precision.
    pub fn double(bits: u64) -> Self {
        let field = bits >> 52 & 0x7FF;
        if field == 0 || field == 0x7FF {
            return widen::<f64>(bits);
        }
        let sign = u128::from(bits >> 63) << 79;
        let significand = bits << 11 | 1 << 63;
        Self {
            bits: sign | u128::from(field + 0x3C00) << 64 | u128::from(significand),
            denormal: false,
        }
    }

    /// An integer.
    pub fn integer(value: i64) -> Self {
        let bits = match value {
            0 => 0,
            _ => pack(Real::from_integer(value), &Precision::full(0x37F)).bits,
        };
        Self {
            bits,
            denormal: false,
        }
    }

    /// Ten bytes of binary coded decimal: 18 digits and a sign.
    pub fn decimal(bytes: [u8; 10]) -> Self {
        let magnitude = bytes[..9].iter().rev().fold(0u64, |value, byte| {
            value * 100 + u64::from(byte >> 4) * 10 + u64::from(byte & 15)
        });
        let mut memory = Self::integer(magnitude.cast_signed());
        if bytes[9] & 0x80 != 0 {
            memory.bits |= 1 << 79;
        }
        memory
    }
}

impl X87 {
    /// Whether there is no room to push; deals with that.
    fn is_full(&mut self) -> bool {
        if self.is_empty(7) {
            self.status &= !C1;
            return false;
        }
        if !self.stack_overflow() {
            self.push_bits(INDEFINITE);
        }
        true
    }

    /// FLD of single or double precision, FILD, FBLD.
    pub fn load(&mut self, memory: Memory) {
        if self.is_full() {
            return;
        }
        let mut operand = Extended::new(memory.bits);
        operand.denormal = memory.denormal;
        let (bits, flags) = match operand.class {
            Class::Signalling => (memory.bits | QUIET, IE),
            _ => (memory.bits, operand.flag()),
        };
        // A denormal is loaded even when its exception is not masked.
        if !self.raise(flags) || flags == DE {
            self.push_bits(bits);
        }
    }

    /// FLD of the unit's own format: nothing is looked at.
    pub fn load_extended(&mut self, bits: u128) {
        if !self.is_full() {
            self.push_bits(bits & ((1 << 80) - 1));
        }
    }

    /// FLD ST(`index`).
    pub fn load_register(&mut self, index: usize) {
        if self.is_empty(index) {
            if !self.stack_underflow() {
                self.push_bits(INDEFINITE);
            }
            return;
        }
        let bits = self.st(index);
        self.load_extended(bits);
    }

    /// FLD1, FLDZ, FLDPI and their like. They round as the control word says, but always to 64 bits.
    pub fn load_constant(&mut self, constant: Constant) {
        if self.is_full() {
            return;
        }
        let (exponent, significand) = match constant {
            Constant::One => return self.push_bits(ONE),
            Constant::Zero => return self.push_bits(0),
            Constant::Pi => (1, PI),
            Constant::Log2Of10 => (1, 0xD49A_784B_CD1B_8AFE_492B_F6FF_4DAF_DB4C),
            Constant::Log2OfE => (0, 0xB8AA_3B29_5C17_F0BB_BE87_FED0_691D_3E88),
            Constant::Log10Of2 => (-2, 0x9A20_9A84_FBCF_F798_8F89_59AC_0B7C_9178),
            Constant::LnOf2 => (-1, LN_2),
        };
        let number = Real {
            negative: false,
            exponent,
            significand,
        };
        let bits = pack(number, &Precision::full(self.control)).bits;
        self.push_bits(bits);
    }

    /// ST(0) for a store; `None` when it is empty.
    fn stored(&mut self) -> Option<Extended> {
        self.status &= !C1;
        self.occupied(0)
    }

    /// Notes a store's exceptions; gives `value` if it may be stored.
    fn settle<T>(&mut self, value: T, flags: u16, up: bool) -> Option<T> {
        if flags & NO_STORE & !self.control != 0 {
            self.raise(flags & !PE);
            return None;
        }
        self.raise(flags);
        if up {
            self.status |= C1;
        }
        Some(value)
    }

    fn narrow<F: Float>(&mut self, indefinite: u64) -> Option<u64> {
        let Some(operand) = self.stored() else {
            return (!self.stack_underflow()).then_some(indefinite);
        };
        let negative = if operand.negative { F::SIGN } else { 0 };
        let (bits, flags, up) = match operand.class {
            Class::Unsupported => (indefinite, IE, false),
            Class::Zero => (negative, 0, false),
            Class::Infinity => (negative | F::INFINITY, 0, false),
            Class::Quiet | Class::Signalling => {
                let significand = operand.bits as u64 & (u64::MAX >> 1);
                let fraction = significand >> (63 - F::FRACTION);
                let signals = operand.class == Class::Signalling;
                let bits = negative | F::INFINITY | F::QUIET | fraction;
                (bits, if signals { IE } else { 0 }, false)
            }
            Class::Finite(number) => {
                let control = Control {
                    rounding: Rounding::from_bits(u32::from(self.control >> 10)),
                    denormals_are_zero: false,
                    flush: false,
                    overflow_masked: self.control & OE != 0,
                    underflow_masked: self.control & UE != 0,
                };
                let (bits, flags, up) = pack_direction::<F>(number, &control);
                (bits, flags as u16, up)
            }
        };
        self.settle(bits, flags, up)
    }

    /// FST of single precision, before it pops; `None` when an unmasked exception keeps it from storing and popping.
    pub fn store_single(&mut self) -> Option<u32> {
        self.narrow::<f32>(INDEFINITE_SINGLE)
            .map(|bits| bits as u32)
    }

    /// FST of double precision, before it pops; `None` when an unmasked exception keeps it from storing and popping.
    pub fn store_double(&mut self) -> Option<u64> {
        self.narrow::<f64>(INDEFINITE_DOUBLE)
    }

    /// FSTP of the unit's own format, before it pops; `None` when an unmasked exception keeps it from storing and popping.
    pub fn store_extended(&mut self) -> Option<u128> {
        match self.stored() {
            Some(operand) => Some(operand.bits),
            None => (!self.stack_underflow()).then_some(INDEFINITE),
        }
    }

    /// FST ST(`index`); pops where `pop`.
    pub fn store_register(&mut self, index: usize, pop: bool) {
        match self.stored() {
            Some(operand) => {
                self.set_st(index, operand.bits);
                if pop {
                    self.pop();
                }
            }
            None => self.underflow_into(index, pop),
        }
    }

    /// FSTPNCE: as FSTP ST(`index`), but an empty ST(0) is popped without an exception.
    pub fn store_register_and_pop(&mut self, index: usize) {
        if self.is_empty(0) {
            self.status &= !C1;
            return self.pop();
        }
        self.store_register(index, true);
    }

    /// FIST, with `truncate` FISTTP, before it pops; `None` when an unmasked exception keeps it from storing and popping.
    pub fn store_integer(&mut self, width: Width, truncate: bool) -> Option<i64> {
        let indefinite = i64::MIN >> (64 - width as u32);
        let Some(operand) = self.stored() else {
            return (!self.stack_underflow()).then_some(indefinite);
        };
        let rounding = if truncate {
            Rounding::Zero
        } else {
            Rounding::from_bits(u32::from(self.control >> 10))
        };
        let (value, flags, up) = match operand.class {
            Class::Zero => (0, 0, false),
            Class::Finite(number) => match number.integer(rounding) {
                Some((magnitude, how)) => {
                    let limit = 1u64 << (width as u32 - 1);
                    if magnitude > limit || (magnitude == limit && !number.negative) {
                        (indefinite, IE, false)
                    } else {
                        let value = magnitude.cast_signed();
                        let value = if number.negative {
                            value.wrapping_neg()
                        } else {
                            value
                        };
                        (value, if how.inexact { PE } else { 0 }, how.up)
                    }
                }
                None => (indefinite, IE, false),
            },
            _ => (indefinite, IE, false),
        };
        self.settle(value, flags, up)
    }

    /// FBSTP, before it pops; `None` when an unmasked exception keeps it from storing and popping.
    pub fn store_decimal(&mut self) -> Option<[u8; 10]> {
        const INDEFINITE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0xC0, 0xFF, 0xFF];
        let Some(operand) = self.stored() else {
            return (!self.stack_underflow()).then_some(INDEFINITE);
        };
        let rounding = Rounding::from_bits(u32::from(self.control >> 10));
        let (magnitude, flags, up) = match operand.class {
            Class::Zero => (Some(0), 0, false),
            Class::Finite(number) => match number.integer(rounding) {
                Some((magnitude, how)) if magnitude < 1_000_000_000_000_000_000 => {
                    (Some(magnitude), if how.inexact { PE } else { 0 }, how.up)
                }
                _ => (None, IE, false),
            },
            _ => (None, IE, false),
        };
        let bytes = match magnitude {
            None => INDEFINITE,
            Some(mut rest) => {
                let mut bytes = [0; 10];
                for byte in &mut bytes[..9] {
                    let two = (rest % 100) as u8;
                    *byte = ((two / 10) << 4) | (two % 10);
                    rest /= 100;
                }
                bytes[9] = if operand.negative { 0x80 } else { 0 };
                bytes
            }
        };
        self.settle(bytes, flags, up)
    }

    /// FXCH ST(`index`).
    pub fn exchange(&mut self, index: usize) {
        if self.is_empty(0) || self.is_empty(index) {
            if self.stack_underflow() {
                return;
            }
            for place in [0, index] {
                if self.is_empty(place) {
                    self.set_st(place, INDEFINITE);
                }
            }
        } else {
            self.status &= !C1;
        }
        let (a, b) = (self.st(0), self.st(index));
        self.set_st(0, b);
        self.set_st(index, a);
    }
}

/// π's significand.
pub(crate) const PI: u128 = 0xC90F_DAA2_2168_C234_C4C6_628B_80DC_1CD1;
/// ln 2's significand.
pub(crate) const LN_2: u128 = 0xB172_17F7_D1CF_79AB_C9E3_B398_03F2_F6AF;

impl Outcome {
    /// The same with other exceptions besides.
    pub(crate) fn raising(self, flags: u16) -> Self {
        Self {
            flags: self.flags | flags,
            ..self
        }
    }
}
