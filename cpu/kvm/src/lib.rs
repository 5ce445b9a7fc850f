//! The hardware-assisted backend: guests executed by the host's processor through `/dev/kvm`.
//!
//! ```text
//!   Kvm::open ─► probe(): a small guest runs for some milliseconds, says whether KVM is worth using
//!        │
//!        └► create_vm ─► machine: memory slots, split irqchip, irqfd and ioeventfd, dirty log
//!                           └► create_vcpu ─► vCPU: CPUID filtered, run(bus) ─► exits become calls of the bus
//!                                               └► handle: pause and NMI by immediate_exit and a signal
//! ```
//!
//! Local APICs are in the kernel, I/O APIC and every other device in user space. [`VcpuState`] is
//! translated both ways, so that a guest moves between this backend and the software CPU.
//!
//! Threads: none of its own; a virtual CPU runs on whichever thread calls `run`. Signals: `SIGRTMIN` gets a handler
//! that does nothing, process-wide, when the first virtual CPU is made; `run` unblocks it for its thread and arms a
//! timer that sends it once a second. System calls of devices called on such a thread may be interrupted by it.
//!
//! This crate emulates no device and decides nothing about the machine's layout but [`TSS_BASE`].
//!
//! Kernel interface: Documentation/virt/kvm/api.rst.
//!
//! [`VcpuState`]: atoll_cpu_api::VcpuState

#![expect(
    unsafe_code,
    reason = "memory slots, the shared page of a vCPU, its TSC's offset, signals to a thread"
)]

mod clock;
mod cpuid;
mod error;
mod hypervisor;
mod kick;
mod machine;
mod probe;
mod run_page;
mod state;
mod vcpu;

pub use hypervisor::{Kvm, TSS_BASE};
pub use probe::{MINIMUM_MIPS, Probe, Unusable, probe};
