//! Machines and virtual CPUs, whichever backend executes them.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use atoll_memory::GuestMemory;
use thiserror::Error;

use crate::bus::{Bus, InterruptController};
use crate::processor::Processor;
use crate::state::VcpuState;

/// Why a backend could not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CpuError {
    /// The backend cannot be used on this host.
    #[error("{backend}: {reason}")]
    Unavailable {
        /// `kvm` or `soft`.
        backend: &'static str,
        /// What is missing.
        reason: String,
    },
    /// The host's kernel refused.
    #[error("{what} failed")]
    Host {
        /// The operation, in the kernel's own name.
        what: &'static str,
        /// Its reason.
        #[source]
        source: std::io::Error,
    },
    /// The guest did what this backend cannot execute.
    #[error("the guest did what this backend cannot do at {rip:#x}: {what}")]
    Unsupported {
        /// Where.
        rip: u64,
        /// What.
        what: String,
    },
    /// The guest's TSC cannot run as fast as it has to.
    #[error(
        "the guest's TSC runs at {wanted_khz} kHz, this processor's at {host_khz} kHz, and it cannot scale it"
    )]
    Tsc {
        /// What the guest needs.
        wanted_khz: u32,
        /// What there is.
        host_khz: u32,
    },
    /// A state that no processor can have.
    #[error("not a CPU state: {0}")]
    State(&'static str),
}

/// Why a virtual CPU left its loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// Asked to by [`Request::Pause`](crate::Request::Pause); it can go on.
    Paused,
    /// A triple fault: the processor shut down. Machines treat it as a reset.
    TripleFault,
    /// Halted with interrupts off: nothing but an NMI or INIT could ever wake it.
    Halted,
}

/// A message-signalled interrupt (Intel SDM vol. 3 §11.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// Destination and mode.
    pub address: u64,
    /// Vector and delivery.
    pub data: u32,
}

/// What every machine has to tell its backend.
#[derive(Clone, Copy, Debug)]
pub struct VmConfig {
    /// Number of virtual CPUs, at least 1.
    pub vcpus: u8,
    /// Frequency of the guest's TSC in kHz; `None` leaves it to the backend.
    pub tsc_khz: Option<u32>,
}

/// A way to execute guests on this host.
pub trait Hypervisor: Send + Sync {
    /// `kvm` or `soft`.
    fn name(&self) -> &'static str;

    /// Makes a machine with `memory` and no CPU yet.
    ///
    /// # Errors
    /// [`CpuError::Host`] when the kernel refuses.
    fn create_vm(&self, config: VmConfig, memory: GuestMemory) -> Result<Arc<dyn Vm>, CpuError>;
}

/// One machine of a backend.
pub trait Vm: Send + Sync {
    /// Makes virtual CPU `index`, which is also its APIC id, in the state after reset.
    ///
    /// * `controller`: its local APIC, unless [`Vm::accelerated`] says that the backend has its own.
    ///
    /// # Errors
    /// [`CpuError::Host`] when the kernel refuses.
    fn create_vcpu(
        &self,
        index: u8,
        controller: Option<Arc<dyn InterruptController>>,
    ) -> Result<Box<dyn Vcpu>, CpuError>;

    /// What the backend takes off the machine's hands; `None` for a CPU in software.
    fn accelerated(&self) -> Option<&dyn Accelerated> {
        None
    }

    /// Frequency of the guest's TSC in kHz.
    fn tsc_khz(&self) -> u32;

    /// What CPUID tells the guest.
    fn processor(&self) -> Processor;
}

/// Pins of a machine's I/O APIC.
pub const IO_APIC_PINS: u32 = 24;

/// What a hardware-assisted backend does itself: local APICs, and events without leaving the kernel.
pub trait Accelerated: Send + Sync {
    /// Delivers a message-signalled interrupt.
    ///
    /// # Errors
    /// [`CpuError::Host`] when the kernel refuses it.
    fn signal_msi(&self, msi: Msi) -> Result<(), CpuError>;

    /// From now on, each event on `event` (borrowed for the call only) fires pin `pin` (below [`IO_APIC_PINS`]): what
    /// [`Accelerated::describe_pin`] last said is delivered, without this process. While the pin is masked, events are
    /// lost, as edges are at an I/O APIC. Once for each pin.
    ///
    /// # Errors
    /// [`CpuError::Host`] when the kernel refuses it.
    fn connect_pin(&self, pin: u8, event: BorrowedFd<'_>) -> Result<(), CpuError>;

    /// Pin `pin` (below [`IO_APIC_PINS`]) of the machine's I/O APIC sends `msi` when it fires; `None` when it is
    /// masked. The end of a level-triggered one is then reported to [`Bus::end_of_interrupt`]. Call when the guest
    /// wrote the pin's redirection entry; the pins of lines that no event stands for are fired by
    /// [`Accelerated::signal_msi`].
    ///
    /// # Errors
    /// [`CpuError::Host`] when the kernel refuses it.
    fn describe_pin(&self, pin: u8, msi: Option<Msi>) -> Result<(), CpuError>;

    /// From now on, a 4-byte write of `value` to guest physical `address` signals `event` (borrowed for the call only)
    /// and does not reach the bus.
    ///
    /// # Errors
    /// [`CpuError::Host`] when the kernel refuses it.
    fn connect_doorbell(
        &self,
        address: u64,
        value: u32,
        event: BorrowedFd<'_>,
    ) -> Result<(), CpuError>;

    /// Nanoseconds that the guest's paravirtual clock (kvmclock) shows now. To save a machine, call it before the CPUs'
    /// states are read, and after they stopped: until one runs again, [`Vcpu::state`] gives the TSC of the same moment,
    /// where the host can.
    ///
    /// # Errors
    /// [`CpuError::Host`] when the kernel does not give it.
    fn guest_clock(&self) -> Result<u64, CpuError>;

    /// Sets the guest's paravirtual clock. To restore a machine, call it before the CPUs' states are set, and when all of
    /// them exist: until one runs, [`Vcpu::set_state`] sets a TSC that has gone on since, as this clock has.
    ///
    /// # Errors
    /// [`CpuError::Host`] when the kernel refuses it.
    fn set_guest_clock(&self, nanoseconds: u64) -> Result<(), CpuError>;

    /// Starts or stops recording which pages the CPUs write.
    ///
    /// # Errors
    /// [`CpuError::Host`] when the kernel refuses it.
    fn record_dirty_pages(&self, on: bool) -> Result<(), CpuError>;

    /// Takes the pages written by CPUs since the last call: one bit a page, lowest first, in the order of the memory's
    /// offsets ([`atoll_memory::Region::offset`]). What devices write is not in it.
    ///
    /// # Errors
    /// [`CpuError::Host`] when nothing is recorded.
    fn take_dirty_pages(&self) -> Result<Vec<u64>, CpuError>;
}

/// A handle by which other threads reach a virtual CPU that runs.
pub trait VcpuHandle: Send + Sync {
    /// Tells it to look at its interrupt controller.
    fn interrupt(&self);
    /// Makes it leave [`Vcpu::run`] with [`Stop::Paused`] soon; if it is not running, as soon as it runs.
    fn pause(&self);
    /// Delivers a non-maskable interrupt.
    fn nmi(&self);
    /// An INIT or start-up message is waiting in its controller. Only for CPUs in software.
    fn startup(&self);
}

/// One virtual CPU. Runs on one thread at a time.
pub trait Vcpu: Send {
    /// Executes the guest until something stops it; accesses that are not memory go to `bus`.
    ///
    /// # Errors
    /// [`CpuError`] when it cannot go on; the state is then that before the instruction at fault.
    fn run(&mut self, bus: &Arc<dyn Bus>) -> Result<Stop, CpuError>;

    /// Its whole state. Call only while it does not run.
    ///
    /// # Errors
    /// [`CpuError::Host`] when the kernel does not give it.
    fn state(&self) -> Result<VcpuState, CpuError>;

    /// Replaces its whole state.
    ///
    /// # Errors
    /// [`CpuError::State`] when no processor can have it.
    fn set_state(&mut self, state: &VcpuState) -> Result<(), CpuError>;

    /// Forgets the code it has decoded: what [`Vcpu::code`] gives from now on is executed from now on. Nothing to do for
    /// hardware.
    fn forget_code(&mut self) {}

    /// The code it has decoded, for a CPU of this very program with the same memory; `None` from hardware.
    fn code(&self) -> Option<Vec<u8>> {
        None
    }

    /// Whether that is all it has executed since it was made, told to forget or learnt some.
    fn has_all_code(&self) -> bool {
        false
    }

    /// Forgets what its memory does not say of the code that it learnt: what is left is as if it had decoded it itself, and
    /// need not be trusted.
    fn check_code(&mut self) {}

    /// Takes over code that [`Vcpu::code`] gave, before it runs: what it executes of that it need not decode. False when it
    /// cannot be used.
    ///
    /// * `file`: has it from byte `at` on, a multiple of a page, to its end. It may neither change nor shrink while the CPU
    ///   lives, which reads what it needs when it needs it.
    ///
    /// The bytes are trusted as much as the program: wrong ones have the guest execute something else.
    fn learn_code(&mut self, _file: &File, _at: u64) -> bool {
        false
    }

    /// How other threads reach it.
    fn handle(&self) -> Arc<dyn VcpuHandle>;

    /// Instructions executed so far, where the backend counts them.
    fn instructions(&self) -> Option<u64> {
        None
    }
}
