//! Operands: registers of every width, memory, immediates.

use atoll_memory::Value;
use atoll_x86::flags::Flags;
use atoll_x86::integer::Integer;

use crate::cpu::Cpu;
use crate::op::{Fault, Op};

/// Register numbers from here on are AH, CH, DH, BH: the second byte of register `number - HIGH_BYTE`.
pub(crate) const HIGH_BYTE: u8 = 0x20;

/// An integer that registers and memory hold.
pub(crate) trait Operand: Integer + Value {
    /// Reads register `number`.
    fn get(cpu: &Cpu, number: u8) -> Self;
    /// Writes register `number`: 32 bits clear the upper half, 8 and 16 leave the rest.
    fn set(self, cpu: &mut Cpu, number: u8);
}

impl Operand for u8 {
    #[inline(always)]
    fn get(cpu: &Cpu, number: u8) -> Self {
        let shift = (number & HIGH_BYTE) >> 2;
        (cpu.regs[usize::from(number & 31)] >> shift) as u8
    }

    #[inline(always)]
    fn set(self, cpu: &mut Cpu, number: u8) {
        let shift = (number & HIGH_BYTE) >> 2;
        let register = &mut cpu.regs[usize::from(number & 31)];
        *register = (*register & !(0xFF << shift)) | u64::from(self) << shift;
    }
}

impl Operand for u16 {
    #[inline(always)]
    fn get(cpu: &Cpu, number: u8) -> Self {
        cpu.regs[usize::from(number & 31)] as u16
    }

    #[inline(always)]
    fn set(self, cpu: &mut Cpu, number: u8) {
        let register = &mut cpu.regs[usize::from(number & 31)];
        *register = (*register & !0xFFFF) | u64::from(self);
    }
}

impl Operand for u32 {
    #[inline(always)]
    fn get(cpu: &Cpu, number: u8) -> Self {
        cpu.regs[usize::from(number & 31)] as u32
    }

    #[inline(always)]
    fn set(self, cpu: &mut Cpu, number: u8) {
        cpu.regs[usize::from(number & 31)] = u64::from(self);
    }
}

impl Operand for u64 {
    #[inline(always)]
    fn get(cpu: &Cpu, number: u8) -> Self {
        cpu.regs[usize::from(number & 31)]
    }

    #[inline(always)]
    fn set(self, cpu: &mut Cpu, number: u8) {
        cpu.regs[usize::from(number & 31)] = self;
    }
}

/// Where an operand comes from.
pub(crate) trait Source {
    /// Reads it.
    fn read<T: Operand>(cpu: &mut Cpu, op: &Op) -> Result<T, Fault>;
}

/// Where an operand goes to.
pub(crate) trait Place: Source {
    /// Writes it.
    fn write<T: Operand>(cpu: &mut Cpu, op: &Op, value: T) -> Result<(), Fault>;

    /// Replaces it by `change` of it; atomically where `LOCK` and it is in memory.
    fn update<T: Operand, const LOCK: bool>(
        cpu: &mut Cpu,
        op: &Op,
        change: impl FnMut(T, &mut Flags) -> T,
    ) -> Result<(), Fault>;
}

/// The register `op.dst`.
pub(crate) struct Dst;
/// The register `op.src`.
pub(crate) struct Src;
/// The memory operand.
pub(crate) struct Mem;
/// The immediate.
pub(crate) struct Imm;

impl Source for Dst {
    #[inline(always)]
    fn read<T: Operand>(cpu: &mut Cpu, op: &Op) -> Result<T, Fault> {
        Ok(T::get(cpu, op.dst))
    }
}

impl Place for Dst {
    #[inline(always)]
    fn write<T: Operand>(cpu: &mut Cpu, op: &Op, value: T) -> Result<(), Fault> {
        value.set(cpu, op.dst);
        Ok(())
    }

    #[inline(always)]
    fn update<T: Operand, const LOCK: bool>(
        cpu: &mut Cpu,
        op: &Op,
        mut change: impl FnMut(T, &mut Flags) -> T,
    ) -> Result<(), Fault> {
        let old = T::get(cpu, op.dst);
        let new = change(old, &mut cpu.flags);
        new.set(cpu, op.dst);
        Ok(())
    }
}

impl Source for Src {
    #[inline(always)]
    fn read<T: Operand>(cpu: &mut Cpu, op: &Op) -> Result<T, Fault> {
        Ok(T::get(cpu, op.src))
    }
}

impl Source for Imm {
    #[inline(always)]
    fn read<T: Operand>(_cpu: &mut Cpu, op: &Op) -> Result<T, Fault> {
        Ok(T::low(op.imm))
    }
}

impl Source for Mem {
    #[inline(always)]
    fn read<T: Operand>(cpu: &mut Cpu, op: &Op) -> Result<T, Fault> {
        let address = cpu.address(op);
        cpu.load(address)
    }
}

impl Place for Mem {
    #[inline(always)]
    fn write<T: Operand>(cpu: &mut Cpu, op: &Op, value: T) -> Result<(), Fault> {
        let address = cpu.address(op);
        cpu.store(address, value)
    }

    #[inline(always)]
    fn update<T: Operand, const LOCK: bool>(
        cpu: &mut Cpu,
        op: &Op,
        change: impl FnMut(T, &mut Flags) -> T,
    ) -> Result<(), Fault> {
        let address = cpu.address(op);
        cpu.modify::<T, LOCK>(address, change)
    }
}
