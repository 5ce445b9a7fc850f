//! The meaning of x86-64 instructions as pure functions over plain values: no memory, no guest, no loop.
//!
//! It never touches guest memory and never executes; `cpu/interpreter` does.

#![forbid(unsafe_code)]
