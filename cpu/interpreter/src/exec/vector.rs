//! Vector instructions: which registers and memory they work on. What they mean is in `atoll_x86::simd`.

pub(crate) mod elements;
pub(crate) mod moves;
pub(crate) mod packed;
pub(crate) mod special;

use atoll_x86::simd::{Mmx, Vector, Xmm};

use crate::cpu::Cpu;
use crate::exception::GP;
use crate::op::{Fault, Op};

/// A register file: XMM or MMX.
pub(crate) trait File {
    /// The bytes of a register.
    type Register;

    /// Checks that its instructions may be used; for MMX also makes the registers reachable.
    fn enter(cpu: &mut Cpu) -> Result<(), Fault>;
    /// Reads a register.
    fn get(cpu: &Cpu, number: u8) -> Self::Register;
    /// Writes a register.
    fn set(cpu: &mut Cpu, number: u8, value: Self::Register);
    /// Reads a memory operand of a register's size, which for XMM must be aligned.
    fn load(cpu: &mut Cpu, op: &Op) -> Result<Self::Register, Fault>;
}

/// The XMM registers.
pub(crate) struct XmmFile;
/// The MMX registers.
pub(crate) struct MmxFile;

impl File for XmmFile {
    type Register = Xmm;

    #[inline(always)]
    fn enter(cpu: &mut Cpu) -> Result<(), Fault> {
        cpu.require_sse()
    }

    #[inline(always)]
    fn get(cpu: &Cpu, number: u8) -> Xmm {
        cpu.fpu.xmm[usize::from(number & 15)].into()
    }

    #[inline(always)]
    fn set(cpu: &mut Cpu, number: u8, value: Xmm) {
        cpu.fpu.xmm[usize::from(number & 15)] = value.into();
    }

    #[inline(always)]
    fn load(cpu: &mut Cpu, op: &Op) -> Result<Xmm, Fault> {
        let address = cpu.aligned_address(op)?;
        Ok(cpu.load_u128(address)?.into())
    }
}

impl File for MmxFile {
    type Register = Mmx;

    fn enter(cpu: &mut Cpu) -> Result<(), Fault> {
        cpu.require_mmx()?;
        cpu.enter_mmx();
        Ok(())
    }

    fn get(cpu: &Cpu, number: u8) -> Mmx {
        (cpu.fpu.st[usize::from(number & 7)] as u64).into()
    }

    fn set(cpu: &mut Cpu, number: u8, value: Mmx) {
        // Exponent and sign become ones, so that x87 sees a NaN.
        cpu.fpu.st[usize::from(number & 7)] = u128::from(u64::from(value)) | 0xFFFF << 64;
    }

    fn load(cpu: &mut Cpu, op: &Op) -> Result<Mmx, Fault> {
        let address = cpu.address(op);
        Ok(cpu.load::<u64>(address)?.into())
    }
}

impl Cpu {
    /// The address of a 16-byte operand that must be aligned.
    #[inline(always)]
    pub(crate) fn aligned_address(&mut self, op: &Op) -> Result<u64, Fault> {
        let address = self.address(op);
        if address & 15 != 0 {
            return Err(self.raise(GP, Some(0)));
        }
        Ok(address)
    }

    /// An MMX instruction makes all x87 registers valid and the physical first one the top (Intel SDM vol. 1 §9.5.1).
    fn enter_mmx(&mut self) {
        let top = usize::from(self.fpu.status >> 11 & 7);
        if top != 0 {
            // Seen from the top before, by physical number now.
            self.fpu.st.rotate_right(top);
            self.fpu.status &= !(7 << 11);
        }
        self.fpu.tags = 0xFF;
    }
}

/// `N` zero bytes but for the low ones of `value`.
#[inline(always)]
pub(crate) fn zero_extended(value: u64) -> Xmm {
    Vector::from(u128::from(value))
}
