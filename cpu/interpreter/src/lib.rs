//! An x86-64 CPU in software, the model x86-64-v2.
//!
//! ```text
//!   run ── events (interrupts, timers, requests)
//!    │
//!    └─ block::Cache ── miss ─► build: bytes ─ iced-x86 ─► Instruction ─ lower ─► Op
//!         │ hit
//!         └─ for each Op: its handler in exec/ ── memory ─► tlb ── miss ─► paging
//!                              │                                └ no memory ─► Bus
//!                              └ meaning of the instruction: atoll-x86, pure
//! ```
//!
//! One thread runs one CPU and nothing here is shared but guest memory; other threads reach it through
//! [`VcpuHandle`](atoll_cpu_api::VcpuHandle). It knows no device. It is written to be a security boundary: no unsafe
//! code, and every access to memory is checked twice, by the guest's page tables and against the memory's bounds.
//!
//! Not there: paging outside long mode, hardware tasks and call gates, virtual 8086 mode, hardware breakpoints. A guest
//! that wants one of these stops with [`CpuError::Unsupported`](atoll_cpu_api::CpuError::Unsupported).

#![forbid(unsafe_code)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "taking the low part of a value is what most instructions do"
)]

mod block;
mod build;
mod code;
mod cpu;
mod exception;
mod exec;
mod fpu;
mod handlers;
mod lower;
mod memory;
mod msr;
mod op;
mod operand;
mod paging;
mod paravirtual_eoi;
mod peers;
mod run;
mod segment;
mod soft;
mod state;
mod store;
mod tlb;

pub use soft::Soft;
