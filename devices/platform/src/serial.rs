//! A 16550A serial port.
//!
//! Source: National Semiconductor PC16550D data sheet, register and bit names as there.

use std::collections::VecDeque;
use std::io::Write;

use serde::{Deserialize, Serialize};

/// First I/O port of COM1.
pub const COM1_PORT: u16 = 0x3F8;
/// Its I/O APIC pin.
pub const COM1_PIN: u8 = 4;

/// Most bytes that wait for the guest; more are dropped with the overrun flag set.
const INPUT_BYTES: usize = 64 * 1024;

const IER_RECEIVED: u8 = 1;
const IER_EMPTY: u8 = 2;
const IER_LINE: u8 = 4;
const IIR_NONE: u8 = 1;
const IIR_EMPTY: u8 = 2;
const IIR_RECEIVED: u8 = 4;
const IIR_LINE: u8 = 6;
const IIR_FIFO: u8 = 0xC0;
const LCR_DIVISOR: u8 = 0x80;
const LSR_READY: u8 = 1;
const LSR_OVERRUN: u8 = 2;
const LSR_EMPTY: u8 = 0x60;
const MCR_LOOP: u8 = 0x10;

/// A wire to an interrupt controller.
pub trait InterruptLine: Send {
    /// Sets its level; called on changes only.
    fn set(&self, high: bool);
}

/// The registers of a [`Serial`] port, and what waits in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    interrupt_enable: u8,
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    divisor: u16,
    overrun: bool,
    /// The transmitter became empty and nobody took notice yet.
    empty_pending: bool,
    line_high: bool,
    input: VecDeque<u8>,
}

/// A serial port: what the guest sends goes to a writer at once, what it receives waits in a queue.
pub struct Serial {
    state: SerialState,
    output: Box<dyn Write + Send>,
    line: Box<dyn InterruptLine>,
}

impl std::fmt::Debug for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.state.fmt(f)
    }
}

impl Serial {
    /// A port as after reset.
    ///
    /// * `output`: takes each byte at once; its errors are ignored, as nobody listens to a wire.
    pub fn new(output: Box<dyn Write + Send>, line: Box<dyn InterruptLine>) -> Self {
        let state = SerialState {
            divisor: 12,
            ..SerialState::default()
        };
        Self {
            state,
            output,
            line,
        }
    }

    /// Its registers and the waiting input.
    pub fn state(&self) -> &SerialState {
        &self.state
    }

    /// Puts it into a saved state, and its line to the saved level.
    pub fn set_state(&mut self, mut state: SerialState) {
        state.input.truncate(INPUT_BYTES);
        self.line.set(state.line_high);
        self.state = state;
    }

    /// Queues input for the guest.
    pub fn receive(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.push(byte);
        }
        self.update_line();
    }

    /// Reads register `offset` (0 to 7).
    pub fn read(&mut self, offset: u16) -> u8 {
        let divisor = self.state.line_control & LCR_DIVISOR != 0;
        let value = match offset & 7 {
            0 if divisor => self.state.divisor as u8,
            1 if divisor => (self.state.divisor >> 8) as u8,
            0 => self.state.input.pop_front().unwrap_or(0),
            1 => self.state.interrupt_enable,
            2 => {
                let cause = self.cause();
                if cause == IIR_EMPTY {
                    self.state.empty_pending = false;
                }
                let fifo = self.state.fifo_control & 1 != 0;
                cause | if fifo { IIR_FIFO } else { 0 }
            }
            3 => self.state.line_control,
            4 => self.state.modem_control,
            5 => {
                let ready = if self.state.input.is_empty() {
                    0
                } else {
                    LSR_READY
                };
                let overrun = if std::mem::take(&mut self.state.overrun) {
                    LSR_OVERRUN
                } else {
                    0
                };
                LSR_EMPTY | ready | overrun
            }
            6 => self.modem_status(),
            _ => self.state.scratch,
        };
        self.update_line();
        value
    }

    /// Writes register `offset` (0 to 7).
    pub fn write(&mut self, offset: u16, value: u8) {
        let divisor = self.state.line_control & LCR_DIVISOR != 0;
        match offset & 7 {
            0 if divisor => self.state.divisor = self.state.divisor & 0xFF00 | u16::from(value),
            1 if divisor => self.state.divisor = self.state.divisor & 0xFF | u16::from(value) << 8,
            0 => self.transmit(value),
            1 => {
                let enabled = value & 0xF & !self.state.interrupt_enable;
                self.state.interrupt_enable = value & 0xF;
                // The transmitter is always empty, so enabling its interrupt causes one.
                if enabled & IER_EMPTY != 0 {
                    self.state.empty_pending = true;
                }
            }
            2 => {
                self.state.fifo_control = value;
                if value & 2 != 0 {
                    self.state.input.clear();
                }
            }
            3 => self.state.line_control = value,
            4 => self.state.modem_control = value & 0x1F,
            7 => self.state.scratch = value,
            // LSR and MSR are for the factory's tests.
            _ => {}
        }
        self.update_line();
    }

    fn transmit(&mut self, byte: u8) {
        if self.state.modem_control & MCR_LOOP != 0 {
            self.push(byte);
        } else {
            let _ = self.output.write_all(&[byte]);
        }
        self.state.empty_pending = true;
    }

    fn push(&mut self, byte: u8) {
        if self.state.input.len() < INPUT_BYTES {
            self.state.input.push_back(byte);
        } else {
            self.state.overrun = true;
        }
    }

    /// What IIR shows, without the FIFO bits.
    fn cause(&self) -> u8 {
        let enabled = self.state.interrupt_enable;
        if enabled & IER_LINE != 0 && self.state.overrun {
            IIR_LINE
        } else if enabled & IER_RECEIVED != 0 && !self.state.input.is_empty() {
            IIR_RECEIVED
        } else if enabled & IER_EMPTY != 0 && self.state.empty_pending {
            IIR_EMPTY
        } else {
            IIR_NONE
        }
    }

    /// Clear to send, data set ready and carrier detect; in loop-back mode our own outputs.
    fn modem_status(&self) -> u8 {
        let control = self.state.modem_control;
        if control & MCR_LOOP == 0 {
            return 0xB0;
        }
        (control & 1) << 5 | (control & 2) << 3 | (control & 4) << 4 | (control & 8) << 4
    }

    fn update_line(&mut self) {
        let high = self.cause() != IIR_NONE;
        if high != self.state.line_high {
            self.state.line_high = high;
            self.line.set(high);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<u8>>>, Arc<AtomicUsize>);

    impl Write for Seen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl InterruptLine for Seen {
        fn set(&self, high: bool) {
            if high {
                self.1.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn port() -> (Serial, Seen) {
        let seen = Seen::default();
        let serial = Serial::new(Box::new(seen.clone()), Box::new(seen.clone()));
        (serial, seen)
    }

    #[test]
    fn each_byte_sent_is_an_edge_when_the_interrupt_is_enabled() {
        let (mut serial, seen) = port();
        serial.write(0, b'a');
        assert_eq!(seen.1.load(Ordering::Relaxed), 0);
        serial.write(1, IER_EMPTY);
        assert_eq!(serial.read(2), IIR_EMPTY);
        assert_eq!(serial.read(2), IIR_NONE);
        serial.write(0, b'b');
        assert_eq!(seen.1.load(Ordering::Relaxed), 2);
        assert_eq!(*seen.0.lock().unwrap(), b"ab");
    }

    #[test]
    fn input_waits_until_it_is_read_and_keeps_the_line_high() {
        let (mut serial, seen) = port();
        serial.write(1, IER_RECEIVED);
        serial.write(2, 1);
        serial.receive(b"xy");
        assert_eq!(serial.read(2), IIR_RECEIVED | IIR_FIFO);
        assert_eq!(serial.read(5), LSR_EMPTY | LSR_READY);
        assert_eq!((serial.read(0), serial.read(0)), (b'x', b'y'));
        assert_eq!(serial.read(5), LSR_EMPTY);
        assert_eq!(serial.read(2), IIR_NONE | IIR_FIFO);
        assert_eq!(seen.1.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn loop_back_shows_outputs_and_returns_data() {
        let (mut serial, seen) = port();
        // Linux's own probe of a 16550.
        serial.write(4, MCR_LOOP | 0xA);
        assert_eq!(serial.read(6) & 0xF0, 0x90);
        serial.write(0, 7);
        assert_eq!(serial.read(0), 7);
        assert!(seen.0.lock().unwrap().is_empty());
    }

    #[test]
    fn input_beyond_the_queue_is_dropped_with_overrun() {
        let (mut serial, _) = port();
        serial.receive(&vec![1; INPUT_BYTES + 5]);
        assert_eq!(serial.read(5) & LSR_OVERRUN, LSR_OVERRUN);
        assert_eq!(serial.read(5) & LSR_OVERRUN, 0);
        assert_eq!(serial.state().input.len(), INPUT_BYTES);
        serial.write(2, 3);
        assert_eq!(serial.read(5) & LSR_READY, 0);
    }

    #[test]
    fn the_divisor_hides_behind_its_latch() {
        let (mut serial, seen) = port();
        serial.write(3, LCR_DIVISOR);
        serial.write(0, 0x34);
        serial.write(1, 0x12);
        assert_eq!((serial.read(0), serial.read(1)), (0x34, 0x12));
        serial.write(3, 3);
        assert_eq!((serial.read(1), serial.read(3)), (0, 3));
        assert!(seen.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_saved_port_goes_on_where_it_was() {
        let (mut serial, _) = port();
        serial.write(1, IER_RECEIVED);
        serial.receive(b"q");
        let text = serde_json::to_string(serial.state()).unwrap();
        let (mut other, seen) = port();
        other.set_state(serde_json::from_str(&text).unwrap());
        assert_eq!(seen.1.load(Ordering::Relaxed), 1);
        assert_eq!(other.read(0), b'q');
    }
}
