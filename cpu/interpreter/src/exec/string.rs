//! String instructions, and input and output.
//!
//! A repeated instruction works on as much as lies in one page at a time; after each piece its registers say how far it
//! is, so that a fault or an interrupt in between finds it restartable.

use atoll_x86::alu;

use crate::cpu::{Cpu, DF, ES, IOPL, Mode, TF};
use crate::exception::GP;
use crate::lower::string::{ONCE, REPEAT};
use crate::memory::bytes_of;
use crate::op::{Fault, Flow, Op, Step};
use crate::operand::Operand;

/// Elements after which a repeated instruction lets events be looked at.
const PIECE: u64 = 4096;

const RCX: usize = 1;
const RSI: usize = 6;
const RDI: usize = 7;

impl Cpu {
    /// A pointer or counter register at the instruction's address size.
    fn index(&self, op: &Op, register: usize) -> u64 {
        self.regs[register] & op.address_mask()
    }

    fn set_index(&mut self, op: &Op, register: usize, value: u64) {
        self.regs[register] = match op.dst {
            8 => value,
            4 => value & 0xFFFF_FFFF,
            _ => (self.regs[register] & !0xFFFF) | value & 0xFFFF,
        };
    }

    /// Moves an index by `elements`, in the direction DF says.
    fn advance<T: Operand>(&mut self, op: &Op, register: usize, elements: u64) {
        let bytes = elements.wrapping_mul(bytes_of::<T>());
        let step = if self.system_flags & DF == 0 {
            bytes
        } else {
            bytes.wrapping_neg()
        };
        let value = self.index(op, register).wrapping_add(step);
        self.set_index(op, register, value);
    }

    fn source(&self, op: &Op) -> u64 {
        self.seg_base[usize::from(op.seg & 7)].wrapping_add(self.index(op, RSI)) & op.linear_mask()
    }

    fn target(&self, op: &Op) -> u64 {
        let base = if self.mode == Mode::Bits64 {
            0
        } else {
            self.seg_base[ES]
        };
        base.wrapping_add(self.index(op, RDI)) & op.linear_mask()
    }

    /// How many elements may be done at once by a fast path at `address`: those up to the end of the page, when
    /// strings run upwards.
    fn run_length<T: Operand>(&self, address: u64, wanted: u64) -> u64 {
        if self.system_flags & DF != 0 {
            return 0;
        }
        ((4096 - address % 4096) / bytes_of::<T>()).min(wanted)
    }
}

/// Repeats `body` as the prefix says. `body` does up to the given number of elements and says how many it did and
/// whether a comparison ends the loop. `indexes` are the registers it moves.
fn repeated(
    cpu: &mut Cpu,
    op: &Op,
    indexes: &[usize],
    mut body: impl FnMut(&mut Cpu, u64) -> Result<(u64, bool), Fault>,
) -> Step {
    if op.extra == ONCE {
        body(cpu, 1)?;
        return Ok(Flow::Next);
    }
    if op.dst == 4 {
        // Written as 32 bits in any case, so the upper halves become zero, also when nothing is done.
        cpu.regs[RCX] &= 0xFFFF_FFFF;
        if cpu.regs[RCX] == 0 {
            for &register in indexes {
                cpu.regs[register] &= 0xFFFF_FFFF;
            }
        }
    }
    // Under the trap flag each iteration is an instruction of its own.
    let mut budget = if cpu.system_flags & TF == 0 { PIECE } else { 1 };
    loop {
        let left = cpu.index(op, RCX);
        if left == 0 {
            return Ok(Flow::Next);
        }
        if budget == 0 {
            // Leaves the block with this instruction still to do.
            cpu.rip = cpu.regs[usize::from(crate::op::RIP)].wrapping_add(u64::from(op.offset));
            cpu.look_at_events();
            return Ok(Flow::Leave);
        }
        let (done, ended) = body(cpu, left.min(budget))?;
        cpu.set_index(op, RCX, left - done);
        budget -= done;
        if ended {
            return Ok(Flow::Next);
        }
    }
}

/// MOVS.
pub(crate) fn movs<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    repeated(cpu, op, &[RSI, RDI], |cpu, wanted| {
        let (from, to) = (cpu.source(op), cpu.target(op));
        let fast = cpu.run_length::<T>(from, cpu.run_length::<T>(to, wanted));
        let bytes = fast * bytes_of::<T>();
        let done = if fast > 1
            && let Some(source) = cpu.tlb.readable(cpu.context, from, bytes)
            && let Some(target) = cpu.tlb.writable(cpu.context, to, bytes)
            && (source + bytes <= target || target + bytes <= source)
        {
            cpu.ram.copy_within(source, target, bytes);
            fast
        } else {
            let value: T = cpu.load(from)?;
            cpu.store(to, value)?;
            1
        };
        cpu.advance::<T>(op, RSI, done);
        cpu.advance::<T>(op, RDI, done);
        Ok((done, false))
    })
}

/// STOS.
pub(crate) fn stos<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let value = T::get(cpu, 0);
    repeated(cpu, op, &[RDI], |cpu, wanted| {
        let to = cpu.target(op);
        let fast = cpu.run_length::<T>(to, wanted);
        let bytes = fast * bytes_of::<T>();
        let done = if fast > 1
            && let Some(target) = cpu.tlb.writable(cpu.context, to, bytes)
        {
            for element in 0..fast {
                cpu.ram.store(target + element * bytes_of::<T>(), value);
            }
            fast
        } else {
            cpu.store(to, value)?;
            1
        };
        cpu.advance::<T>(op, RDI, done);
        Ok((done, false))
    })
}

/// LODS.
pub(crate) fn lods<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    repeated(cpu, op, &[RSI], |cpu, _| {
        let value: T = cpu.load(cpu.source(op))?;
        value.set(cpu, 0);
        cpu.advance::<T>(op, RSI, 1);
        Ok((1, false))
    })
}

/// Whether REPE or REPNE ends after a comparison.
fn ends(cpu: &Cpu, op: &Op) -> bool {
    op.extra != ONCE && cpu.flags.zero() != (op.extra == REPEAT)
}

/// CMPS.
pub(crate) fn cmps<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let before = cpu.flags;
    let done = repeated(cpu, op, &[RSI, RDI], |cpu, _| {
        // The second operand is read first, as faults show.
        let b: T = cpu.load(cpu.target(op))?;
        let a: T = cpu.load(cpu.source(op))?;
        alu::sub(a, b, false, &mut cpu.flags);
        cpu.advance::<T>(op, RSI, 1);
        cpu.advance::<T>(op, RDI, 1);
        Ok((1, ends(cpu, op)))
    });
    // Stopped half way, by a fault or to let events be seen, it leaves the flags as they were before.
    if done != Ok(Flow::Next) {
        cpu.flags = before;
    }
    done
}

/// SCAS.
pub(crate) fn scas<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let a = T::get(cpu, 0);
    let before = cpu.flags;
    let done = repeated(cpu, op, &[RDI], |cpu, _| {
        let b: T = cpu.load(cpu.target(op))?;
        alu::sub(a, b, false, &mut cpu.flags);
        cpu.advance::<T>(op, RDI, 1);
        Ok((1, ends(cpu, op)))
    });
    // Stopped half way, by a fault or to let events be seen, it leaves the flags as they were before.
    if done != Ok(Flow::Next) {
        cpu.flags = before;
    }
    done
}

/// Whether ports may be used: by privilege, or by the task's permission bitmap.
fn check_port(cpu: &mut Cpu, port: u16, bytes: u64) -> Result<(), Fault> {
    if !cpu.is_protected() || u64::from(cpu.cpl) <= (cpu.system_flags & IOPL) >> 12 {
        return Ok(());
    }
    let (base, limit) = (cpu.tr.base, u64::from(cpu.tr.limit));
    if limit >= 103 {
        let map: u16 = cpu.load_system(base.wrapping_add(102))?;
        let place = u64::from(map) + u64::from(port / 8);
        if place < limit {
            let bits: u16 = cpu.load_system(base.wrapping_add(place))?;
            if bits >> (port % 8) & ((1 << bytes) - 1) == 0 {
                return Ok(());
            }
        }
    }
    Err(cpu.raise(GP, Some(0)))
}

fn read_port<T: Operand>(cpu: &mut Cpu, port: u16) -> T {
    let mut bytes = [0; 8];
    cpu.bus
        .port_read(port, &mut bytes[..bytes_of::<T>() as usize]);
    T::low(u64::from_le_bytes(bytes))
}

fn write_port<T: Operand>(cpu: &mut Cpu, port: u16, value: T) {
    let bytes = value.zero_extended().to_le_bytes();
    cpu.bus.port_write(port, &bytes[..bytes_of::<T>() as usize]);
    cpu.interrupt_hint = true;
}

fn port(cpu: &Cpu, op: &Op) -> u16 {
    if op.extra == 1 {
        u16::get(cpu, 2)
    } else {
        op.imm as u16 & 0xFF
    }
}

/// IN.
pub(crate) fn input<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let port = port(cpu, op);
    check_port(cpu, port, bytes_of::<T>())?;
    let value: T = read_port(cpu, port);
    value.set(cpu, 0);
    Ok(Flow::Next)
}

/// OUT.
pub(crate) fn output<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let port = port(cpu, op);
    check_port(cpu, port, bytes_of::<T>())?;
    write_port(cpu, port, T::get(cpu, 0));
    Ok(Flow::Next)
}

/// INS.
pub(crate) fn ins<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let port = u16::get(cpu, 2);
    check_port(cpu, port, bytes_of::<T>())?;
    repeated(cpu, op, &[RDI], |cpu, _| {
        let to = cpu.target(op);
        cpu.prepare_write(cpu.context, to, bytes_of::<T>())?;
        let value: T = read_port(cpu, port);
        cpu.store(to, value)?;
        cpu.advance::<T>(op, RDI, 1);
        Ok((1, false))
    })
}

/// OUTS.
pub(crate) fn outs<T: Operand>(cpu: &mut Cpu, op: &Op) -> Step {
    let port = u16::get(cpu, 2);
    check_port(cpu, port, bytes_of::<T>())?;
    repeated(cpu, op, &[RSI], |cpu, _| {
        let value: T = cpu.load(cpu.source(op))?;
        write_port(cpu, port, value);
        cpu.advance::<T>(op, RSI, 1);
        Ok((1, false))
    })
}
