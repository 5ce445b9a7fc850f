//! What a PC has on its board: serial port, local and I/O APIC, clock chip, power, and the ACPI tables that tell the
//! guest about all of it.
//!
//! ```text
//!   port or address ─► Serial │ Rtc │ Power │ IoApic │ LocalApics        (one call, one answer)
//!   Serial ─► InterruptLine ─► IoApic::set_pin ─► Message ─► LocalApics::deliver ─► Processors (the CPU looks)
//!   what is on the board ─► acpi::Tables ─► bytes in guest memory
//! ```
//!
//! The state machines take time as an argument or from a closure and give their effects as values, so that tests need
//! neither threads nor clocks. Everything a guest writes is taken: what means nothing is ignored, as a chip would.
//!
//! The board is that of ACPI's hardware-reduced profile (ACPI 6.5 §3.11.1): no PIT, no PIC, no PM1 registers; a stock
//! Linux kernel then leaves all of them alone.
//!
//! This crate knows no CPU, no file and no thread.

#![forbid(unsafe_code)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "registers are narrower than the values they are cut from"
)]

pub mod acpi;
mod apic;
mod ioapic;
mod power;
mod rtc;
mod serial;

pub use apic::{
    APIC_BASE, APIC_BASE_MSR, Effect, Ipi, LocalApic, LocalApics, PAGE_BYTES, Processors,
    RegisterFault, TSC_DEADLINE_MSR,
};
pub use ioapic::{IOAPIC_BASE, IoApic, IoApicState, Message, PINS};
pub use power::{POWER_PORT, Power, PowerRequest, RESET_PORT};
pub use rtc::{RTC_PORT, Rtc, RtcState};
pub use serial::{COM1_PIN, COM1_PORT, InterruptLine, Serial, SerialState};
