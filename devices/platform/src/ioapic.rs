//! The I/O APIC: 24 pins, each a message to local APICs.
//!
//! Source: Intel 82093AA data sheet; message format as Intel SDM vol. 3 §11.11.

use serde::{Deserialize, Serialize};

/// Guest physical address of its registers, one page.
pub const IOAPIC_BASE: u64 = 0xFEC0_0000;
/// Its pins.
pub const PINS: u8 = 24;

const VECTOR: u64 = 0xFF;
const DELIVERY: u64 = 7 << 8;
const LOGICAL: u64 = 1 << 11;
const PENDING: u64 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;

/// A message-signalled interrupt, as a device writes it (Intel SDM vol. 3 §11.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Destination and its mode.
    pub address: u64,
    /// Vector, delivery and trigger mode.
    pub data: u32,
}

/// Its registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoApicState {
    id: u32,
    index: u8,
    /// Redirection entry of each pin.
    entries: Vec<u64>,
    /// A bit each pin whose line is high.
    lines: u32,
}

/// The I/O APIC. Its effects are the messages its methods give.
#[derive(Clone, Debug)]
pub struct IoApic {
    state: IoApicState,
}

impl Default for IoApic {
    /// As after reset: all pins masked.
    fn default() -> Self {
        Self {
            state: IoApicState {
                id: 0,
                index: 0,
                entries: vec![MASKED; usize::from(PINS)],
                lines: 0,
            },
        }
    }
}

impl IoApic {
    /// Its registers.
    pub fn state(&self) -> &IoApicState {
        &self.state
    }

    /// Puts it into a saved state; entries that are missing are masked.
    pub fn set_state(&mut self, mut state: IoApicState) {
        state.entries.resize(usize::from(PINS), MASKED);
        self.state = state;
    }

    /// Sets the level of `pin`'s line. Gives the message to deliver; pins beyond the last have none.
    pub fn set_pin(&mut self, pin: u8, high: bool) -> Option<Message> {
        if pin >= PINS {
            return None;
        }
        let bit = 1 << pin;
        let rises = high && self.state.lines & bit == 0;
        self.state.lines = self.state.lines & !bit | if high { bit } else { 0 };
        let level = self.state.entries[usize::from(pin)] & LEVEL != 0;
        if level || rises { self.fire(pin) } else { None }
    }

    /// An event at `pin`, as of an edge that comes and goes.
    pub fn pulse(&mut self, pin: u8) -> Option<Message> {
        let message = self.set_pin(pin, true);
        self.set_pin(pin, false);
        message
    }

    /// The message that `pin` sends at present; `None` while it is masked.
    pub fn message(&self, pin: u8) -> Option<Message> {
        let entry = *self.state.entries.get(usize::from(pin))?;
        (entry & MASKED == 0).then(|| message(entry))
    }

    /// A local APIC ended level-triggered `vector`. Gives the messages of lines that are still high.
    pub fn end_of_interrupt(&mut self, vector: u8) -> Vec<Message> {
        let mut messages = Vec::new();
        for pin in 0..PINS {
            let entry = &mut self.state.entries[usize::from(pin)];
            if *entry & VECTOR == u64::from(vector) && *entry & REMOTE_IRR != 0 {
                *entry &= !REMOTE_IRR;
                messages.extend(self.fire(pin));
            }
        }
        messages
    }

    /// Reads the register at `offset` in the page; `None` when none is there.
    pub fn read(&self, offset: u64) -> Option<u32> {
        match offset {
            0 => Some(u32::from(self.state.index)),
            0x10 => match self.state.index {
                0 | 2 => Some(self.state.id),
                1 => Some(u32::from(PINS - 1) << 16 | 0x20),
                index @ 0x10.. => {
                    let entry = *self.state.entries.get(usize::from(index - 0x10) / 2)?;
                    Some((entry >> (32 * (index & 1))) as u32)
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Writes the register at `offset` in the page. Gives the pin whose entry changed, and the messages to deliver: a
    /// level that waited behind a mask, or, for a write to the EOI register, lines still high.
    pub fn write(&mut self, offset: u64, value: u32) -> (Option<u8>, Vec<Message>) {
        match offset {
            0 => self.state.index = value as u8,
            0x10 if self.state.index == 0 => self.state.id = value & 0x0F00_0000,
            0x10 if self.state.index >= 0x10 => {
                let index = self.state.index - 0x10;
                let pin = index / 2;
                let Some(entry) = self.state.entries.get_mut(usize::from(pin)) else {
                    return (None, Vec::new());
                };
                let shift = 32 * (index & 1);
                let fixed = PENDING | REMOTE_IRR;
                let wanted = *entry & !(0xFFFF_FFFF << shift) | u64::from(value) << shift;
                *entry = *entry & fixed | wanted & !fixed;
                if *entry & LEVEL == 0 {
                    *entry &= !REMOTE_IRR;
                    return (Some(pin), Vec::new());
                }
                return (Some(pin), self.fire(pin).into_iter().collect());
            }
            // Version 0x20 has an EOI register.
            0x40 => return (None, self.end_of_interrupt(value as u8)),
            _ => {}
        }
        (None, Vec::new())
    }

    /// Sends `pin`'s message if it is unmasked, and for a level: high and not in service.
    fn fire(&mut self, pin: u8) -> Option<Message> {
        let high = self.state.lines & 1 << pin != 0;
        let entry = &mut self.state.entries[usize::from(pin)];
        if *entry & MASKED != 0 {
            return None;
        }
        if *entry & LEVEL != 0 {
            if !high || *entry & REMOTE_IRR != 0 {
                return None;
            }
            *entry |= REMOTE_IRR;
        }
        Some(message(*entry))
    }
}

/// The message of a redirection entry. Destinations over 255 come in bits 48 to 55, as KVM and Hyper-V extend it.
fn message(entry: u64) -> Message {
    let logical = if entry & LOGICAL != 0 { 4 } else { 0 };
    let level = if entry & LEVEL != 0 {
        1 << 14 | 1 << 15
    } else {
        0
    };
    Message {
        address: 0xFEE0_0000 | (entry >> 56) << 12 | (entry >> 49 & 0x7F) << 5 | logical,
        data: (entry & (VECTOR | DELIVERY)) as u32 | level,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(ioapic: &mut IoApic, pin: u8, entry: u64) -> Vec<Message> {
        let mut messages = Vec::new();
        for half in [1u8, 0] {
            ioapic.write(0, u32::from(0x10 + 2 * pin + half));
            let written = ioapic.write(0x10, (entry >> (32 * half)) as u32);
            assert_eq!(written.0, Some(pin));
            messages.extend(written.1);
        }
        messages
    }

    #[test]
    fn an_edge_is_one_message_and_a_masked_edge_none() {
        let mut ioapic = IoApic::default();
        assert_eq!(ioapic.set_pin(4, true), None);
        ioapic.set_pin(4, false);
        assert!(program(&mut ioapic, 4, 3 << 56 | 0x31).is_empty());
        let message = Message {
            address: 0xFEE0_3000,
            data: 0x31,
        };
        assert_eq!(ioapic.set_pin(4, true), Some(message));
        assert_eq!(ioapic.set_pin(4, true), None);
        ioapic.set_pin(4, false);
        assert_eq!(ioapic.pulse(4), Some(message));
        assert_eq!(ioapic.message(4), Some(message));
    }

    #[test]
    fn a_level_is_sent_again_while_it_stays_high_after_its_end() {
        let mut ioapic = IoApic::default();
        ioapic.set_pin(9, true);
        let sent = program(&mut ioapic, 9, LEVEL | LOGICAL | 1 << 56 | 0x41);
        let message = Message {
            address: 0xFEE0_1004,
            data: 0xC041,
        };
        assert_eq!(sent, [message]);
        assert_eq!(ioapic.set_pin(9, true), None, "in service");
        assert_eq!(ioapic.end_of_interrupt(0x40), []);
        assert_eq!(ioapic.end_of_interrupt(0x41), [message]);
        ioapic.set_pin(9, false);
        assert_eq!(ioapic.write(0x40, 0x41), (None, vec![]));
        assert_eq!(ioapic.read(0x10).unwrap() & REMOTE_IRR as u32, 0);
    }

    #[test]
    fn registers_answer_as_the_data_sheet_says() {
        let mut ioapic = IoApic::default();
        for (index, value) in [(0, 0x0500_0000), (1, 0x0017_0020), (0x10, MASKED as u32)] {
            ioapic.write(0, index);
            if index == 0 {
                ioapic.write(0x10, 0xF5FF_FFFF);
            }
            assert_eq!(ioapic.read(0x10), Some(value), "register {index:#x}");
        }
        ioapic.write(0, 0x10 + 2 * 24);
        assert_eq!(ioapic.read(0x10), None);
        assert_eq!(ioapic.write(0x10, 1), (None, vec![]));
        assert_eq!(ioapic.read(0x20), None);
    }
}
