//! Inputs: pseudo-random, and the values at which instructions change their mind.

/// SplitMix64: the same sequence on every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A vector of elements of one random width, half of them corner cases.
    pub(crate) fn vector(&mut self) -> u128 {
        let width = 8 << self.below(4);
        let mask = u64::MAX >> (64 - width);
        let mut vector = 0;
        for index in 0..128 / width {
            let element = match self.below(10) {
                0 => 0,
                1 => 1,
                2 => mask,
                3 => mask >> 1,
                4 => (mask >> 1) + 1,
                _ => self.next() & mask,
            };
            vector |= u128::from(element) << (index * width);
        }
        vector
    }

    /// A number in a binary format: zero, denormal, near the limits, simple, infinite, NaN, any.
    pub(crate) fn float(&mut self, fraction: u32, exponent: u32) -> u64 {
        let top = (1u64 << exponent) - 1;
        let bias = top >> 1;
        let all = (1u64 << fraction) - 1;
        let random = self.next() & all;
        let few = random & !(all >> self.below(6)) & all;
        let (field, fraction_bits) = match self.below(20) {
            0 => (0, 0),
            1 => (0, [1, 2, all, all - 1, all >> 1][self.below(5) as usize]),
            2 => (0, random >> self.below(fraction.into())),
            3 => (1 + self.below(2), [0, 1, random][self.below(3) as usize]),
            4 => (top, 0),
            5 => (top, random | 1 << (fraction - 1)),
            6 => (top, (random & all >> 1) | 1),
            7 => (top - 1, [all, all - 1, random, 0][self.below(4) as usize]),
            8 => (bias, 0),
            9 => (bias + self.below(70), few),
            10 => (bias + self.below(70), all - few),
            11 => (
                bias - 1 - self.below(3),
                [few, random, all, 1 << (fraction - 1)][self.below(4) as usize],
            ),
            12 => (bias / 2 + self.below(4), random),
            13 => (bias + bias / 2 + self.below(4), random),
            14 => (bias - u64::from(fraction) + self.below(4), few),
            15 => (bias + self.below(4), few),
            16 | 17 => (bias - 30 + self.below(60), random),
            _ => (self.below(top), random),
        };
        let sign = self.below(2) << (fraction + exponent);
        sign | field << fraction | fraction_bits
    }

    /// A vector of single or double precision numbers.
    pub(crate) fn floats(&mut self, double: bool) -> u128 {
        if double {
            u128::from(self.float(52, 11)) | u128::from(self.float(52, 11)) << 64
        } else {
            (0..4).fold(0, |vector, i| {
                vector | u128::from(self.float(23, 8)) << (32 * i)
            })
        }
    }

    /// MXCSR: any rounding, DAZ, FTZ and flags; exceptions mostly masked.
    pub(crate) fn mxcsr(&mut self) -> u32 {
        let bits = self.next() as u32;
        let masks = match self.below(4) {
            0 => bits & 0x1F80,
            _ => 0x1F80,
        };
        let flags = match self.below(3) {
            0 => 0,
            1 => 0x20,
            _ => bits >> 16 & 0x3F,
        };
        let rounding = if self.below(2) == 0 { 0 } else { bits & 0x6000 };
        let zeros = if self.below(2) == 0 { 0 } else { bits & 0x8040 };
        rounding | zeros | masks | flags
    }

    /// A number in the x87 unit's format.
    pub(crate) fn extended(&mut self) -> u128 {
        const INTEGER: u64 = 1 << 63;
        let random = self.next();
        let few = (random & !(u64::MAX >> (1 + self.below(8)))) | INTEGER;
        let normal = random | INTEGER;
        let bias = 16383;
        let (field, significand) = match self.below(28) {
            0 => (0, 0),
            1 => (0, [1, 2, INTEGER - 1, INTEGER >> 1][self.below(4) as usize]),
            2 => (0, random >> self.below(64)),
            3 => (0, normal),
            4 => (1 + self.below(3), normal),
            5 => (0x7FFF, INTEGER),
            6 => (0x7FFF, normal | 1 << 62),
            7 => (0x7FFF, (normal & !(1 << 62)) | 1),
            8 => (
                0x7FFF - self.below(2) * self.below(0x7FFF),
                random & !INTEGER,
            ),
            9 => (
                0x7FFE - self.below(2),
                [u64::MAX, u64::MAX - 1, normal, INTEGER][self.below(4) as usize],
            ),
            10 => (bias, INTEGER),
            11 => (bias + self.below(70), few),
            12 => (bias + self.below(70), !few | INTEGER),
            13 => (
                bias - 1 - self.below(3),
                [few, normal, u64::MAX, 3 << 62][self.below(4) as usize],
            ),
            14 => (bias / 2 + self.below(4), normal),
            15 => (bias + bias / 2 + self.below(4), normal),
            16 => (bias - 63 + self.below(4), few),
            17 => (bias + self.below(4), few),
            18 => (
                bias + [127, 128, 1023, 1024][self.below(4) as usize],
                normal,
            ),
            19 => (
                bias - [126, 127, 1022, 1023, 149, 1074][self.below(6) as usize],
                normal,
            ),
            20 => (bias + self.below(20), (normal >> 40) << 40),
            21..=24 => (bias - 30 + self.below(60), normal),
            _ => (self.below(0x7FFF), normal),
        };
        u128::from(self.below(2) << 15 | field) << 64 | u128::from(significand)
    }
}
