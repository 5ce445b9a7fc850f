//! The x87 floating-point unit: [`X87`] is its state, each instruction a method of it.
//!
//! Methods that give something to store come before the store: the caller writes it to memory, and pops when that has
//! succeeded. Exceptions that are not masked leave the unit with [`X87::has_pending_exception`], which the next waiting
//! instruction reports as #MF.

mod arithmetic;
mod compare;
mod image;
mod number;
mod series;
mod transcendental;
mod transfer;
mod unit;

pub use arithmetic::{Arithmetic, Memory, Source};
pub use image::{Layout, REGISTERS};
pub use transfer::{Constant, Width};
pub use unit::X87;
