//! Small guests: memory with tables, a program, a bus that records.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use atoll_cpu_api::{
    Bus, DescriptorTable, Hypervisor, Segment, Segments, Stop, Vcpu, VcpuHandle, VcpuState, Vm,
    VmConfig,
};
use atoll_kvm::Kvm;
use atoll_memory::GuestMemory;
use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;

pub(crate) const MEMORY_BYTES: u64 = 1 << 20;
/// Where programs are.
pub(crate) const CODE: u64 = 0x8000;
/// Where handlers of exceptions and interrupts are.
pub(crate) const HANDLER: u64 = 0x9000;
/// A page that programs may use as they like.
pub(crate) const DATA: u64 = 0x10000;
pub(crate) const STACK: u64 = 0x7FF0;
/// A write to this port pauses the CPU: the program is done.
pub(crate) const DONE: u32 = 0xF0;
/// Guest physical addresses from here on are no memory.
pub(crate) const MMIO: u64 = 0xD000_0000;

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const GDT: u64 = 0x3000;
const IDT: u64 = 0x4000;
/// No guest here needs longer; one that hangs fails its test.
const PATIENCE: Duration = Duration::from_secs(9);

/// What the guest did on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    PortRead(u16, usize),
    PortWrite(u16, Vec<u8>),
    MemoryRead(u64, usize),
    MemoryWrite(u64, Vec<u8>),
    EndOfInterrupt(u8),
}

/// Records accesses; reads give the low bytes of 0x8877665544332211.
pub(crate) struct Recorder {
    pub(crate) accesses: Mutex<Vec<Access>>,
    /// Each access, also to whoever waits for it.
    sender: Mutex<Sender<Access>>,
    done: Mutex<Option<Arc<dyn VcpuHandle>>>,
}

impl Recorder {
    fn note(&self, access: Access) {
        self.accesses.lock().unwrap().push(access.clone());
        // Most tests don't wait for anything.
        let _ = self.sender.lock().unwrap().send(access);
    }
}

fn answer(data: &mut [u8]) {
    for (to, from) in data.iter_mut().zip(0x8877_6655_4433_2211_u64.to_le_bytes()) {
        *to = from;
    }
}

impl Bus for Recorder {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        answer(data);
        self.note(Access::PortRead(port, data.len()));
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        if u32::from(port) == DONE {
            self.done.lock().unwrap().as_ref().unwrap().pause();
            return;
        }
        self.note(Access::PortWrite(port, data.to_vec()));
    }

    fn memory_read(&self, address: u64, data: &mut [u8]) {
        answer(data);
        self.note(Access::MemoryRead(address, data.len()));
    }

    fn memory_write(&self, address: u64, data: &[u8]) {
        self.note(Access::MemoryWrite(address, data.to_vec()));
    }

    fn end_of_interrupt(&self, vector: u8) {
        self.note(Access::EndOfInterrupt(vector));
    }
}

/// A machine with a program in it.
pub(crate) struct Guest {
    pub(crate) memory: GuestMemory,
    pub(crate) vm: Arc<dyn Vm>,
    pub(crate) vcpu: Box<dyn Vcpu>,
    pub(crate) bus: Arc<Recorder>,
    /// Accesses as they happen.
    pub(crate) events: Receiver<Access>,
}

/// A program's source.
pub(crate) type Assembled = Result<(), IcedError>;

impl Guest {
    /// A machine of one CPU that begins `program` in a mode of so many `bits`: 16, 32 or 64.
    pub(crate) fn new(bits: u32, program: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Self {
        let memory = GuestMemory::new(MEMORY_BYTES).unwrap();
        let mut guest = Self::over(memory, 1);
        guest.place(CODE, bits, program);
        guest.vcpu.set_state(&state(bits)).unwrap();
        guest
    }

    /// A machine of `vcpus` CPUs over `memory`; its first is in the state after reset.
    pub(crate) fn over(memory: GuestMemory, vcpus: u8) -> Self {
        tables(&memory);
        let kvm = Kvm::open().expect("this test needs /dev/kvm, accelerating or not");
        let config = VmConfig {
            vcpus,
            tsc_khz: None,
        };
        let vm = kvm.create_vm(config, memory.clone()).unwrap();
        let vcpu = vm.create_vcpu(0, None).unwrap();
        let (sender, events) = channel();
        let bus = Arc::new(Recorder {
            accesses: Mutex::default(),
            sender: Mutex::new(sender),
            done: Mutex::new(Some(vcpu.handle())),
        });
        Self {
            memory,
            vm,
            vcpu,
            bus,
            events,
        }
    }

    /// Puts a program at `address`.
    pub(crate) fn place(
        &mut self,
        address: u64,
        bits: u32,
        program: impl FnOnce(&mut CodeAssembler) -> Assembled,
    ) {
        let mut assembler = CodeAssembler::new(bits).unwrap();
        program(&mut assembler).unwrap();
        let code = assembler.assemble(address).unwrap();
        self.memory.ram().write(address, &code);
    }

    /// Runs until the CPU stops.
    pub(crate) fn run(&mut self) -> Stop {
        run(&mut *self.vcpu, &self.bus)
    }

    /// Runs until the program says that it is done.
    pub(crate) fn run_to_end(&mut self) {
        assert_eq!(self.run(), Stop::Paused);
    }

    /// What happened on the bus so far.
    pub(crate) fn accesses(&self) -> Vec<Access> {
        self.bus.accesses.lock().unwrap().clone()
    }
}

/// Waits for the guest's next access.
pub(crate) fn next(events: &Receiver<Access>) -> Access {
    events
        .recv_timeout(PATIENCE)
        .expect("the guest does nothing")
}

/// Runs `vcpu`; a guest that does not stop in time fails the test.
pub(crate) fn run(vcpu: &mut dyn Vcpu, bus: &Arc<Recorder>) -> Stop {
    let bus: Arc<dyn Bus> = Arc::<Recorder>::clone(bus);
    let handle = vcpu.handle();
    let (stopped, stop) = channel::<()>();
    thread::scope(|scope| {
        let watch = scope.spawn(move || {
            let late = stop.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
            if late {
                handle.pause();
            }
            late
        });
        let result = vcpu.run(&bus);
        drop(stopped);
        assert!(
            !watch.join().unwrap(),
            "the guest hangs: {:#x?}",
            vcpu.state()
        );
        result.unwrap()
    })
}

fn segment(selector: u16, attributes: u16) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        attributes,
    }
}

/// The state in which a program of so many `bits` begins: ring 0, interrupts off, all memory and the hole mapped.
pub(crate) fn state(bits: u32) -> VcpuState {
    let reset = VcpuState::default();
    let table = |base, limit| DescriptorTable { base, limit };
    let mut state = VcpuState {
        rip: CODE,
        ..reset.clone()
    };
    state.registers[4] = STACK;
    if bits == 16 {
        state.segments.cs = Segment {
            selector: 0,
            base: 0,
            limit: 0xFFFF,
            attributes: 0x9B,
        };
        return state;
    }
    let data = segment(0x10, 0xC093);
    state.segments = Segments {
        es: data,
        cs: segment(0x08, if bits == 64 { 0xA09B } else { 0xC09B }),
        ss: data,
        ds: data,
        fs: data,
        gs: data,
        ..reset.segments
    };
    state.gdtr = table(GDT, 0x17);
    state.cr0 = 0x31;
    if bits == 64 {
        state.idtr = table(IDT, 0xFFF);
        state.cr0 = 0x8001_0033;
        state.cr3 = PML4;
        state.cr4 = 0x620;
        state.efer = 0x500;
    }
    state
}

/// Page tables that map the lowest 4 GiB as they are, descriptors, and one gate a vector, all to [`HANDLER`] plus 64
/// bytes a vector.
fn tables(memory: &GuestMemory) {
    const DIRECTORIES: u64 = 0xA000;
    let ram = memory.ram();
    ram.store(PML4, PDPT | 7);
    for giga in 0..4 {
        let directory = DIRECTORIES + giga * 0x1000;
        ram.store(PDPT + 8 * giga, directory | 7);
        for large in 0..512 {
            let address = giga << 30 | large << 21;
            ram.store(directory + 8 * large, address | 0x87);
        }
    }
    for (at, descriptor) in [0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF_u64]
        .into_iter()
        .enumerate()
    {
        ram.store(GDT + 8 * at as u64, descriptor);
    }
    for vector in 0..64 {
        let handler = HANDLER + 64 * vector;
        // 64-bit interrupt gate: offset, selector 8, present.
        let low = handler & 0xFFFF | 0x08 << 16 | 0x8E00 << 32 | (handler >> 16 & 0xFFFF) << 48;
        ram.store(IDT + 16 * vector, low);
        ram.store(IDT + 16 * vector + 8, 0u64);
    }
}

/// Where the handler of `vector` is.
pub(crate) fn handler(vector: u8) -> u64 {
    HANDLER + 64 * u64::from(vector)
}
