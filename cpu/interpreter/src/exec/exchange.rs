//! XCHG, XADD, CMPXCHG.

use atoll_x86::alu;

use crate::cpu::Cpu;
use crate::exception::GP;
use crate::memory::Target;
use crate::op::{Flow, Op, Step};
use crate::operand::{Mem, Operand, Place};

/// XCHG of registers.
#[inline(always)]
pub(crate) fn registers<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let (a, b) = (T::get(cpu, op.dst), T::get(cpu, op.src));
    b.set(cpu, op.dst);
    a.set(cpu, op.src);
    Ok(Flow::Next)
}

/// XCHG with memory: always atomic.
#[inline(always)]
pub(crate) fn memory<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let new = T::get(cpu, op.src);
    let mut old = T::ZERO;
    let address = cpu.address(op);
    cpu.modify::<T, true>(address, |value, _| {
        old = value;
        new
    })?;
    old.set(cpu, op.src);
    Ok(Flow::Next)
}

/// XADD of registers.
#[inline(always)]
pub(crate) fn add_register<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let (a, b) = (T::get(cpu, op.dst), T::get(cpu, op.src));
    let sum = alu::add(a, b, false, &mut cpu.flags);
    a.set(cpu, op.src);
    sum.set(cpu, op.dst);
    Ok(Flow::Next)
}

/// XADD with memory.
#[inline(always)]
pub(crate) fn add_memory<T: Operand, const LOCK: bool>(cpu: &mut Cpu, op: &Op) -> Step {
    let b = T::get(cpu, op.src);
    let mut old = T::ZERO;
    let address = cpu.address(op);
    cpu.modify::<T, LOCK>(address, |value, flags| {
        old = value;
        alu::add(value, b, false, flags)
    })?;
    old.set(cpu, op.src);
    Ok(Flow::Next)
}

/// CMPXCHG of registers: one that fails leaves the destination whole.
#[inline(always)]
pub(crate) fn compare_register<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let (expected, value) = (T::get(cpu, 0), T::get(cpu, op.dst));
    alu::sub(expected, value, false, &mut cpu.flags);
    if value == expected {
        T::get(cpu, op.src).set(cpu, op.dst);
    } else {
        value.set(cpu, 0);
    }
    Ok(Flow::Next)
}

/// CMPXCHG with memory. Memory is written in any case, as processors do.
#[inline(always)]
pub(crate) fn compare<T: Operand, const LOCK: bool>(cpu: &mut Cpu, op: &Op) -> Step {
    let (expected, new) = (T::get(cpu, 0), T::get(cpu, op.src));
    let mut old = T::ZERO;
    Mem::update::<T, LOCK>(cpu, op, |value, flags| {
        old = value;
        alu::sub(expected, value, false, flags);
        if value == expected { new } else { value }
    })?;
    if old != expected {
        old.set(cpu, 0);
    }
    Ok(Flow::Next)
}

/// CMPXCHG8B.
#[inline(always)]
pub(crate) fn compare_8(cpu: &mut Cpu, op: &Op) -> Step {
    let pair = |cpu: &Cpu, low: u8, high: u8| {
        u64::from(u32::get(cpu, low)) | u64::from(u32::get(cpu, high)) << 32
    };
    let (expected, new) = (pair(cpu, 0, 2), pair(cpu, 3, 1));
    let mut old = 0;
    let address = cpu.address(op);
    cpu.modify::<u64, true>(address, |value, flags| {
        old = value;
        flags.set_zero(value == expected);
        if value == expected { new } else { value }
    })?;
    if old != expected {
        (old as u32).set(cpu, 0);
        ((old >> 32) as u32).set(cpu, 2);
    }
    Ok(Flow::Next)
}

/// CMPXCHG16B.
#[inline(always)]
pub(crate) fn compare_16(cpu: &mut Cpu, op: &Op) -> Step {
    let pair = |cpu: &Cpu, low: u8, high: u8| {
        u128::from(u64::get(cpu, low)) | u128::from(u64::get(cpu, high)) << 64
    };
    let (expected, new) = (pair(cpu, 0, 2), pair(cpu, 3, 1));
    let address = cpu.address(op);
    if !address.is_multiple_of(16) {
        return Err(cpu.raise(GP, Some(0)));
    }
    let offset = match cpu.tlb.writable(cpu.context, address, 16) {
        Some(offset) => Target::Ram(offset),
        None => cpu.prepare_write(cpu.context, address, 16)?,
    };
    let old = match offset {
        Target::Ram(offset) => {
            let old = cpu.ram.compare_exchange_u128(offset, expected, new);
            cpu.ram.code_pages().written(offset, 16);
            old
        }
        Target::Bus(_) => cpu.load_u128(address)?,
    };
    cpu.flags.set_zero(old == expected);
    if old != expected {
        (old as u64).set(cpu, 0);
        ((old >> 64) as u64).set(cpu, 2);
    }
    Ok(Flow::Next)
}
