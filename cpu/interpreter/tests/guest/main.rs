//! Small guests, written here, on the software CPU: what a system does that no user program can.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod code;
mod events;
mod learnt;
mod machine;
mod memory;
mod modes;
mod paravirtual_eoi;
