//! The x87 floating-point unit.

mod unit;

pub use unit::X87;
