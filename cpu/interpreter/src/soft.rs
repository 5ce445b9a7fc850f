//! The software CPU behind the traits of every backend.

use std::fs::File;
use std::sync::Arc;

use atoll_cpu_api::{
    Activity, Attention, Bus, CpuError, CpuidLeaf, Fpu, Hypervisor, InterruptController, Processor,
    Request, Stop, TscClock, Vcpu, VcpuHandle, VcpuState, Vm, VmConfig,
};
use atoll_memory::{GuestMemory, Ram};
use atoll_x86::cpuid::{self, Identity};
use atoll_x86::flags::Flags;

use crate::block::{Cache, FetchedPages};
use crate::cpu::{Cpu, Mode, Pending};
use crate::fpu::FpuState;
use crate::handlers::Handlers;
use crate::msr::Msrs;
use crate::paging::Paging;
use crate::peers::Peers;
use crate::run;
use crate::state::{NO_SEGMENT, NO_TABLE};
use crate::tlb::{Context, Tlb};

/// Frequency of the guest's TSC unless asked otherwise: a tick a nanosecond.
const TSC_KHZ: u32 = 1_000_000;

/// CPUs in software: work on every host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Soft;

struct SoftVm {
    config: VmConfig,
    ram: Ram,
    clock: TscClock,
    peers: Arc<Peers>,
}

struct SoftVcpu {
    cpu: Cpu,
    cache: Cache,
}

struct Handle(Arc<Attention>);

impl Hypervisor for Soft {
    fn name(&self) -> &'static str {
        "soft"
    }

    fn create_vm(&self, config: VmConfig, memory: GuestMemory) -> Result<Arc<dyn Vm>, CpuError> {
        Ok(Arc::new(SoftVm {
            config,
            ram: memory.ram(),
            clock: TscClock::new(0, config.tsc_khz.unwrap_or(TSC_KHZ)),
            peers: Arc::new(Peers::new(config.vcpus)),
        }))
    }
}

impl Vm for SoftVm {
    fn create_vcpu(
        &self,
        index: u8,
        controller: Option<Arc<dyn InterruptController>>,
    ) -> Result<Box<dyn Vcpu>, CpuError> {
        let mut cpu = Cpu::new(self, controller);
        (cpu.index, cpu.cpus) = (index, self.config.vcpus);
        let activity = if index == 0 {
            Activity::Running
        } else {
            Activity::WaitingForStartup
        };
        cpu.restore(&VcpuState {
            activity,
            tsc: self.clock.now(),
            ..VcpuState::default()
        })?;
        Ok(Box::new(SoftVcpu {
            cpu,
            cache: Cache::new(),
        }))
    }

    fn tsc_khz(&self) -> u32 {
        self.clock.khz()
    }

    fn processor(&self) -> Processor {
        let identity = Identity {
            apic_id: 0,
            cpus: self.config.vcpus,
            tsc_khz: self.clock.khz(),
            osxsave: false,
        };
        let leaf = |&(function, index): &(u32, u32)| {
            let leaf = cpuid::leaf(function, index, identity);
            let registers = [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx];
            CpuidLeaf {
                function,
                index,
                registers,
            }
        };
        Processor(cpuid::LEAVES.iter().map(leaf).collect())
    }
}

impl Vcpu for SoftVcpu {
    fn run(&mut self, bus: &Arc<dyn Bus>) -> Result<Stop, CpuError> {
        self.cpu.bus = Arc::clone(bus);
        run::run(&mut self.cpu, &mut self.cache)
    }

    fn state(&self) -> Result<VcpuState, CpuError> {
        Ok(self.cpu.save())
    }

    fn set_state(&mut self, state: &VcpuState) -> Result<(), CpuError> {
        self.cpu.restore(state)
    }

    fn handle(&self) -> Arc<dyn VcpuHandle> {
        Arc::new(Handle(Arc::clone(&self.cpu.attention)))
    }

    fn forget_code(&mut self) {
        self.cache.clear(&mut self.cpu);
    }

    fn code(&self) -> Option<Vec<u8>> {
        Some(self.cache.save(&self.cpu))
    }

    fn has_all_code(&self) -> bool {
        self.cache.has_all()
    }

    fn check_code(&mut self) {
        self.cache.check(&self.cpu);
    }

    fn learn_code(&mut self, file: &File, at: u64) -> bool {
        self.cache.load(&mut self.cpu, file, at)
    }

    fn instructions(&self) -> Option<u64> {
        Some(self.cpu.instructions)
    }
}

impl VcpuHandle for Handle {
    fn interrupt(&self) {
        self.0.raise(Request::Interrupt);
    }

    fn pause(&self) {
        self.0.raise(Request::Pause);
    }

    fn nmi(&self) {
        self.0.raise(Request::Nmi);
    }

    fn startup(&self) {
        self.0.raise(Request::Startup);
    }
}

/// A bus with nothing on it, until a run brings one.
struct NoBus;

impl Bus for NoBus {
    fn port_read(&self, _port: u16, data: &mut [u8]) {
        data.fill(0xFF);
    }

    fn port_write(&self, _port: u16, _data: &[u8]) {}

    fn memory_read(&self, _address: u64, data: &mut [u8]) {
        data.fill(0xFF);
    }

    fn memory_write(&self, _address: u64, _data: &[u8]) {}
}

impl Cpu {
    /// All zero; a state is restored before anything runs.
    fn new(vm: &SoftVm, controller: Option<Arc<dyn InterruptController>>) -> Self {
        Self {
            regs: [0; 32],
            flags: Flags::default(),
            system_flags: 0,
            rip: 0,
            seg_base: [0; 8],
            context: Context::SupervisorUserAccess,
            system_context: Context::SupervisorUserAccess,
            ram: vm.ram.clone(),
            tlb: Tlb::new(),
            paging: Paging {
                enabled: false,
                root: 0,
                write_protect: false,
                no_execute: false,
                smep: false,
                global: false,
            },
            cpl: 0,
            mode: Mode::Bits16,
            pending: Pending::None,
            not_done: 0,
            fault_address: 0,
            non_canonical: false,
            alone: false,
            budget: 0,
            end_is_offered: false,
            interrupt_hint: false,
            shadow: false,
            step_traps: false,
            nmi_blocked: false,
            activity: Activity::Running,
            local_generation: 1,
            global_generation: 2,
            last_generation: 2,
            fetched_pages: FetchedPages::default(),
            forgotten_page: None,
            has_rested: false,
            decoded: Vec::new(),
            handlers: Handlers::new(),
            segments: [NO_SEGMENT; 6],
            ldtr: NO_SEGMENT,
            tr: NO_SEGMENT,
            gdtr: NO_TABLE,
            idtr: NO_TABLE,
            cr0: 0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            xcr0: 1,
            dr: [0; 8],
            msrs: Msrs::default(),
            fpu: FpuState::from(&Fpu::default()),
            index: 0,
            cpus: 1,
            peers: Arc::clone(&vm.peers),
            clock: vm.clock,
            tsc_offset: 0,
            controller,
            attention: Arc::new(Attention::default()),
            bus: Arc::new(NoBus),
            instructions: 0,
        }
    }
}
