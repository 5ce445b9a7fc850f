//! A machine: memory, CPUs and devices put together, run, paused and ended.
//!
//! ```text
//!   owner ── start, pause, resume, stop, input ─► Control, Serial
//!   thread of each CPU: Control::may_run ─► Vcpu::run(CpuBus) ─► Stop ─┐
//!                             ▲────────────────────────────────────────┘
//!   CpuBus ─► Serial ─► Console ─► its thread ─► the owner's output
//!          ─► Interrupts (I/O APIC ─► local APICs, ours or the backend's)
//!          ─► MmioTransport ◄─ Watch: a thread for host ends and, with KVM, doorbells
//! ```

mod bus;
mod cards;
pub(crate) mod code;
mod console;
mod control;
mod controller;
mod interrupts;
mod learn;
mod snapshot;
mod watch;

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_cpu_api::{
    Bus, Hypervisor, InterruptController, Stop, TscClock, Vcpu, VcpuHandle, Vm, VmConfig,
};
use atoll_memory::GuestMemory;
use atoll_platform::acpi::{self, MmioDevice};
use atoll_platform::{COM1_PIN, PINS, Rtc, Serial};
use atoll_virtio::{MmioTransport, VirtioDevice, WINDOW};

pub use learn::learn;
pub use snapshot::{SNAPSHOT_VERSION, Snapshot};
pub(crate) use snapshot::{create_at, remove_state};

use crate::boot;
use crate::error::MachineError;
use crate::kernel::Kernel;
use crate::protocol::Activity;
use bus::{Board, CpuBus, DEVICES_BASE};
use console::Console;
use control::{Control, Outcome};
use controller::Controller;
use interrupts::{Interrupts, Pin};
use watch::Watch;

/// The pin of the first virtio device; the others follow.
const FIRST_DEVICE_PIN: u8 = 5;
/// virtio devices a machine can have.
pub const MAX_DEVICES: usize = (PINS - FIRST_DEVICE_PIN) as usize;
/// How long CPUs may take to come out of the guest.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a machine has, besides its devices.
#[derive(Clone, Copy, Debug)]
pub struct MachineConfig {
    /// Virtual CPUs, at least 1.
    pub cpus: u8,
    /// Frequency of the guest's TSC in kHz; `None` leaves it to the backend.
    pub tsc_khz: Option<u32>,
    /// Places behind its devices that network cards are plugged into ([`Machine::plug`]).
    pub spare_cards: u8,
}

/// How a machine ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest powered off.
    PowerOff,
    /// The guest asked for a reset, or its processor shut down after a triple fault.
    Reset,
    /// [`Machine::stop`] ended it.
    Stopped,
}

type SharedVcpu = Arc<Mutex<Box<dyn Vcpu>>>;

/// A virtual machine. Dropping it ends it.
pub struct Machine {
    memory: GuestMemory,
    vm: Arc<dyn Vm>,
    board: Arc<Board>,
    console: Console,
    control: Arc<Control>,
    vcpus: Vec<SharedVcpu>,
    handles: Vec<Arc<dyn VcpuHandle>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The thread that works for the devices; it ends when this is dropped.
    watch: Watch,
    /// Held while network cards are exchanged.
    exchange: Mutex<()>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("memory", &self.memory.len())
            .field("cpus", &self.vcpus.len())
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// Puts a machine together. Nothing runs yet.
    ///
    /// * `output`: takes what the guest writes to its serial console, on a thread of its own.
    ///
    /// # Errors
    /// [`MachineError::TooManyDevices`], [`MachineError::Cpu`] when the backend refuses, [`MachineError::Io`].
    pub fn new(
        config: MachineConfig,
        hypervisor: &dyn Hypervisor,
        memory: GuestMemory,
        devices: Vec<Box<dyn VirtioDevice>>,
        output: Box<dyn Write + Send>,
    ) -> Result<Self, MachineError> {
        let places = usize::from(config.spare_cards);
        let (count, limit) = (devices.len() + places, MAX_DEVICES);
        if count > limit {
            return Err(MachineError::TooManyDevices { count, limit });
        }
        let vm_config = VmConfig {
            vcpus: config.cpus,
            tsc_khz: config.tsc_khz,
        };
        let vm = hypervisor.create_vm(vm_config, memory.clone())?;
        let control = Arc::new(Control::new(usize::from(config.cpus)));
        let shared = Arc::new(OnceLock::new());
        let interrupts = Interrupts::new(&vm, config.cpus, &shared, &control);
        let mut transports = Vec::with_capacity(count);
        for (pin, device) in (FIRST_DEVICE_PIN..).zip(devices) {
            let line = interrupts.device_line(pin)?;
            transports.push(Arc::new(MmioTransport::new(device, memory.clone(), line)));
        }
        let watch = Watch::new(&transports, vm.accelerated(), &control)?;
        let console = Console::new(output).map_err(MachineError::io("start a thread"))?;
        let pin = Pin {
            interrupts: Arc::clone(&interrupts),
            number: COM1_PIN,
        };
        let mut vcpus = Vec::new();
        let mut handles = Vec::new();
        for index in 0..config.cpus {
            let controller = interrupts.local_apics().map(|apics| {
                let controller = Controller::new(Arc::clone(apics), usize::from(index));
                Arc::new(controller) as Arc<dyn InterruptController>
            });
            let vcpu = vm.create_vcpu(index, controller)?;
            handles.push(vcpu.handle());
            vcpus.push(Arc::new(Mutex::new(vcpu)));
        }
        // Set once, here.
        let _ = shared.set(handles.clone());
        let board = Board {
            serial: Mutex::new(Serial::new(Box::new(console.clone()), Box::new(pin))),
            rtc: Mutex::new(Rtc::new(Box::new(unix_seconds))),
            interrupts,
            devices: transports,
            places: (0..places).map(|_| OnceLock::new()).collect(),
            control: Arc::clone(&control),
            clock: TscClock::new(0, vm.tsc_khz()),
        };
        Ok(Self {
            memory,
            vm,
            board: Arc::new(board),
            console,
            control,
            vcpus,
            handles,
            threads: Mutex::default(),
            watch,
            exchange: Mutex::default(),
        })
    }

    /// Loads a kernel; the first CPU will begin at its entry. Call once, before [`Machine::start`], on fresh memory.
    ///
    /// # Errors
    /// As [`boot::prepare`]; [`MachineError::Cpu`] when the backend refuses the state.
    pub fn load(
        &self,
        kernel: &mut Kernel,
        initrd: Option<&[u8]>,
        command_line: &str,
    ) -> Result<(), MachineError> {
        let windows = self.board.devices.len() + self.board.places.len();
        let devices: Vec<_> = (0..windows as u32)
            .map(|number| MmioDevice {
                base: DEVICES_BASE as u32 + number * WINDOW as u32,
                len: WINDOW as u32,
                pin: FIRST_DEVICE_PIN + number as u8,
            })
            .collect();
        let board = acpi::Board {
            processors: self.vcpus.len() as u8,
            devices: &devices,
        };
        let state = boot::prepare(&self.memory, kernel, initrd, command_line, &board)?;
        self.vcpu(0).set_state(&state)?;
        Ok(())
    }

    /// Starts the CPUs' threads and lets them run.
    ///
    /// # Errors
    /// [`MachineError::Io`] when there can be no thread; the machine has ended then.
    pub fn start(&self) -> Result<(), MachineError> {
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            let bus = CpuBus {
                board: Arc::clone(&self.board),
                index,
                handle: Arc::clone(&self.handles[index]),
            };
            let (vcpu, control) = (Arc::clone(vcpu), Arc::clone(&self.control));
            let started = thread::Builder::new()
                .name(format!("cpu{index}"))
                .spawn(move || execute(index, &vcpu, &(Arc::new(bus) as Arc<dyn Bus>), &control));
            match started {
                Ok(thread) => self.threads().push(thread),
                Err(error) => {
                    self.stop();
                    return Err(MachineError::io("start a thread")(error));
                }
            }
        }
        self.resume();
        Ok(())
    }

    /// Stops the CPUs and devices where they are; says whether they are stopped. `false` when the machine has ended.
    pub fn pause(&self) -> bool {
        self.control.pause();
        self.handles.iter().for_each(|handle| handle.pause());
        self.control.wait_parked(PAUSE_TIMEOUT)
    }

    /// Whether it runs.
    pub fn activity(&self) -> Activity {
        self.control.activity()
    }

    /// How many CPUs it has.
    pub fn cpus(&self) -> u8 {
        self.vcpus.len() as u8
    }

    /// Lets the CPUs go on.
    pub fn resume(&self) {
        self.control.resume();
    }

    /// Ends the machine, whatever the guest is doing.
    pub fn stop(&self) {
        self.control.end(Outcome::Stopped);
        self.handles.iter().for_each(|handle| handle.pause());
    }

    /// Passes `bytes` to the guest's serial console as input.
    pub fn input(&self, bytes: &[u8]) {
        self.board.serial().receive(bytes);
    }

    /// Tells the guest that the configuration of virtio device `index` (its place in the devices given to
    /// [`Machine::new`]) changed: after a balloon was asked for something, or a terminal has another size.
    pub fn config_changed(&self, index: usize) {
        if let Some(device) = self.board.devices.get(index) {
            device.config_changed();
        }
    }

    /// Waits for the end of the machine, and until its console's output is written.
    ///
    /// # Errors
    /// [`MachineError::Dead`] with the console's last lines when the kernel panicked or no CPU can run again;
    /// [`MachineError::Cpu`] when the backend gave up.
    pub fn wait(&self) -> Result<End, MachineError> {
        self.control.wait_ended();
        self.handles.iter().for_each(|handle| handle.pause());
        for thread in std::mem::take(&mut *self.threads()) {
            // A thread that panicked has said so; the machine ended by its guard.
            let _ = thread.join();
        }
        self.console.close();
        let outcome = self.control.take_outcome().unwrap_or(Outcome::Stopped);
        match outcome {
            Outcome::PowerOff => Ok(End::PowerOff),
            Outcome::Stopped => Ok(End::Stopped),
            Outcome::Failed(error) => Err(error.into()),
            Outcome::Reset => match self.panic() {
                Some(reason) => Err(self.dead(reason)),
                None => Ok(End::Reset),
            },
            Outcome::AllHalted => {
                let halted = "all its CPUs have halted with interrupts off";
                Err(self.dead(self.panic().unwrap_or_else(|| halted.to_owned())))
            }
        }
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The console's last lines.
    pub fn last_lines(&self) -> Vec<String> {
        self.console.last_lines()
    }

    /// Instructions executed by all CPUs, where the backend counts them. Waits for CPUs that run.
    pub fn instructions(&self) -> Option<u64> {
        (0..self.vcpus.len())
            .map(|index| self.vcpu(index).instructions())
            .sum()
    }

    /// What the kernel said when it panicked, if it did.
    fn panic(&self) -> Option<String> {
        let lines = self.console.last_lines();
        let line = lines
            .iter()
            .rfind(|line| line.contains("Kernel panic - "))?;
        let start = line.find("Kernel panic - ")?;
        Some(line[start..].to_owned())
    }

    fn dead(&self, reason: String) -> MachineError {
        let console = self.console.last_lines();
        MachineError::Dead { reason, console }
    }

    fn vcpu(&self, index: usize) -> MutexGuard<'_, Box<dyn Vcpu>> {
        let vcpu = &self.vcpus[index];
        vcpu.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
        let _ = self.wait();
    }
}

/// What the thread of CPU `index` does.
fn execute(index: usize, vcpu: &SharedVcpu, bus: &Arc<dyn Bus>, control: &Control) {
    /// Ends the machine should this thread panic: a machine without a CPU would hang.
    struct Guard<'a>(&'a Control);
    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            if thread::panicking() {
                self.0.end(Outcome::AllHalted);
            }
        }
    }
    let _guard = Guard(control);
    while control.may_run(index) {
        let mut vcpu = vcpu.lock().unwrap_or_else(PoisonError::into_inner);
        match vcpu.run(bus) {
            Ok(Stop::Paused) => {}
            Ok(Stop::TripleFault) => control.end(Outcome::Reset),
            Ok(Stop::Halted) => control.halt(index),
            Ok(_) => control.end(Outcome::AllHalted),
            Err(error) => control.end(Outcome::Failed(error)),
        }
    }
}

fn unix_seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod device_tests;
#[cfg(test)]
mod tests;
