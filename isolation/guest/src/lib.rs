//! What the guest's first process and the host say to each other ([`protocol`]), and how ([`Lines`]).
//!
//! The process itself is this package's program, `atoll-guest`.

#![forbid(unsafe_code)]

mod lines;
pub mod protocol;

pub use lines::Lines;
