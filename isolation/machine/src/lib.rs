//! The virtual machine monitor.

#![forbid(unsafe_code)]

mod error;
pub mod kernel;

pub use error::{MachineError, NotAKernel};
