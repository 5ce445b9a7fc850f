//! Floating point and vector state.

use atoll_cpu_api::Fpu;
use atoll_x86::simd::{Mmx, Xmm};
use atoll_x86::x87::X87;

use crate::cpu::{CR0_EM, CR0_TS, CR4_OSFXSR, Cpu};
use crate::exception::{MF, NM, UD, XM};
use crate::op::Fault;

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
