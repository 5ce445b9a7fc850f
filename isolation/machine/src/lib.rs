//! Virtual machines: a kernel in, a running guest out.
//!
//! ```text
//!   vmlinuz ─► kernel (uncompressed once, kept) ─┐
//!   atoll-guest, modules ─► initramfs ───────────┼─► boot::prepare ─► guest memory, first CPU's state
//!   ACPI tables (devices/platform) ──────────────┘                          │
//!   backend (cpu/interpreter or cpu/kvm) ─► Machine: CPU threads ─► bus ─► devices
//!                                             └─ ends: power off, reset, death with the console's last lines
//! ```
//!
//! Threads: one each CPU, one that passes the console's output on; the owner's calls may come from any. When a CPU's
//! thread ends, the machine ends. Nothing here is told to the user: errors carry hints as data.
//!
//! This crate emulates no device and executes no instruction.

#![forbid(unsafe_code)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "x86-64 only, and registers are cut from wider values on purpose"
)]

pub mod boot;
mod config;
pub mod devices;
mod error;
pub mod host;
pub mod initramfs;
pub mod jail;
pub mod kernel;
mod machine;
pub mod protocol;

pub use config::{Backend, BootSource, Disk, Jail, NetworkCard, Share, Sockets, Source, VmmConfig};
pub use error::{MachineError, NotAKernel, OtherProcessor};
pub use machine::{End, MAX_DEVICES, Machine, MachineConfig, SNAPSHOT_VERSION, Snapshot, learn};
