//! Local APICs: one processor's ([`LocalApic`]), and all of a machine's with the messages between them
//! ([`LocalApics`]).
//!
//! Source: Intel SDM vol. 3 chapter 11 (Advanced Programmable Interrupt Controller).

mod all;
mod local;
mod registers;
mod timer;

pub use all::{LocalApics, Processors};
pub use local::{Effect, Ipi, LocalApic, RegisterFault};
pub use registers::{APIC_BASE, APIC_BASE_MSR, PAGE_BYTES, TSC_DEADLINE_MSR};
