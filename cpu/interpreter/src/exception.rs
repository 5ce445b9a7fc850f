//! Exceptions and interrupts: delivery through the IDT (Intel SDM vol. 3 chapter 7).

use atoll_cpu_api::Stop;

use crate::cpu::{CS, Cpu, IF, Mode, NT, Pending, RF, RSP, SS as SS_SLOT, TF, VM};
use crate::op::Fault;
use crate::segment::Descriptor;

/// Divide error.
pub(crate) const DE: u8 = 0;
/// Debug.
pub(crate) const DB: u8 = 1;
/// Non-maskable interrupt.
pub(crate) const NMI: u8 = 2;
/// Breakpoint.
pub(crate) const BP: u8 = 3;
/// Overflow.
pub(crate) const OF: u8 = 4;
/// Invalid opcode.
pub(crate) const UD: u8 = 6;
/// Floating point is not available.
pub(crate) const NM: u8 = 7;
/// Double fault.
pub(crate) const DF: u8 = 8;
/// Invalid TSS.
pub(crate) const TS: u8 = 10;
/// Segment not present.
pub(crate) const NP: u8 = 11;
/// Stack fault.
pub(crate) const SS: u8 = 12;
/// General protection.
pub(crate) const GP: u8 = 13;
/// Page fault.
pub(crate) const PF: u8 = 14;
/// x87 error.
pub(crate) const MF: u8 = 16;
/// Alignment check.
pub(crate) const AC: u8 = 17;
/// SIMD error.
pub(crate) const XM: u8 = 19;

/// Where an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// An exception the processor found.
    Exception,
    /// INT n, INT3, INTO: the gate's privilege is checked.
    Software,
    /// An interrupt from outside.
    External,
}

/// Whether an exception's delivery may itself turn into a double fault (table 7-5).
fn is_contributory(vector: u8) -> bool {
    matches!(vector, DE | TS | NP | SS | GP)
}

impl Cpu {
    /// Delivers the pending exception, with what follows from failing to; the instruction is at `self.rip`.
    ///
    /// Gives `Err` with the reason left in [`Cpu::pending`] when the CPU shuts down.
    pub(crate) fn deliver_exception(&mut self, vector: u8, code: Option<u32>) -> Result<(), Fault> {
        let (mut vector, mut code) = (vector, code);
        loop {
            if vector == PF {
                self.cr2 = self.fault_address;
            }
            if vector != DB {
                // A restarted instruction is not to trap on its breakpoint again.
                self.system_flags |= RF;
            }
            let Err(Fault) = self.deliver(vector, code, Origin::Exception) else {
                return Ok(());
            };
            let (second, second_code) = match self.pending {
                Pending::Exception(second, code) => (second, code),
                _ => return Err(Fault),
            };
            let double = (is_contributory(vector) && is_contributory(second))
                || (vector == PF && (second == PF || is_contributory(second)));
            if vector == DF {
                self.pending = Pending::Stop(Stop::TripleFault);
                return Err(Fault);
            }
            (vector, code) = if double {
                (DF, Some(0))
            } else {
                (second, second_code)
            };
        }
    }

    /// Delivers an event through its gate.
    pub(crate) fn deliver(
        &mut self,
        vector: u8,
        code: Option<u32>,
        origin: Origin,
    ) -> Result<(), Fault> {
        if self.is_long_mode() {
            self.deliver_long(vector, code, origin)
        } else if self.is_protected() {
            self.deliver_protected(vector, code, origin)
        } else {
            self.deliver_real(vector)
        }
    }

    fn deliver_long(&mut self, vector: u8, code: Option<u32>, origin: Origin) -> Result<(), Fault> {
        let external = u32::from(origin == Origin::External || origin == Origin::Exception);
        let gate_error = u32::from(vector) << 3 | 2 | external;
        let place = u64::from(vector) * 16;
        if place + 15 > u64::from(self.idtr.limit) {
            return Err(self.raise(GP, Some(gate_error)));
        }
        let address = self.idtr.base.wrapping_add(place);
        let low: u64 = self.load_system(address)?;
        let high: u64 = self.load_system(address.wrapping_add(8))?;
        let kind = low >> 40 & 0x1F;
        let privilege = (low >> 45 & 3) as u8;
        if (kind != 0xE && kind != 0xF) || (origin == Origin::Software && privilege < self.cpl) {
            return Err(self.raise(GP, Some(gate_error)));
        }
        if low >> 47 & 1 == 0 {
            return Err(self.raise(NP, Some(gate_error)));
        }
        let target = (low & 0xFFFF) | (low >> 32 & 0xFFFF_0000) | high << 32;
        let selector = (low >> 16) as u16;
        let stack_index = low >> 32 & 7;
        let descriptor = self.code_descriptor(selector, external)?;
        if descriptor.kind() & 4 == 0 && descriptor.privilege() < self.cpl {
            // Non-conforming and more privileged: the usual way from user to kernel.
        } else if descriptor.privilege() > self.cpl {
            return Err(self.raise(GP, Some(u32::from(selector & !3) | external)));
        }
        if !descriptor.is_long() || descriptor.is_32_bit() {
            return Err(self.raise(GP, Some(u32::from(selector & !3) | external)));
        }
        let privilege = if descriptor.kind() & 4 != 0 {
            self.cpl
        } else {
            descriptor.privilege()
        };
        let changes = privilege < self.cpl;
        let mut stack = match (stack_index, changes) {
            (0, false) => self.regs[RSP],
            (0, true) => self.stack_from_task(4 + u64::from(privilege) * 8)?,
            (index, _) => self.stack_from_task(36 + (index - 1) * 8)?,
        };
        stack &= !15;
        if !self.is_canonical(stack) {
            return Err(self.raise(SS, Some(external)));
        }
        let frame = [
            u64::from(self.segments[SS_SLOT].selector),
            self.regs[RSP],
            self.rflags() & !if origin == Origin::Exception { 0 } else { RF },
            u64::from(self.segments[CS].selector),
            self.rip,
        ];
        // All of the frame is written with the new privilege, before anything changes.
        let mut bytes = [0; 48];
        let words = 5 + usize::from(code.is_some());
        let mut at = words * 8;
        for value in frame.into_iter().chain(code.map(u64::from)) {
            at -= 8;
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let stack = stack.wrapping_sub(words as u64 * 8);
        self.write_bytes(self.system_context, stack, &bytes[..words * 8])?;

        if changes {
            self.load_null_stack(privilege);
        }
        self.segments[CS] = descriptor.segment((selector & !3) | u16::from(privilege));
        self.cpl = privilege;
        self.regs[RSP] = stack;
        self.rip = target;
        self.system_flags &= !(TF | NT | RF | VM);
        if kind == 0xE {
            self.system_flags &= !IF;
        }
        self.mode = Mode::Bits64;
        for slot in 0..6 {
            self.update_base(slot);
        }
        self.update_context();
        Ok(())
    }

    /// A stack pointer of the 64-bit task state, at `offset` in it.
    fn stack_from_task(&mut self, offset: u64) -> Result<u64, Fault> {
        if offset + 7 > u64::from(self.tr.limit) {
            return Err(self.raise(TS, Some(u32::from(self.tr.selector & !3))));
        }
        self.load_system(self.tr.base.wrapping_add(offset))
    }

    /// SS after a change of privilege in long mode: null.
    fn load_null_stack(&mut self, privilege: u8) {
        self.segments[SS_SLOT] = Descriptor::FLAT_DATA.segment(u16::from(privilege));
        self.segments[SS_SLOT].attributes |= u16::from(privilege) << 5;
    }

    /// Delivery in protected mode without long mode: same privilege only, as start-up code needs.
    fn deliver_protected(
        &mut self,
        vector: u8,
        code: Option<u32>,
        origin: Origin,
    ) -> Result<(), Fault> {
        let gate_error = u32::from(vector) << 3 | 2;
        let place = u64::from(vector) * 8;
        if place + 7 > u64::from(self.idtr.limit) {
            return Err(self.raise(GP, Some(gate_error)));
        }
        let gate: u64 = self.load_system(self.idtr.base.wrapping_add(place) & 0xFFFF_FFFF)?;
        let kind = gate >> 40 & 0x1F;
        if !matches!(kind, 0xE | 0xF)
            || (origin == Origin::Software && (gate >> 45 & 3) < u64::from(self.cpl))
        {
            return Err(self.raise(GP, Some(gate_error)));
        }
        if gate >> 47 & 1 == 0 {
            return Err(self.raise(NP, Some(gate_error)));
        }
        let selector = (gate >> 16) as u16;
        let descriptor = self.code_descriptor(selector, 0)?;
        if descriptor.privilege() != self.cpl {
            return Err(self.unsupported("an interrupt that changes privilege outside long mode"));
        }
        let flags = self.rflags();
        let code_selector = u64::from(self.segments[CS].selector);
        let saved_stack = self.regs[RSP];
        let words = [
            Some(flags),
            Some(code_selector),
            Some(self.rip),
            code.map(u64::from),
        ];
        for value in words.into_iter().flatten() {
            self.regs[RSP] = self.regs[RSP].wrapping_sub(4) & 0xFFFF_FFFF;
            let address = self.seg_base[SS_SLOT].wrapping_add(self.regs[RSP]) & 0xFFFF_FFFF;
            if let Err(fault) = self.store_system(address, value as u32) {
                self.regs[RSP] = saved_stack;
                return Err(fault);
            }
        }
        self.segments[CS] = descriptor.segment((selector & !3) | u16::from(self.cpl));
        self.rip = (gate & 0xFFFF) | (gate >> 32 & 0xFFFF_0000);
        self.system_flags &= !(TF | NT | RF | VM);
        if kind == 0xE {
            self.system_flags &= !IF;
        }
        self.update_mode();
        Ok(())
    }

    fn deliver_real(&mut self, vector: u8) -> Result<(), Fault> {
        let place = u64::from(vector) * 4;
        if place + 3 > u64::from(self.idtr.limit) {
            return Err(self.raise(GP, None));
        }
        let gate: u32 = self.load_system(self.idtr.base.wrapping_add(place))?;
        let values = [
            self.rflags() as u16,
            self.segments[CS].selector,
            self.rip as u16,
        ];
        let mut stack = self.regs[RSP] as u16;
        for value in values {
            stack = stack.wrapping_sub(2);
            self.store_system(
                self.segments[SS_SLOT].base.wrapping_add(u64::from(stack)),
                value,
            )?;
        }
        self.regs[RSP] = (self.regs[RSP] & !0xFFFF) | u64::from(stack);
        self.segments[CS].selector = (gate >> 16) as u16;
        self.segments[CS].base = u64::from(gate >> 16) << 4;
        self.rip = u64::from(gate & 0xFFFF);
        self.system_flags &= !(TF | IF | RF);
        self.update_mode();
        Ok(())
    }
}
