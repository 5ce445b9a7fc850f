//! CRC32 (Intel SDM vol. 2, "CRC32"): the polynomial 0x11EDC6F41, bits reflected.

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut remainder = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            remainder = if remainder & 1 != 0 {
                remainder >> 1 ^ 0x82F6_3B78
            } else {
                remainder >> 1
            };
            bit += 1;
        }
        table[byte] = remainder;
        byte += 1;
    }
    table
};

/// CRC32 of the low `bytes` (1, 2, 4 or 8) of `source` into `sum`.
#[inline]
#[must_use]
pub fn crc32(sum: u32, source: u64, bytes: usize) -> u32 {
    source
        .to_le_bytes()
        .iter()
        .take(bytes)
        .fold(sum, |sum, byte| {
            sum >> 8 ^ TABLE[usize::from(sum as u8 ^ byte)]
        })
}
