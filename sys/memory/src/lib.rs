//! A guest's memory, seen by three parties: devices (through `vm-memory`'s traits), software CPUs (through [`Ram`],
//! plain loads and stores at an offset) and KVM (through the host addresses of its regions).
//!
//! ```text
//!   guest physical   [0 ........ low_end)   hole for devices   [4 GiB ........ )
//!   offset           [0 ........ low_end)[low_end ............................ )   one memfd, one mapping
//! ```
//!
//! The memory is hostile: the guest and every CPU change it at any time. Nothing here hands out a reference into it;
//! values are copied in and out.
//!
//! [`CodePages`] remembers which 64-byte pieces of which pages a software CPU has decoded, so that a write to them,
//! by a CPU or by a device, makes the decoded form stale.
//!
//! [`Records`] are no guest's: memory of ours for many small things, the first of which may be a file's.
//!
//! It never executes, translates addresses or knows a device.

#![expect(
    unsafe_code,
    reason = "guest memory: one mapping, read and written at checked offsets"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "x86-64 only: usize is u64; halves of a u128 are meant"
)]

pub mod code_pages;
mod io;
mod memory;
mod ram;
mod records;
mod value;

pub use code_pages::{CodePages, PageTracker};
pub use io::{
    GuestSlice, MAX_SLICES, read_vectored, read_vectored_at, write_vectored, write_vectored_at,
};
pub use memory::{GuestMemory, HIGH_BASE, LOW_LIMIT, MemoryError, PAGE, Region};
pub use ram::Ram;
pub use records::Records;
pub use value::Value;
