//! Floating point and vector state.

use atoll_cpu_api::Fpu;
use atoll_x86::simd::{Mmx, Xmm};
use atoll_x86::x87::X87;

use crate::cpu::{CR0_EM, CR0_TS, CR4_OSFXSR, Cpu};
use crate::exception::{MF, NM, UD, XM};
use crate::op::Fault;

/// Bytes of the legacy region that FXSAVE writes; the rest up to 512 is software's.
pub(crate) const LEGACY_WRITTEN: usize = 416;
/// Bits of MXCSR that exist.
pub(crate) const MXCSR_MASK: u32 = 0xFFFF;

/// Vector instructions may not execute now.
const NO_VECTORS: u8 = 1;
/// x87 and MMX instructions may not execute now.
const NO_X87: u8 = 2;
/// CR4: the system handles SIMD exceptions.
const CR4_OSXMMEXCPT: u64 = 1 << 10;

/// The registers, in the form in which instructions use them.
#[derive(Clone, Debug)]
pub(crate) struct FpuState {
    /// XMM0 to XMM15.
    pub(crate) xmm: [Xmm; 16],
    /// SSE control and status.
    pub(crate) mxcsr: u32,
    /// The x87 unit, and so the MMX registers.
    pub(crate) x87: X87,
    /// What CR0 and CR4 forbid: `NO_VECTORS`, `NO_X87`.
    forbidden: u8,
}

impl From<&Fpu> for FpuState {
    fn from(saved: &Fpu) -> Self {
        let mut x87 = X87 {
            control: saved.control,
            status: saved.status,
            tags: saved.tags,
            opcode: saved.opcode,
            instruction: saved.instruction,
            operand: saved.operand,
            ..X87::default()
        };
        for (index, value) in saved.st.into_iter().enumerate() {
            x87.registers[(x87.top() + index) % 8] = value;
        }
        Self {
            xmm: saved.xmm.map(Xmm::from),
            mxcsr: saved.mxcsr,
            x87,
            forbidden: 0,
        }
    }
}

impl From<&FpuState> for Fpu {
    fn from(state: &FpuState) -> Self {
        let x87 = &state.x87;
        Self {
            st: std::array::from_fn(|index| x87.registers[(x87.top() + index) % 8]),
            control: x87.control,
            status: x87.status,
            tags: x87.tags,
            opcode: x87.opcode,
            instruction: x87.instruction,
            operand: x87.operand,
            mxcsr: state.mxcsr,
            xmm: state.xmm.map(u128::from),
        }
    }
}

impl Cpu {
    /// Works out which of these instructions may execute, after CR0 or CR4 changed.
    pub(crate) fn update_fpu(&mut self) {
        let mut forbidden = 0;
        if self.cr0 & (CR0_EM | CR0_TS) != 0 {
            forbidden |= NO_X87 | NO_VECTORS;
        }
        if self.cr4 & CR4_OSFXSR == 0 {
            forbidden |= NO_VECTORS;
        }
        self.fpu.forbidden = forbidden;
    }

    /// The registers in the form in which they are saved.
    pub(crate) fn saved_fpu(&self) -> Fpu {
        (&self.fpu).into()
    }

    /// Takes registers from that form. The status word says whether an exception is unmasked and waits.
    pub(crate) fn load_fpu(&mut self, saved: &Fpu) {
        self.fpu = saved.into();
        self.fpu.x87.summarise();
        self.update_fpu();
    }

    /// Sees that a vector instruction may execute (Intel SDM vol. 3 table 14-1).
    #[inline(always)]
    pub(crate) fn require_vectors(&mut self) -> Result<(), Fault> {
        if self.fpu.forbidden & NO_VECTORS != 0 {
            return Err(self.no_vectors());
        }
        Ok(())
    }

    #[cold]
    fn no_vectors(&mut self) -> Fault {
        if self.cr0 & CR0_EM != 0 || self.cr4 & CR4_OSFXSR == 0 {
            self.raise(UD, None)
        } else {
            self.raise(NM, None)
        }
    }

    /// Sees that an x87 instruction may execute, exceptions pending or not.
    #[inline(always)]
    pub(crate) fn require_x87(&mut self) -> Result<(), Fault> {
        if self.fpu.forbidden & NO_X87 != 0 {
            return Err(self.raise(NM, None));
        }
        Ok(())
    }

    /// The same for an instruction that waits for pending exceptions.
    #[inline(always)]
    pub(crate) fn require_x87_idle(&mut self) -> Result<(), Fault> {
        self.require_x87()?;
        if self.fpu.x87.has_pending_exception() {
            return Err(self.raise(MF, None));
        }
        Ok(())
    }

    /// Sees that an MMX instruction may execute.
    #[inline(always)]
    pub(crate) fn require_mmx(&mut self) -> Result<(), Fault> {
        if self.fpu.forbidden & NO_X87 != 0 {
            let vector = if self.cr0 & CR0_EM != 0 { UD } else { NM };
            return Err(self.raise(vector, None));
        }
        if self.fpu.x87.has_pending_exception() {
            return Err(self.raise(MF, None));
        }
        Ok(())
    }

    /// Raises the exception of an unmasked SIMD floating-point exception.
    #[cold]
    pub(crate) fn simd_exception(&mut self) -> Fault {
        let handled = self.cr4 & CR4_OSXMMEXCPT != 0;
        self.raise(if handled { XM } else { UD }, None)
    }

    /// XMM register `number`.
    #[inline(always)]
    pub(crate) fn xmm(&self, number: u8) -> Xmm {
        self.fpu.xmm[usize::from(number & 15)]
    }

    /// Writes XMM register `number`.
    #[inline(always)]
    pub(crate) fn set_xmm(&mut self, number: u8, value: Xmm) {
        self.fpu.xmm[usize::from(number & 15)] = value;
    }

    /// MMX register `number`.
    #[inline(always)]
    pub(crate) fn mmx(&self, number: u8) -> Mmx {
        self.fpu.x87.mmx(number).into()
    }

    /// Writes MMX register `number`.
    #[inline(always)]
    pub(crate) fn set_mmx(&mut self, number: u8, value: Mmx) {
        self.fpu.x87.set_mmx(number, value.into());
    }
}

/// The 512-byte image of FXSAVE (Intel SDM vol. 1 §10.5.1); `wide` is the form with 64-bit pointers.
pub(crate) fn image(fpu: &Fpu, wide: bool) -> [u8; 512] {
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
pub(crate) fn load_x87(fpu: &mut Fpu, image: &[u8; 512], wide: bool) {
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
pub(crate) fn load_xmm(fpu: &mut Fpu, image: &[u8; 512], count: usize) {
    for (index, register) in fpu.xmm.iter_mut().enumerate().take(count) {
        *register = u128::from_le_bytes(number(image, 160 + index * 16));
    }
}

/// MXCSR in an image.
pub(crate) fn mxcsr(image: &[u8; 512]) -> u32 {
    u32::from_le_bytes(number(image, 24))
}
