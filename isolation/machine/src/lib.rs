//! The virtual machine monitor.

#![forbid(unsafe_code)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "x86-64 only, and registers are cut from wider values on purpose"
)]

pub mod boot;
mod error;
pub mod initramfs;
pub mod kernel;

pub use error::{MachineError, NotAKernel};
