//! The ACPI tables that describe the board to the guest.
//!
//! Source: ACPI 6.5 chapters 5 (tables) and 20 (AML).

mod aml;
mod tables;

pub use tables::{Board, MmioDevice, tables};
