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
}
