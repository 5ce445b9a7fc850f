//! One processor's local APIC.

use super::registers::{
    APIC_BASE, CURRENT_COUNT, DFR, DIVIDE, EOI, ESR, ESR_RECEIVED, ESR_SENT, ICR, ICR_HIGH, ID,
    INITIAL_COUNT, IRR, IRR_LAST, ISR, LDR, LVT_COUNTERS, LVT_ERROR, LVT_LINT0, LVT_LINT1,
    LVT_MASKED, LVT_THERMAL, LVT_TIMER, PAGE_BYTES, PPR, SELF_IPI, SVR, SVR_ENABLE, TMR, TPR,
    VERSION, X2APIC_MSR, lvt_mask,
};
use super::timer::{Mode, Timer};

const BASE_BSP: u64 = 1 << 8;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLE: u64 = 1 << 11;

/// An access that raises a general protection fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterFault;

/// An interprocessor interrupt on its way (Intel SDM vol. 3 §11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipi {
    /// The low half of ICR.
    pub command: u32,
    /// To whom: an APIC id, or a logical destination.
    pub destination: u32,
}

/// What a register write does outside this APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Send this.
    Send(Ipi),
    /// Tell the I/O APIC that this level-triggered vector ended.
    EndOfLevel(u8),
}

/// One local APIC: a state machine driven by register accesses, messages and time.
///
/// Holds its registers as the xAPIC page shows them, so that saving is copying.
#[derive(Clone, Debug)]
pub struct LocalApic {
    id: u32,
    base: u64,
    registers: [u32; PAGE_BYTES / 16],
    /// Errors not yet shown by ESR.
    errors: u32,
    timer: Timer,
    init: bool,
    startup: Option<u8>,
}

impl LocalApic {
    /// The APIC of processor `id` after reset; number 0 is the bootstrap processor.
    ///
    /// * `tsc_khz`: frequency of the guest's TSC, at least 1.
    pub fn new(id: u8, tsc_khz: u32) -> Self {
        let bsp = if id == 0 { BASE_BSP } else { 0 };
        let mut apic = Self {
            id: u32::from(id),
            base: APIC_BASE | BASE_ENABLE | bsp,
            registers: [0; PAGE_BYTES / 16],
            errors: 0,
            timer: Timer::new(tsc_khz),
            init: false,
            startup: None,
        };
        apic.reset();
        apic
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// `IA32_APIC_BASE`.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// `IA32_TSC_DEADLINE`: 0 when no deadline is armed.
    pub fn tsc_deadline(&self) -> u64 {
        match self.mode() {
            Mode::TscDeadline => self.timer.due.unwrap_or(0),
            _ => 0,
        }
    }

    /// Whether it is in x2APIC mode.
    pub fn is_x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    /// Registers as INIT leaves them (§11.4.7.3): the id, the base and pending messages stay.
    pub fn reset(&mut self) {
        self.registers = [0; PAGE_BYTES / 16];
        self.set(VERSION, 0x0005_0014);
        self.set(SVR, 0xFF);
        self.set(DFR, u32::MAX);
        for entry in [
            LVT_TIMER,
            LVT_THERMAL,
            LVT_COUNTERS,
            LVT_LINT0,
            LVT_LINT1,
            LVT_ERROR,
        ] {
            self.set(entry, LVT_MASKED);
        }
        self.errors = 0;
        self.timer.due = None;
        self.set_mode_registers();
    }

    /// Writes `IA32_APIC_BASE`.
    ///
    /// # Errors
    /// [`RegisterFault`] for reserved bits, another address than [`APIC_BASE`], and the transitions that §11.12.5
    /// forbids.
    pub fn set_base(&mut self, value: u64) -> Result<(), RegisterFault> {
        let mode = value & (BASE_ENABLE | BASE_X2APIC);
        let before = self.base & (BASE_ENABLE | BASE_X2APIC);
        let known = BASE_BSP | BASE_ENABLE | BASE_X2APIC;
        let allowed = match mode {
            BASE_X2APIC => false,
            BASE_ENABLE => before & BASE_X2APIC == 0,
            0 => true,
            _ => before != 0,
        };
        if value & !known != APIC_BASE || !allowed {
            return Err(RegisterFault);
        }
        self.base = APIC_BASE | mode | self.base & BASE_BSP;
        if mode == 0 && before != 0 {
            self.reset();
        }
        self.set_mode_registers();
        Ok(())
    }

    /// Reads an x2APIC register by its MSR number.
    ///
    /// # Errors
    /// [`RegisterFault`] outside x2APIC mode, and for registers that are none or cannot be read.
    pub fn read_msr(&self, msr: u32, tsc: u64) -> Result<u64, RegisterFault> {
        let register = self.x2apic_register(msr)?;
        match register {
            ICR => Ok(u64::from(self.get(ICR)) | u64::from(self.get(ICR_HIGH)) << 32),
            DFR | ICR_HIGH | EOI | SELF_IPI => Err(RegisterFault),
            _ => self.read(register, tsc).map(u64::from).ok_or(RegisterFault),
        }
    }

    /// Writes an x2APIC register by its MSR number.
    ///
    /// # Errors
    /// [`RegisterFault`] outside x2APIC mode, for registers that are none or cannot be written, and for reserved bits.
    pub fn write_msr(&mut self, msr: u32, value: u64, tsc: u64) -> Result<Effect, RegisterFault> {
        let register = self.x2apic_register(msr)?;
        if register == ICR {
            self.set(ICR_HIGH, (value >> 32) as u32);
            return Ok(self.send(value as u32, (value >> 32) as u32));
        }
        let value = u32::try_from(value).map_err(|_| RegisterFault)?;
        let reserved = match register {
            TPR | SELF_IPI => !0xFF,
            EOI | ESR => !0,
            SVR => !0x11FF,
            DIVIDE => !0xB,
            INITIAL_COUNT => 0,
            // Delivery status and remote IRR may be written back.
            _ => !(lvt_mask(register).ok_or(RegisterFault)? | 0x5000),
        };
        if value & reserved != 0 {
            return Err(RegisterFault);
        }
        Ok(self.write(register, value, tsc))
    }

    /// Reads the register at `offset` of the xAPIC page; what is none reads as 0.
    pub fn read_page(&self, offset: u32, tsc: u64) -> u32 {
        let usable = self.base & BASE_ENABLE != 0 && !self.is_x2apic();
        let register = self.read(offset >> 4, tsc);
        register.filter(|_| usable).unwrap_or(0)
    }

    /// Writes the register at `offset` of the xAPIC page.
    pub fn write_page(&mut self, offset: u32, value: u32, tsc: u64) -> Effect {
        if self.base & BASE_ENABLE == 0 || self.is_x2apic() {
            return Effect::None;
        }
        match offset >> 4 {
            ICR => self.send(value, self.get(ICR_HIGH) >> 24),
            ICR_HIGH => {
                self.set(ICR_HIGH, value & 0xFF00_0000);
                Effect::None
            }
            LDR => {
                self.set(LDR, value & 0xFF00_0000);
                Effect::None
            }
            DFR => {
                self.set(DFR, value | 0x0FFF_FFFF);
                Effect::None
            }
            SELF_IPI => Effect::None,
            register => self.write(register, value, tsc),
        }
    }

    fn x2apic_register(&self, msr: u32) -> Result<u32, RegisterFault> {
        let register = msr.wrapping_sub(X2APIC_MSR);
        if self.is_x2apic() && register <= SELF_IPI {
            Ok(register)
        } else {
            Err(RegisterFault)
        }
    }

    fn read(&self, register: u32, tsc: u64) -> Option<u32> {
        match register {
            PPR => Some(self.processor_priority()),
            CURRENT_COUNT => Some(match self.mode() {
                Mode::TscDeadline => 0,
                _ => {
                    let (initial, divide) = (self.get(INITIAL_COUNT), self.get(DIVIDE));
                    self.timer.remaining(initial, divide, tsc)
                }
            }),
            ID
            | VERSION
            | TPR
            | LDR
            | DFR
            | SVR
            | ISR..=IRR_LAST
            | ESR
            | ICR
            | ICR_HIGH
            | INITIAL_COUNT
            | DIVIDE => Some(self.get(register)),
            _ => lvt_mask(register).map(|_| self.get(register)),
        }
    }

    fn write(&mut self, register: u32, value: u32, tsc: u64) -> Effect {
        match register {
            TPR => self.set(TPR, value & 0xFF),
            EOI => return self.end_of_interrupt(),
            SVR => {
                self.set(SVR, value & 0x11FF);
                if value & SVR_ENABLE == 0 {
                    for entry in LVT_TIMER..=LVT_ERROR {
                        self.set(entry, self.get(entry) | LVT_MASKED);
                    }
                }
            }
            ESR => {
                self.set(ESR, self.errors);
                self.errors = 0;
            }
            SELF_IPI => {
                let command = value & 0xFF | 1 << 18;
                return Effect::Send(Ipi {
                    command,
                    destination: 0,
                });
            }
            INITIAL_COUNT if self.mode() != Mode::TscDeadline => {
                self.set(INITIAL_COUNT, value);
                self.timer.due = (value != 0)
                    .then(|| tsc.saturating_add(self.timer.ticks(value, self.get(DIVIDE))));
            }
            DIVIDE => {
                let left = self.read(CURRENT_COUNT, tsc).unwrap_or(0);
                self.set(DIVIDE, value & 0xB);
                if self.mode() != Mode::TscDeadline && self.timer.due.is_some() {
                    self.timer.due = Some(tsc.saturating_add(self.timer.ticks(left, value)));
                }
            }
            _ => {
                if let Some(mask) = lvt_mask(register) {
                    let before = self.mode();
                    let off = self.get(SVR) & SVR_ENABLE == 0;
                    let masked = if off { LVT_MASKED } else { 0 };
                    self.set(register, value & mask | masked);
                    let deadline = Mode::TscDeadline;
                    if before != self.mode() && (before == deadline || self.mode() == deadline) {
                        // §11.5.4.1: switching to or from the deadline mode disarms the timer.
                        self.timer.due = None;
                    }
                }
            }
        }
        Effect::None
    }

    /// Writes `IA32_TSC_DEADLINE`; ignored in other timer modes (§11.5.4.1).
    pub fn set_tsc_deadline(&mut self, value: u64) {
        if self.mode() == Mode::TscDeadline {
            self.timer.due = (value != 0).then_some(value);
        }
    }

    /// The guest's TSC at which [`LocalApic::tick`] has something to do.
    pub fn deadline(&self) -> Option<u64> {
        self.timer.due
    }

    /// Fires the timer if it is due at `tsc`; says whether an interrupt came of it.
    pub fn tick(&mut self, tsc: u64) -> bool {
        if self.timer.due.is_none_or(|due| due > tsc) {
            return false;
        }
        match self.mode() {
            Mode::Periodic => {
                let (initial, divide) = (self.get(INITIAL_COUNT), self.get(DIVIDE));
                self.timer.advance(initial, divide, tsc);
            }
            _ => self.timer.due = None,
        }
        let entry = self.get(LVT_TIMER);
        entry & LVT_MASKED == 0 && self.accept(entry as u8, false)
    }

    /// Takes a fixed interrupt; says whether it did.
    pub fn accept(&mut self, vector: u8, level: bool) -> bool {
        if self.base & BASE_ENABLE == 0 || self.get(SVR) & SVR_ENABLE == 0 {
            return false;
        }
        if vector < 16 {
            self.error(ESR_RECEIVED);
            return false;
        }
        self.set_vector(IRR, vector, true);
        self.set_vector(TMR, vector, level);
        true
    }

    /// Takes an INIT message: registers are reset, [`LocalApic::take_startup`] tells the processor.
    pub fn accept_init(&mut self) {
        self.reset();
        self.init = true;
        self.startup = None;
    }

    /// Takes a start-up message.
    pub fn accept_startup(&mut self, vector: u8) {
        self.startup = Some(vector);
    }

    /// Takes the oldest of INIT (`Some(None)`) and start-up (`Some(Some(vector))`).
    pub fn take_startup(&mut self) -> Option<Option<u8>> {
        if std::mem::take(&mut self.init) {
            return Some(None);
        }
        self.startup.take().map(Some)
    }

    /// Whether an INIT or start-up message waits.
    pub fn has_startup(&self) -> bool {
        self.init || self.startup.is_some()
    }

    /// Whether an interrupt waits whose priority is over the task's and that of the one in service.
    pub fn is_pending(&self) -> bool {
        self.waiting().is_some()
    }

    /// Moves the highest waiting interrupt into service.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.waiting()?;
        self.set_vector(IRR, vector, false);
        self.set_vector(ISR, vector, true);
        Some(vector)
    }

    /// Ends the highest interrupt in service.
    pub fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.highest(ISR) else {
            return Effect::None;
        };
        self.set_vector(ISR, vector, false);
        if self.is_level(vector) {
            Effect::EndOfLevel(vector)
        } else {
            Effect::None
        }
    }

    /// Whether the end of the highest interrupt in service can be told later: it is edge-triggered, and no other waits,
    /// not even one of too low a priority.
    pub fn end_can_wait(&self) -> bool {
        self.highest(IRR).is_none()
            && self
                .highest(ISR)
                .is_some_and(|vector| !self.is_level(vector))
    }

    /// Whether the interrupt of `vector` came level-triggered.
    fn is_level(&self, vector: u8) -> bool {
        self.get(TMR + u32::from(vector) / 32) & 1 << (vector % 32) != 0
    }

    /// The task priority as CR8 shows it.
    pub fn task_priority(&self) -> u8 {
        (self.get(TPR) >> 4) as u8 & 0xF
    }

    /// Sets the task priority as CR8 does.
    pub fn set_task_priority(&mut self, priority: u8) {
        self.set(TPR, u32::from(priority & 0xF) << 4);
    }

    /// Priority of what runs: the higher of the task's and that of the interrupt in service (§11.8.3.1).
    pub fn processor_priority(&self) -> u32 {
        let task = self.get(TPR);
        let service = self
            .highest(ISR)
            .map_or(0, |vector| u32::from(vector) & 0xF0);
        if task & 0xF0 >= service {
            task
        } else {
            service
        }
    }

    /// Whether a message to `destination` is for it (§11.6.2).
    ///
    /// * `wide`: the destination has 32 bits, as from an x2APIC; else 8, of which all ones is everybody.
    pub fn is_addressed(&self, destination: u32, logical: bool, wide: bool) -> bool {
        let everybody = if wide { u32::MAX } else { 0xFF };
        if destination == everybody {
            return true;
        }
        if !logical {
            return destination == self.id;
        }
        let own = self.get(LDR);
        if self.is_x2apic() {
            return own >> 16 == destination >> 16 && own & destination & 0xFFFF != 0;
        }
        let (own, destination) = (own >> 24, destination & 0xFF);
        if self.get(DFR) >> 28 == 0xF {
            own & destination != 0
        } else {
            own >> 4 == destination >> 4 && own & destination & 0xF != 0
        }
    }

    /// The registers as the first [`PAGE_BYTES`] of the xAPIC page; the id is in the page's form in either mode.
    pub fn save(&self, tsc: u64) -> Vec<u8> {
        let mut page = vec![0; PAGE_BYTES];
        for (register, bytes) in (0u32..).zip(page.chunks_exact_mut(16)) {
            let value = match register {
                ID => self.id << 24,
                PPR | CURRENT_COUNT => self.read(register, tsc).unwrap_or(0),
                _ => self.get(register),
            };
            bytes[..4].copy_from_slice(&value.to_le_bytes());
        }
        page
    }

    /// Takes the registers of a saved page, with the two MSRs that are not in it; missing bytes are zero.
    pub fn restore(&mut self, page: &[u8], base: u64, tsc_deadline: u64, tsc: u64) {
        let known = base & (BASE_BSP | BASE_ENABLE | BASE_X2APIC);
        self.base = APIC_BASE | known;
        for (register, bytes) in (0u32..).zip(page.chunks_exact(16)).take(PAGE_BYTES / 16) {
            let value = [bytes[0], bytes[1], bytes[2], bytes[3]];
            self.set(register, u32::from_le_bytes(value));
        }
        self.set(VERSION, 0x0005_0014);
        self.set_mode_registers();
        let left = self.get(CURRENT_COUNT);
        self.timer.due = match self.mode() {
            Mode::TscDeadline => (tsc_deadline != 0).then_some(tsc_deadline),
            _ => (left != 0).then(|| tsc.saturating_add(self.timer.ticks(left, self.get(DIVIDE)))),
        };
        self.errors = 0;
    }

    /// Id and logical destination, which in x2APIC mode follow from the id (§11.12.10.2).
    fn set_mode_registers(&mut self) {
        if self.is_x2apic() {
            self.set(ID, self.id);
            self.set(LDR, (self.id >> 4) << 16 | 1 << (self.id & 0xF));
        } else {
            self.set(ID, self.id << 24);
        }
    }

    fn send(&mut self, command: u32, destination: u32) -> Effect {
        // Delivery is immediate, so the status bit never shows.
        self.set(ICR, command & !(1 << 12));
        if command >> 8 & 7 == 0 && command & 0xFF < 16 {
            self.error(ESR_SENT);
            return Effect::None;
        }
        Effect::Send(Ipi {
            command,
            destination,
        })
    }

    fn error(&mut self, bit: u32) {
        self.errors |= bit;
        let entry = self.get(LVT_ERROR);
        if entry & LVT_MASKED == 0 && entry & 0xFF >= 16 {
            self.accept(entry as u8, false);
        }
    }

    fn mode(&self) -> Mode {
        Mode::of(self.get(LVT_TIMER))
    }

    fn waiting(&self) -> Option<u8> {
        let vector = self.highest(IRR)?;
        (u32::from(vector) >> 4 > self.processor_priority() >> 4).then_some(vector)
    }

    /// The highest vector set in one of the 256-bit registers.
    fn highest(&self, first: u32) -> Option<u8> {
        (0..8u32).rev().find_map(|word| {
            let bits = self.get(first + word);
            bits.checked_ilog2().map(|bit| (word * 32 + bit) as u8)
        })
    }

    fn set_vector(&mut self, first: u32, vector: u8, set: bool) {
        let register = first + u32::from(vector) / 32;
        let bit = 1 << (vector % 32);
        let others = self.get(register) & !bit;
        self.set(register, others | if set { bit } else { 0 });
    }

    fn get(&self, register: u32) -> u32 {
        self.registers[register as usize]
    }

    fn set(&mut self, register: u32, value: u32) {
        self.registers[register as usize] = value;
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
