//! What the guest's first process and the host say to each other ([`protocol`]), and how ([`Lines`]); and the reader of
//! what they say of processes ([`processes`]).
//!
//! The process itself is this package's program, `atoll-guest`.

#![forbid(unsafe_code)]

mod lines;
pub mod processes;
pub mod protocol;

pub use lines::Lines;
