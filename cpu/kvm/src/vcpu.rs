//! One virtual CPU: its loop and its exits.

use std::sync::Arc;
use std::time::Duration;

use atoll_cpu_api::{Bus, CpuError, Request, Stop, Vcpu, VcpuHandle, VcpuState};
use atoll_memory::GuestMemory;
use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_MP_STATE_HALTED, KVM_SYSTEM_EVENT_RESET,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::error::host;
use crate::kick::Kick;
use crate::run_page::RunPage;
use crate::state::{self, INTERRUPT_FLAG, Shape};

/// How often a CPU is looked at whether or not it leaves the guest: one halted for ever sleeps in the kernel, which
/// does not report it.
const LOOK: Duration = Duration::from_secs(1);

/// A virtual CPU of the kernel.
#[derive(Debug)]
pub(crate) struct KvmVcpu {
    fd: VcpuFd,
    index: u8,
    shape: Arc<Shape>,
    kick: Arc<Kick>,
    /// The last exit was an access whose instruction the kernel completes when the CPU is entered again.
    unfinished: bool,
    /// A pause was asked for, and waits for that.
    pausing: bool,
    /// It was paused since it last ran.
    paused: bool,
    /// The kernel's slots point into it: it must not be unmapped before the CPU is gone.
    _memory: GuestMemory,
}

/// What an exit comes to.
enum Exit {
    /// Enter again.
    Again,
    /// Enter again, which completes the instruction that made the access.
    Access,
    /// A signal, or `immediate_exit`: whatever was unfinished is complete.
    Interrupted,
    Stop(Stop),
    InternalError,
    Unsupported(String),
}

impl KvmVcpu {
    pub(crate) fn new(
        fd: VcpuFd,
        index: u8,
        shape: Arc<Shape>,
        memory: GuestMemory,
    ) -> Result<Self, CpuError> {
        let kick = Arc::new(Kick::new(RunPage::new(&fd)?));
        Ok(Self {
            fd,
            index,
            shape,
            kick,
            unfinished: false,
            pausing: false,
            paused: false,
            _memory: memory,
        })
    }

    /// Takes what other threads asked for; says whether the CPU is to stop.
    fn attend(&mut self) -> Result<Option<Stop>, CpuError> {
        if self.kick.rearm() {
            if self.kick.attention.take(Request::Nmi) {
                self.fd.nmi().map_err(host("KVM_NMI"))?;
            }
            self.pausing |= self.kick.attention.take(Request::Pause);
        }
        if !self.pausing {
            return Ok(None);
        }
        if self.unfinished {
            // The next entry completes the instruction and comes back before another.
            self.kick.page.demand_exit();
            return Ok(None);
        }
        self.pausing = false;
        self.paused = true;
        Ok(Some(Stop::Paused))
    }

    /// Runs the guest until one exit.
    fn enter(&mut self, bus: &dyn Bus) -> Result<Exit, CpuError> {
        let exit = match self.fd.run() {
            Ok(exit) => exit,
            Err(error) => {
                return match error.errno() {
                    // EAGAIN: a CPU that waited for its start-up message has seen something.
                    libc::EINTR | libc::EAGAIN => Ok(Exit::Interrupted),
                    _ => Err(host("KVM_RUN")(error)),
                };
            }
        };
        Ok(match exit {
            // One exit holds all accesses of a `rep ins` or `rep outs` that the kernel gathered.
            VcpuExit::IoIn(port, data) => {
                for access in data.chunks_mut(self.kick.page.io_bytes()) {
                    bus.port_read(port, access);
                }
                Exit::Access
            }
            VcpuExit::IoOut(port, data) => {
                for access in data.chunks(self.kick.page.io_bytes()) {
                    bus.port_write(port, access);
                }
                Exit::Access
            }
            VcpuExit::MmioRead(address, data) => {
                bus.memory_read(address, data);
                Exit::Access
            }
            VcpuExit::MmioWrite(address, data) => {
                bus.memory_write(address, data);
                Exit::Access
            }
            VcpuExit::IoapicEoi(vector) => {
                bus.end_of_interrupt(vector);
                Exit::Again
            }
            VcpuExit::Intr | VcpuExit::IrqWindowOpen => Exit::Again,
            VcpuExit::Shutdown | VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => {
                Exit::Stop(Stop::TripleFault)
            }
            VcpuExit::InternalError => Exit::InternalError,
            VcpuExit::FailEntry(reason, cpu) => Exit::Unsupported(format!(
                "the processor refuses the guest's state (reason {reason:#x}, host CPU {cpu})"
            )),
            VcpuExit::SystemEvent(event, _) => Exit::Unsupported(format!("system event {event}")),
            other => Exit::Unsupported(format!("exit {other:?}")),
        })
    }

    /// Whether it halted with interrupts off, and no NMI waits.
    fn is_halted_for_ever(&self) -> Result<bool, CpuError> {
        let activity = self.fd.get_mp_state().map_err(host("KVM_GET_MP_STATE"))?;
        if activity.mp_state != KVM_MP_STATE_HALTED {
            return Ok(false);
        }
        let regs = self.fd.get_regs().map_err(host("KVM_GET_REGS"))?;
        let events = self.fd.get_vcpu_events();
        let events = events.map_err(host("KVM_GET_VCPU_EVENTS"))?;
        Ok(regs.rflags & INTERRUPT_FLAG == 0 && events.nmi.pending == 0)
    }

    fn unsupported(&self, what: String) -> CpuError {
        let rip = self.fd.get_regs().map_or(0, |regs| regs.rip);
        CpuError::Unsupported { rip, what }
    }

    /// What the kernel could not do, after KVM_EXIT_INTERNAL_ERROR.
    fn internal_error(&mut self) -> String {
        // SAFETY: both members of the union are plain integers, valid whatever the kernel wrote; the exit was an
        // internal error, for which these are the members in use.
        let (internal, emulation) = unsafe {
            let exit = &self.fd.get_kvm_run().__bindgen_anon_1;
            (exit.internal, exit.emulation_failure)
        };
        match internal.suberror {
            KVM_INTERNAL_ERROR_EMULATION => {
                // SAFETY: as above: integers only.
                let insn = unsafe { emulation.__bindgen_anon_1.__bindgen_anon_1 };
                let given = internal.ndata >= 3 && emulation.flags & 1 != 0;
                let len = if given {
                    usize::from(insn.insn_size)
                } else {
                    0
                };
                let bytes = insn.insn_bytes.iter().take(len);
                let text: String = bytes.map(|byte| format!(" {byte:02x}")).collect();
                format!("an instruction that KVM cannot emulate{text}")
            }
            KVM_INTERNAL_ERROR_SIMUL_EX => "two exceptions at once".to_owned(),
            KVM_INTERNAL_ERROR_DELIVERY_EV => {
                "an exit while an exception was being delivered".to_owned()
            }
            other => format!("KVM's internal error {other}"),
        }
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self, bus: &Arc<dyn Bus>) -> Result<Stop, CpuError> {
        let kick = Arc::clone(&self.kick);
        let _running = kick.enter(LOOK)?;
        self.shape.clock.release();
        if std::mem::take(&mut self.paused) {
            // Keeps the guest's watchdogs quiet. A guest without kvmclock has nothing to be told.
            let _ = self.fd.kvmclock_ctrl();
        }
        loop {
            if let Some(stop) = self.attend()? {
                return Ok(stop);
            }
            let exit = self.enter(&**bus)?;
            self.unfinished = matches!(exit, Exit::Access);
            match exit {
                Exit::Again | Exit::Access => {}
                Exit::Interrupted => {
                    let asked = self.pausing || self.kick.attention.is_raised();
                    if !asked && self.is_halted_for_ever()? {
                        return Ok(Stop::Halted);
                    }
                }
                Exit::Stop(stop) => return Ok(stop),
                Exit::InternalError => {
                    let what = self.internal_error();
                    return Err(self.unsupported(what));
                }
                Exit::Unsupported(what) => return Err(self.unsupported(what)),
            }
        }
    }

    fn state(&self) -> Result<VcpuState, CpuError> {
        state::read(&self.fd, &self.shape)
    }

    fn set_state(&mut self, state: &VcpuState) -> Result<(), CpuError> {
        state::write(&self.fd, &self.shape, self.index, state)
    }

    fn handle(&self) -> Arc<dyn VcpuHandle> {
        let kick: Arc<Kick> = Arc::clone(&self.kick);
        kick
    }
}
