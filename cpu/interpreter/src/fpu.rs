//! Floating point and vector state: who may use it, and its saved forms.

use crate::cpu::{CR0_EM, CR0_TS, CR4_OSFXSR, Cpu};
use crate::exception::{MF, NM, UD};
use crate::op::Fault;

/// The registers, in the form in which they are saved.
pub(crate) type FpuState = atoll_cpu_api::Fpu;

/// Bytes of the legacy region that FXSAVE writes; the rest up to 512 is software's.
pub(crate) const LEGACY_WRITTEN: usize = 416;
/// Bits of MXCSR that exist.
pub(crate) const MXCSR_MASK: u32 = 0xFFFF;

impl Cpu {
    /// Checks that SSE may be used (Intel SDM vol. 3 table 2-2).
    #[inline(always)]
    pub(crate) fn require_sse(&mut self) -> Result<(), Fault> {
        if self.cr0 & (CR0_EM | CR0_TS) == 0 && self.cr4 & CR4_OSFXSR != 0 {
            return Ok(());
        }
        Err(self.sse_fault())
    }

    #[cold]
    fn sse_fault(&mut self) -> Fault {
        let vector = if self.cr0 & CR0_EM != 0 || self.cr4 & CR4_OSFXSR == 0 {
            UD
        } else {
            NM
        };
        self.raise(vector, None)
    }

    /// Checks that x87 may be used, by an instruction that does not wait for pending errors.
    #[inline(always)]
    pub(crate) fn require_x87(&mut self) -> Result<(), Fault> {
        if self.cr0 & (CR0_EM | CR0_TS) == 0 {
            return Ok(());
        }
        Err(self.raise(NM, None))
    }

    /// Checks that MMX may be used: as x87, but emulation makes it undefined, and pending errors are reported.
    #[inline(always)]
    pub(crate) fn require_mmx(&mut self) -> Result<(), Fault> {
        if self.cr0 & CR0_EM != 0 {
            return Err(self.raise(UD, None));
        }
        self.require_x87()?;
        self.report_x87_error()
    }

    /// Raises #MF when an unmasked x87 exception waits.
    #[inline(always)]
    pub(crate) fn report_x87_error(&mut self) -> Result<(), Fault> {
        if self.fpu.status & !self.fpu.control & 0x3F == 0 {
            return Ok(());
        }
        Err(self.raise(MF, None))
    }
}

/// The 512-byte image of FXSAVE (Intel SDM vol. 1 §10.5.1); `wide` is the form with 64-bit pointers.
pub(crate) fn image(fpu: &FpuState, wide: bool) -> [u8; 512] {
    let mut image = [0; 512];
    image[0..2].copy_from_slice(&fpu.control.to_le_bytes());
    image[2..4].copy_from_slice(&fpu.status.to_le_bytes());
    image[4] = fpu.tags;
    image[6..8].copy_from_slice(&fpu.opcode.to_le_bytes());
    let pointers = if wide { 8 } else { 4 };
    image[8..8 + pointers].copy_from_slice(&fpu.instruction.to_le_bytes()[..pointers]);
    image[16..16 + pointers].copy_from_slice(&fpu.operand.to_le_bytes()[..pointers]);
    image[24..28].copy_from_slice(&fpu.mxcsr.to_le_bytes());
    image[28..32].copy_from_slice(&MXCSR_MASK.to_le_bytes());
    for (index, register) in fpu.st.iter().enumerate() {
        let at = 32 + index * 16;
        image[at..at + 10].copy_from_slice(&register.to_le_bytes()[..10]);
    }
    for (index, register) in fpu.xmm.iter().enumerate() {
        let at = 160 + index * 16;
        image[at..at + 16].copy_from_slice(&register.to_le_bytes());
    }
    image
}

fn number<const N: usize>(image: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&image[at..at + N]);
    bytes
}

/// Takes the x87 part of an image.
pub(crate) fn load_x87(fpu: &mut FpuState, image: &[u8; 512], wide: bool) {
    fpu.control = (u16::from_le_bytes(number(image, 0)) & 0x1F7F) | 0x40;
    fpu.status = u16::from_le_bytes(number(image, 2));
    fpu.tags = image[4];
    fpu.opcode = u16::from_le_bytes(number(image, 6)) & 0x7FF;
    let mask = if wide { u64::MAX } else { 0xFFFF_FFFF };
    fpu.instruction = u64::from_le_bytes(number(image, 8)) & mask;
    fpu.operand = u64::from_le_bytes(number(image, 16)) & mask;
    for (index, register) in fpu.st.iter_mut().enumerate() {
        let mut bytes = [0; 16];
        let at = 32 + index * 16;
        bytes[..10].copy_from_slice(&image[at..at + 10]);
        *register = u128::from_le_bytes(bytes);
    }
}

/// Takes the XMM registers of an image, the first `count`.
pub(crate) fn load_xmm(fpu: &mut FpuState, image: &[u8; 512], count: usize) {
    for (index, register) in fpu.xmm.iter_mut().enumerate().take(count) {
        *register = u128::from_le_bytes(number(image, 160 + index * 16));
    }
}

/// MXCSR in an image.
pub(crate) fn mxcsr(image: &[u8; 512]) -> u32 {
    u32::from_le_bytes(number(image, 24))
}
