//! A machine for tests: identity-mapped memory, an IDT, a bus that records.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use atoll_cpu_api::{
    Activity, Bus, DescriptorTable, GeneralProtection, Hypervisor, InterruptController, Segment,
    Stop, Vcpu, VcpuState, VmConfig,
};
use atoll_interpreter::Soft;
use atoll_memory::{GuestMemory, Ram};
use iced_x86::code_asm::CodeAssembler;

/// Where code goes.
pub(crate) const CODE: u64 = 0x10_0000;
/// Where handlers go, one a page slot of 64 bytes a vector.
pub(crate) const HANDLERS: u64 = 0x2_0000;
/// Top of the stack.
pub(crate) const STACK: u64 = 0x9_0000;
/// The top page table; the others follow: one for 1 GiB, one for 2 MiB, one for 4 KiB pages of the first 2 MiB.
pub(crate) const TABLES: u64 = 0x1_0000;
/// The table of the first 2 MiB's pages.
pub(crate) const PAGES: u64 = TABLES + 0x3000;
const IDT: u64 = 0x2000;
const GDT: u64 = 0x1000;

/// What happened at a [`Line`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Happened {
    Taken(u8),
    Ended,
}

/// A controller whose one interrupt the test raises.
#[derive(Default)]
pub(crate) struct Line {
    raised: Mutex<Option<u8>>,
    happened: Mutex<Vec<Happened>>,
    end_can_wait: AtomicBool,
}

impl Line {
    /// Raises `vector`.
    pub(crate) fn raise(&self, vector: u8) {
        *self.raised.lock().unwrap() = Some(vector);
    }

    /// From now on, says so of the interrupts taken.
    pub(crate) fn let_ends_wait(&self) {
        self.end_can_wait.store(true, Ordering::Relaxed);
    }

    /// What happened so far.
    pub(crate) fn happened(&self) -> Vec<Happened> {
        self.happened.lock().unwrap().clone()
    }
}

impl InterruptController for Line {
    fn read_msr(&self, _msr: u32, _tsc: u64) -> Result<u64, GeneralProtection> {
        Err(GeneralProtection)
    }

    fn write_msr(&self, _msr: u32, _value: u64, _tsc: u64) -> Result<(), GeneralProtection> {
        Err(GeneralProtection)
    }

    fn deadline(&self) -> Option<u64> {
        None
    }

    fn tick(&self, _tsc: u64) {}

    fn is_pending(&self) -> bool {
        self.raised.lock().unwrap().is_some()
    }

    fn acknowledge(&self) -> Option<u8> {
        let vector = self.raised.lock().unwrap().take()?;
        self.happened.lock().unwrap().push(Happened::Taken(vector));
        Some(vector)
    }

    fn end_of_interrupt(&self) {
        self.happened.lock().unwrap().push(Happened::Ended);
    }

    fn end_can_wait(&self) -> bool {
        self.end_can_wait.load(Ordering::Relaxed)
    }

    fn task_priority(&self) -> u8 {
        0
    }

    fn set_task_priority(&self, _priority: u8) {}

    fn take_startup(&self) -> Option<u8> {
        None
    }
}

/// Records port writes; port reads give the port's low byte.
#[derive(Default)]
pub(crate) struct Recorder(pub(crate) Mutex<Vec<(u16, Vec<u8>)>>);

impl Bus for Recorder {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(port.to_le_bytes()[0]);
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        self.0.lock().unwrap().push((port, data.to_vec()));
    }

    fn memory_read(&self, address: u64, data: &mut [u8]) {
        data.copy_from_slice(&address.to_le_bytes()[..data.len()]);
    }

    fn memory_write(&self, address: u64, data: &[u8]) {
        self.0
            .lock()
            .unwrap()
            .push((0, [&address.to_le_bytes()[..], data].concat()));
    }
}

/// The machine.
pub(crate) struct Machine {
    pub(crate) memory: GuestMemory,
    pub(crate) ram: Ram,
    pub(crate) cpu: Box<dyn Vcpu>,
    pub(crate) line: Arc<Line>,
    pub(crate) recorder: Arc<Recorder>,
}

impl Machine {
    /// 4 MiB of memory, mapped at its own addresses, the first 2 MiB by 4 KiB pages; 64-bit mode, privilege 0,
    /// interrupts off, every vector's handler HLT with interrupts off.
    pub(crate) fn new() -> Self {
        let memory = GuestMemory::new(4 << 20).unwrap();
        let ram = memory.ram();
        ram.store(TABLES, TABLES + 0x1000 + 7);
        ram.store(TABLES + 0x1000, TABLES + 0x2000 + 7);
        ram.store(TABLES + 0x2000, PAGES + 7);
        ram.store(TABLES + 0x2008, 0x20_0087u64);
        for page in 0..512u64 {
            ram.store(PAGES + page * 8, page << 12 | 7);
        }
        ram.store(GDT + 8, 0x00AF_9B00_0000_FFFFu64);
        ram.store(GDT + 16, 0x00CF_9300_0000_FFFFu64);
        for vector in 0..256u64 {
            let handler = HANDLERS + vector * 64;
            ram.store(
                IDT + vector * 16,
                (handler & 0xFFFF) | 8 << 16 | 0x8E00 << 32 | (handler >> 16) << 48,
            );
            ram.store(handler, 0xF4u8);
        }
        let vm = Soft.create_vm(
            VmConfig {
                vcpus: 1,
                tsc_khz: None,
            },
            memory.clone(),
        );
        let line = Arc::new(Line::default());
        let cpu = vm
            .unwrap()
            .create_vcpu(0, Some(Arc::clone(&line) as _))
            .unwrap();
        let mut machine = Self {
            memory,
            ram,
            cpu,
            line,
            recorder: Arc::default(),
        };
        machine.change(|state| {
            let segment = |selector, attributes| Segment {
                selector,
                base: 0,
                limit: u32::MAX,
                attributes,
            };
            state.segments.cs = segment(8, 0xA09B);
            for data in [
                &mut state.segments.ds,
                &mut state.segments.es,
                &mut state.segments.ss,
                &mut state.segments.fs,
                &mut state.segments.gs,
            ] {
                *data = segment(16, 0xC093);
            }
            state.gdtr = DescriptorTable {
                base: GDT,
                limit: 0xFFF,
            };
            state.idtr = DescriptorTable {
                base: IDT,
                limit: 0xFFF,
            };
            state.cr0 = 0x8001_0033;
            state.cr3 = TABLES;
            state.cr4 = 0x620;
            state.efer = 0xD01;
            state.rip = CODE;
            state.registers[4] = STACK;
        });
        machine
    }

    /// Changes the CPU's state.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut VcpuState)) {
        let mut state = self.cpu.state().unwrap();
        change(&mut state);
        self.cpu.set_state(&state).unwrap();
    }

    /// Makes the CPU run at `address`, also when it had halted.
    pub(crate) fn start_at(&mut self, address: u64) {
        self.change(|state| {
            state.rip = address;
            state.activity = Activity::Running;
        });
    }

    /// The CPU's state.
    pub(crate) fn state(&self) -> VcpuState {
        self.cpu.state().unwrap()
    }

    /// Puts code at `address`, for 64-bit mode.
    pub(crate) fn put(&self, address: u64, write: impl FnOnce(&mut CodeAssembler)) {
        self.put_bits(address, 64, write);
    }

    /// Puts code of any width at `address`.
    pub(crate) fn put_bits(&self, address: u64, bits: u32, write: impl FnOnce(&mut CodeAssembler)) {
        let mut assembler = CodeAssembler::new(bits).unwrap();
        write(&mut assembler);
        self.ram
            .write(address, &assembler.assemble(address).unwrap());
    }

    /// The handler of `vector` becomes `write`'s code.
    pub(crate) fn handle(&self, vector: u8, write: impl FnOnce(&mut CodeAssembler)) {
        self.put(HANDLERS + u64::from(vector) * 64, write);
    }

    /// Runs until something stops the CPU.
    pub(crate) fn run(&mut self) -> Stop {
        let bus: Arc<dyn Bus> = Arc::clone(&self.recorder) as _;
        self.cpu.run(&bus).unwrap()
    }

    /// Runs to a HLT with interrupts off.
    pub(crate) fn run_to_halt(&mut self) -> VcpuState {
        assert_eq!(self.run(), Stop::Halted);
        self.state()
    }

    /// The vector in whose handler the CPU halted.
    pub(crate) fn halted_in(&self) -> u64 {
        (self.state().rip - 1 - HANDLERS) / 64
    }
}
