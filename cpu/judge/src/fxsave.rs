//! The 512-byte image of x87 and SSE state that FXSAVE64 writes and signal frames hold (Intel SDM vol. 1 table 10-2).

use atoll_cpu_api::Fpu;

/// Bytes of the image.
pub const LEN: usize = 512;

/// Writes `fpu` as an image, instruction and operand pointers included; reserved bytes are zero.
pub fn image(fpu: &Fpu) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &fpu.control.to_le_bytes());
    put(2, &fpu.status.to_le_bytes());
    put(4, &[fpu.tags]);
    put(6, &fpu.opcode.to_le_bytes());
    put(8, &fpu.instruction.to_le_bytes());
    put(16, &fpu.operand.to_le_bytes());
    put(24, &fpu.mxcsr.to_le_bytes());
    put(28, &0xFFFF_u32.to_le_bytes());
    for (i, st) in fpu.st.iter().enumerate() {
        put(32 + 16 * i, &st.to_le_bytes()[..10]);
    }
    for (i, xmm) in fpu.xmm.iter().enumerate() {
        put(160 + 16 * i, &xmm.to_le_bytes());
    }
    bytes
}

/// Reads an image.
pub fn parse(bytes: &[u8; LEN]) -> Fpu {
    let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let word = |at: usize| u64::from(half(at)) | u64::from(half(at + 2)) << 16;
    let long = |at: usize| word(at) | word(at + 4) << 32;
    let wide = |at: usize| u128::from(long(at)) | u128::from(long(at + 8)) << 64;
    Fpu {
        st: std::array::from_fn(|i| wide(32 + 16 * i) & ((1 << 80) - 1)),
        control: half(0),
        status: half(2),
        tags: bytes[4],
        opcode: half(6),
        instruction: long(8),
        operand: long(16),
        mxcsr: word(24) as u32,
        xmm: std::array::from_fn(|i| wide(160 + 16 * i)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_reads_back() {
        let mut fpu = Fpu {
            st: std::array::from_fn(|i| (i as u128 + 1) << 72 | 77),
            xmm: std::array::from_fn(|i| u128::MAX - i as u128),
            ..Fpu::default()
        };
        (fpu.status, fpu.tags, fpu.opcode) = (0x3801, 0x81, 0x123);
        (fpu.instruction, fpu.operand, fpu.mxcsr) = (1 << 40, 1 << 33, 0x9FC0);
        assert_eq!(parse(&image(&fpu)), fpu);
    }
}
