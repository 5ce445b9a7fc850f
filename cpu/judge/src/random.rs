//! Pseudo-random numbers, and values that instructions find interesting.

/// SplitMix64 (Steele, Lea, Flood 2014): the same sequence for the same seed, for ever.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// A number below `end`, which is over 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(end)) >> 64) as u64
    }

    /// True in `percent` of 100 cases.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `choices`, which are not empty.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// An integer: small, near a power of two, near the end of a width, or any.
    pub(crate) fn integer(&mut self) -> u64 {
        let small = self.below(5).wrapping_sub(2);
        match self.below(10) {
            0 => small,
            1 => self.below(256),
            2 => 1_u64 << self.below(64),
            3 => (1_u64 << self.below(64)).wrapping_add(small),
            4 => (1_u64 << self.below(64)).wrapping_neg().wrapping_add(small),
            5 => {
                let narrow = self.bits() >> self.below(64);
                if self.chance(50) {
                    narrow.wrapping_neg()
                } else {
                    narrow
                }
            }
            // Each byte one of the ends of its range.
            6 => (0..8).fold(0, |value, _| {
                value << 8 | self.pick(&[0, 1, 0x7F, 0x80, 0xFF])
            }),
            _ => self.bits(),
        }
    }

    /// A single-precision number: special, at the limits of integers, or any.
    pub(crate) fn single(&mut self) -> u32 {
        const SPECIAL: [u32; 24] = [
            0,
            1,
            0x007F_FFFF,
            0x0080_0000,
            0x0040_0000,
            0x3F80_0000,
            0x3F00_0000,
            0x3F80_0001,
            0x3F7F_FFFF,
            0x4000_0000,
            0x4B00_0000,
            0x4B80_0000,
            0x4EFF_FFFF,
            0x4F00_0000,
            0x5EFF_FFFF,
            0x5F00_0000,
            0x7F7F_FFFF,
            0x7F80_0000,
            0x7F80_0001,
            0x7FA0_0000,
            0x7FC0_0000,
            0x7FFF_FFFF,
            0x4049_0FDB,
            0x3EAA_AAAB,
        ];
        let sign = (self.bits() as u32) & 1 << 31;
        match self.below(8) {
            0..=2 => self.pick(&SPECIAL) | sign,
            // Exponents whose sums and products neither vanish nor overflow.
            3..=5 => {
                let exponent = 127 - 30 + self.below(60) as u32;
                sign | exponent << 23 | self.mantissa(23) as u32
            }
            6 => sign | (self.below(4000) as f32 * 0.5).to_bits(),
            _ => self.bits() as u32,
        }
    }

    /// A double-precision number, likewise.
    pub(crate) fn double(&mut self) -> u64 {
        const SPECIAL: [u64; 26] = [
            0,
            1,
            0x000F_FFFF_FFFF_FFFF,
            0x0010_0000_0000_0000,
            0x0008_0000_0000_0000,
            0x3FF0_0000_0000_0000,
            0x3FE0_0000_0000_0000,
            0x3FF0_0000_0000_0001,
            0x3FEF_FFFF_FFFF_FFFF,
            0x4000_0000_0000_0000,
            0x4330_0000_0000_0000,
            0x4340_0000_0000_0000,
            0x41DF_FFFF_FFC0_0000,
            0x41DF_FFFF_FFE0_0000,
            0x41E0_0000_0000_0000,
            0x43DF_FFFF_FFFF_FFFF,
            0x43E0_0000_0000_0000,
            0x7FEF_FFFF_FFFF_FFFF,
            0x7FF0_0000_0000_0000,
            0x7FF0_0000_0000_0001,
            0x7FF4_0000_0000_0000,
            0x7FF8_0000_0000_0000,
            0x7FFF_FFFF_FFFF_FFFF,
            0x4009_21FB_5444_2D18,
            0x36A0_0000_0000_0000,
            0x47EF_FFFF_F000_0000,
        ];
        let sign = self.bits() & 1 << 63;
        match self.below(8) {
            0..=2 => self.pick(&SPECIAL) | sign,
            3 | 4 => {
                let exponent = 1023 - 40 + self.below(80);
                sign | exponent << 52 | self.mantissa(52)
            }
            // Around what single precision can hold, its denormals too.
            5 => {
                let exponent = 1023 - 155 + self.below(290);
                sign | exponent << 52 | self.mantissa(52)
            }
            6 => sign | (self.below(4000) as f64 * 0.5).to_bits(),
            _ => self.bits(),
        }
    }

    /// A number of the x87's 80-bit format, invalid encodings included.
    pub(crate) fn extended(&mut self) -> u128 {
        const SPECIAL: [(u16, u64); 22] = [
            (0, 0),
            (0, 1),
            (0, (1 << 63) - 1),
            // Pseudo-denormal.
            (0, 1 << 63),
            (0, u64::MAX),
            (1, 1 << 63),
            (0x3FFF, 1 << 63),
            (0x3FFE, u64::MAX),
            (0x3FFF, (1 << 63) + 1),
            (0x4000, 1 << 63),
            (0x403E, u64::MAX),
            (0x403D, u64::MAX),
            (0x401E, 1 << 63),
            (0x7FFE, u64::MAX),
            // Infinity, signalling and quiet NaN, pseudo-infinity, pseudo-NaN, unnormal.
            (0x7FFF, 1 << 63),
            (0x7FFF, (1 << 63) + 1),
            (0x7FFF, 3 << 62),
            (0x7FFF, u64::MAX),
            (0x7FFF, 0),
            (0x7FFF, 1 << 62),
            (0x3FFF, 1 << 62),
            (0x4000, 0xC90F_DAA2_2168_C235),
        ];
        let sign = (self.bits() as u16) & 1 << 15;
        let (exponent, significand) = match self.below(8) {
            0 | 1 => self.pick(&SPECIAL),
            2..=4 => {
                let exponent = 0x3FFF - 40 + self.below(80) as u16;
                (exponent, 1 << 63 | self.mantissa(63))
            }
            5 => {
                let exponent = self.below(0x7FFF) as u16;
                (exponent, 1 << 63 | self.mantissa(63))
            }
            6 => {
                let whole = 1 + self.below(5000);
                let shift = whole.leading_zeros();
                (0x3FFF + 63 - shift as u16, whole << shift)
            }
            _ => (self.bits() as u16 & 0x7FFF, self.bits()),
        };
        u128::from(significand) | u128::from(exponent | sign) << 64
    }

    /// `bits` bits of fraction: any, or with long runs of zeros or ones so that rounding is met.
    fn mantissa(&mut self, bits: u32) -> u64 {
        let mask = (1 << bits) - 1;
        match self.below(4) {
            0 => 0,
            1 => (self.bits() << self.below(u64::from(bits))) & mask,
            2 => !(self.bits() << self.below(u64::from(bits))) & mask,
            _ => self.bits() & mask,
        }
    }

    /// 16 bytes of a vector register.
    pub(crate) fn vector(&mut self, lanes: Lanes) -> u128 {
        let mut join = |count: u32, mut lane: Box<dyn FnMut(&mut Self) -> u128>| {
            (0..count).fold(0, |value, _| value << (128 / count) | lane(self))
        };
        match lanes {
            Lanes::Singles => join(4, Box::new(|random| random.single().into())),
            Lanes::Doubles => join(2, Box::new(|random| random.double().into())),
            Lanes::Integers => join(2, Box::new(|random| random.integer().into())),
            // Strings over a small alphabet, zeros among them.
            Lanes::Text => join(16, Box::new(|random| random.below(4).into())),
        }
    }
}

/// What a vector holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    Singles,
    Doubles,
    Integers,
    Text,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (mut one, mut other) = (Random::new(7), Random::new(7));
        for _ in 0..100 {
            assert_eq!(one.integer(), other.integer());
            assert_eq!(one.extended(), other.extended());
            assert_eq!(one.vector(Lanes::Text), other.vector(Lanes::Text));
        }
        assert_eq!(Random::new(0).bits(), 0xE220_A839_7B1D_CDAF);
    }

    #[test]
    fn numbers_below_an_end_are() {
        let mut random = Random::new(1);
        let mut seen = [false; 5];
        for _ in 0..1000 {
            seen[random.below(5) as usize] = true;
        }
        assert_eq!(seen, [true; 5]);
    }
}
