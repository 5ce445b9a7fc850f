//! A CPU backend: cases run in the user mode of a small guest of ours.
//!
//! Each exception's handler writes to a port, which pauses the CPU: RIP then says which vector it was, and the frame on
//! the kernel's stack holds what the registers no longer do. (HLT would do, but KVM's own local APIC waits in it.)

mod quiet;
mod tables;
mod watchdog;

use std::sync::Arc;

use atoll_cpu_api::{Bus, CpuError, Hypervisor, Stop, Vcpu, VcpuState, Vm, VmConfig};
use atoll_memory::{GuestMemory, PAGE, Ram};

use self::quiet::Quiet;
use self::watchdog::Watchdog;
use crate::case::{Case, Changes, End, OUTPUT_FLAGS, Outcome, State};
use crate::layout::{self, CODE, DATA_LEN, FILL};

/// A machine with one CPU that executes cases.
pub struct Guest {
    vcpu: Box<dyn Vcpu>,
    _vm: Arc<dyn Vm>,
    bus: Arc<dyn Bus>,
    quiet: Arc<Quiet>,
    watchdog: Watchdog,
    ram: Ram,
    entry: VcpuState,
    background: Vec<u8>,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Guest {
    /// Makes the machine.
    ///
    /// # Errors
    /// [`CpuError`] when the backend refuses.
    pub fn new(backend: &dyn Hypervisor) -> Result<Self, CpuError> {
        let memory = GuestMemory::new(tables::MEMORY).map_err(|error| CpuError::Host {
            what: "memory of the judge's guest",
            source: std::io::Error::other(error),
        })?;
        let ram = memory.ram();
        let background = layout::background();
        let (read_only, data) = background.split_at(layout::PAGE);
        tables::load(&ram, read_only);
        let config = VmConfig {
            vcpus: 1,
            tsc_khz: None,
        };
        let vm = backend.create_vm(config, memory)?;
        let quiet = Arc::new(Quiet::default());
        let vcpu = match vm.accelerated() {
            Some(_) => vm.create_vcpu(0, None)?,
            None => vm.create_vcpu(0, Some(quiet.clone()))?,
        };
        quiet.connect(vcpu.handle());
        let watchdog = Watchdog::new(vcpu.handle());
        // What the CPU has after reset and a case doesn't set.
        let reset = vcpu.state()?;
        let entry = VcpuState {
            tsc: reset.tsc,
            msrs: reset.msrs,
            local_apic: reset.local_apic,
            ..tables::user_state()
        };
        Ok(Self {
            vcpu,
            _vm: vm,
            bus: quiet.clone(),
            quiet,
            watchdog,
            ram,
            entry,
            background: data.to_vec(),
            before: vec![0; DATA_LEN],
            after: vec![0; DATA_LEN],
        })
    }

    /// Executes one case, which is [valid](Case::is_valid). Whatever goes wrong is an outcome, too.
    pub fn run(&mut self, case: &Case) -> Outcome {
        self.set_memory(case);
        self.set_entry(&case.state);
        let stop = match self.vcpu.set_state(&self.entry) {
            Ok(()) => {
                self.watchdog.begin();
                let stop = self.vcpu.run(&self.bus);
                self.watchdog.end();
                stop
            }
            Err(error) => Err(error),
        };
        let touched_bus = self.quiet.take_touched();
        let by_handler = self.quiet.take_stopped();
        let mut outcome = match stop {
            Ok(stop) if touched_bus => {
                ended(End::Lost(format!("{stop:?} after access to the bus")))
            }
            Ok(Stop::Paused) if by_handler => self.stopped(),
            Ok(Stop::Paused) => ended(End::Endless),
            Ok(stop) => ended(End::Lost(format!("{stop:?}"))),
            Err(CpuError::Unsupported { what, .. }) => ended(End::Unsupported(what)),
            Err(error) => ended(End::Lost(error.to_string())),
        };
        self.ram.read(tables::DATA_AT, &mut self.after);
        outcome.changes = Changes::between(&self.before, &self.after);
        outcome
    }

    /// Puts the case's code and data into the guest.
    fn set_memory(&mut self, case: &Case) {
        self.before.copy_from_slice(&self.background);
        for patch in &case.patches {
            let start = usize::from(patch.offset);
            self.before[start..start + patch.bytes.len()].copy_from_slice(&patch.bytes);
        }
        self.ram.write(tables::DATA_AT, &self.before);
        self.ram
            .code_pages()
            .written(tables::DATA_AT, DATA_LEN as u64);
        let mut page = [FILL; PAGE as usize];
        let start = (case.state.rip - CODE) as usize;
        page[start..start + case.code.len()].copy_from_slice(&case.code);
        self.ram.write(tables::CODE_AT, &page);
        self.ram.code_pages().written(tables::CODE_AT, PAGE);
    }

    fn set_entry(&mut self, state: &State) {
        let entry = &mut self.entry;
        entry.registers = state.registers;
        entry.rip = state.rip;
        entry.rflags = state.rflags | 0x202;
        entry.segments.fs.base = state.fs_base;
        entry.segments.gs.base = state.gs_base;
        entry.fpu = state.fpu.clone();
        entry.cr2 = 0;
    }

    /// The outcome after a handler stopped the CPU.
    fn stopped(&self) -> Outcome {
        let state = match self.vcpu.state() {
            Ok(state) => state,
            Err(error) => return ended(End::Lost(error.to_string())),
        };
        let Some(vector) = tables::vector_of(state.rip) else {
            return ended(End::Lost(format!("stopped at {:#x}", state.rip)));
        };
        let words = if tables::has_error_code(vector) { 6 } else { 5 };
        if state.registers[4] != tables::STACK_END - 8 * words {
            let rsp = state.registers[4];
            return ended(End::Lost(format!("vector {vector} with RSP {rsp:#x}")));
        }
        // From the stack's end down: SS, RSP, RFLAGS, CS, RIP, error code.
        let frame = |word: u64| self.ram.load::<u64>(tables::STACK_END_AT - 8 * word);
        let mut registers = state.registers;
        registers[4] = frame(2);
        let mut fpu = state.fpu;
        (fpu.opcode, fpu.instruction, fpu.operand) = (0, 0, 0);
        Outcome {
            end: End::Exception {
                vector,
                error: if words == 6 { frame(6) } else { 0 },
                address: if vector == 14 { state.cr2 } else { 0 },
            },
            state: State {
                registers,
                rip: frame(5),
                rflags: frame(3) & OUTPUT_FLAGS,
                fs_base: state.segments.fs.base,
                gs_base: state.segments.gs.base,
                fpu,
            },
            changes: Changes::default(),
        }
    }
}

/// An outcome without a state.
fn ended(end: End) -> Outcome {
    Outcome {
        end,
        state: State::default(),
        changes: Changes::default(),
    }
}
