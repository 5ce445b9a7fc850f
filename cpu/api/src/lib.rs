//! What the machine monitor asks of a CPU backend, whichever it is, and what a backend asks of the machine.
//!
//! ```text
//!   monitor ── Hypervisor::create_vm ─► Vm ── create_vcpu ─► Vcpu ── run(bus) ─► Stop
//!                                                             │ ports, memory-mapped I/O ─► Bus (the monitor's devices)
//!                                                             │ local APIC (software CPUs) ─► InterruptController
//!   another thread ── Attention::raise ──────────────────────►│ leaves its loop, wakes from HLT
//! ```
//!
//! [`VcpuState`] is one format for all backends: a state saved on one continues on another, and two can be compared.
//!
//! This crate executes nothing and knows no device.

#![forbid(unsafe_code)]

mod attention;
mod bus;
mod clock;
mod processor;
mod state;
mod vcpu;

pub use attention::{Attention, Request};
pub use bus::{Bus, GeneralProtection, InterruptController};
pub use clock::TscClock;
pub use processor::{CpuidLeaf, Mismatch, Processor};
pub use state::{Activity, DescriptorTable, Fpu, Segment, Segments, VcpuState, X87};
pub use vcpu::{
    Accelerated, CpuError, Hypervisor, IO_APIC_PINS, Msi, Stop, Vcpu, VcpuHandle, Vm, VmConfig,
};
