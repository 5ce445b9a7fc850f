//! A machine's state, saved and restored (docs/formats/machine-snapshot.md).

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use atoll_cpu_api::VcpuState;
use atoll_memory::GuestMemory;
use atoll_platform::{APIC_BASE_MSR, IoApicState, SerialState, TSC_DEADLINE_MSR};
use atoll_virtio::{RestoreError, TransportState};
use serde::{Deserialize, Serialize};

use super::Machine;
use crate::error::MachineError;

/// Version of the format; a reader takes its own only.
pub const SNAPSHOT_VERSION: u32 = 1;

const STATE_FILE: &str = "state.json";
const MEMORY_FILE: &str = "memory";
/// Bytes copied at once; a stretch of zeros this long becomes a hole.
const CHUNK: usize = 64 * 1024;

/// Everything about a machine but its memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`SNAPSHOT_VERSION`].
    pub version: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Frequency of the guest's TSC in kHz.
    pub tsc_khz: u32,
    /// virtio devices, in the order of their addresses.
    pub devices: Vec<TransportState>,
    /// Nanoseconds of the paravirtual clock; `None` from a backend that derives it from the TSC.
    pub guest_clock: Option<u64>,
    /// The CPUs, with their local APICs.
    pub cpus: Vec<VcpuState>,
    /// The I/O APIC.
    pub ioapic: IoApicState,
    /// The serial port.
    pub serial: SerialState,
}

impl Snapshot {
    /// Reads the state in `folder` and opens its memory as a private copy: pages are shared with the file until the
    /// guest writes them.
    ///
    /// # Errors
    /// [`MachineError::Io`]; [`MachineError::Snapshot`] for another version or damaged files.
    pub fn open(folder: &Path) -> Result<(Self, GuestMemory), MachineError> {
        let failed = |name: &str| MachineError::io(format!("read {}", folder.join(name).display()));
        let text = std::fs::read(folder.join(STATE_FILE)).map_err(failed(STATE_FILE))?;
        let damaged = |why: serde_json::Error| MachineError::Snapshot(why.to_string());
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(&text).map_err(damaged)?;
        if version != SNAPSHOT_VERSION {
            return Err(MachineError::Snapshot(format!(
                "its format is version {version}, this program takes {SNAPSHOT_VERSION}"
            )));
        }
        let snapshot: Self = serde_json::from_slice(&text).map_err(damaged)?;
        let memory = File::open(folder.join(MEMORY_FILE)).map_err(failed(MEMORY_FILE))?;
        let bytes = memory.metadata().map_err(failed(MEMORY_FILE))?.len();
        if bytes != snapshot.memory_bytes {
            return Err(MachineError::Snapshot(format!(
                "its memory file has {bytes} bytes, not {}",
                snapshot.memory_bytes
            )));
        }
        let memory = GuestMemory::private_copy_of(memory, bytes)?;
        Ok((snapshot, memory))
    }
}

impl Machine {
    /// Saves the machine, which is paused, into `folder`, which is made when needed.
    ///
    /// The state is written last and renamed into place: a folder with a state is whole.
    ///
    /// # Errors
    /// [`MachineError::Io`], [`MachineError::Cpu`].
    pub fn save(&self, folder: &Path) -> Result<(), MachineError> {
        let snapshot = self.snapshot()?;
        let failed = || MachineError::io(format!("write {}", folder.display()));
        std::fs::create_dir_all(folder).map_err(failed())?;
        self.write_memory(&folder.join(MEMORY_FILE))
            .map_err(failed())?;
        let text =
            serde_json::to_vec(&snapshot).map_err(|why| MachineError::Snapshot(why.to_string()))?;
        let fresh = folder.join("state.new");
        let mut file = File::create(&fresh).map_err(failed())?;
        file.write_all(&text).map_err(failed())?;
        std::fs::rename(&fresh, folder.join(STATE_FILE)).map_err(failed())
    }

    /// Puts a machine that was just made, with the memory [`Snapshot::open`] gave, into a saved state.
    ///
    /// # Errors
    /// [`MachineError::Snapshot`] when the machine is another; [`MachineError::Cpu`] when the backend refuses a state.
    pub fn restore(&self, snapshot: &Snapshot) -> Result<(), MachineError> {
        let (cpus, saved) = (self.vcpus.len(), snapshot.cpus.len());
        if cpus != saved {
            let why = format!("it has {saved} CPUs, this machine {cpus}");
            return Err(MachineError::Snapshot(why));
        }
        let (devices, saved) = (self.board.devices.len(), snapshot.devices.len());
        if devices != saved {
            let why = format!("it has {saved} devices, this machine {devices}");
            return Err(MachineError::Snapshot(why));
        }
        if snapshot.tsc_khz != self.vm.tsc_khz() {
            let why = format!("its TSC runs at {} kHz", snapshot.tsc_khz);
            return Err(MachineError::Snapshot(why));
        }
        for (index, state) in snapshot.cpus.iter().enumerate() {
            self.vcpu(index).set_state(state)?;
            if let Some(apics) = self.board.interrupts.local_apics() {
                let msr = |number| state.msrs.get(&number).copied().unwrap_or(0);
                let (base, deadline) = (msr(APIC_BASE_MSR), msr(TSC_DEADLINE_MSR));
                apics
                    .lock(index)
                    .restore(&state.local_apic, base, deadline, state.tsc);
                self.handles[index].interrupt();
            }
        }
        self.board.interrupts.restore(snapshot.ioapic.clone());
        for (device, state) in self.board.devices.iter().zip(&snapshot.devices) {
            let failed = |why: RestoreError| MachineError::Snapshot(why.to_string());
            device.restore(state).map_err(failed)?;
            device.resume();
        }
        self.board.serial().set_state(snapshot.serial.clone());
        if let (Some(clock), Some(accelerated)) = (snapshot.guest_clock, self.vm.accelerated()) {
            accelerated.set_guest_clock(clock)?;
        }
        Ok(())
    }

    fn snapshot(&self) -> Result<Snapshot, MachineError> {
        let mut cpus = Vec::new();
        for index in 0..self.vcpus.len() {
            let mut state = self.vcpu(index).state()?;
            if let Some(apics) = self.board.interrupts.local_apics() {
                let apic = apics.lock(index);
                state.local_apic = apic.save(state.tsc);
                state.msrs.insert(APIC_BASE_MSR, apic.base());
                state.msrs.insert(TSC_DEADLINE_MSR, apic.tsc_deadline());
                state.cr8 = u64::from(apic.task_priority());
            }
            cpus.push(state);
        }
        let guest_clock = match self.vm.accelerated() {
            Some(accelerated) => Some(accelerated.guest_clock()?),
            None => None,
        };
        Ok(Snapshot {
            version: SNAPSHOT_VERSION,
            memory_bytes: self.memory.len(),
            tsc_khz: self.vm.tsc_khz(),
            devices: self
                .board
                .devices
                .iter()
                .map(|device| device.save())
                .collect(),
            guest_clock,
            cpus,
            ioapic: self.board.interrupts.save(),
            serial: self.board.serial().state().clone(),
        })
    }

    /// Writes the memory with holes where it is zero.
    fn write_memory(&self, path: &Path) -> io::Result<()> {
        let ram = self.memory.ram();
        let file = File::create(path)?;
        file.set_len(self.memory.len())?;
        let mut buffer = vec![0; CHUNK];
        let mut offset = 0;
        while offset < self.memory.len() {
            let left = self.memory.len() - offset;
            let chunk = &mut buffer[..CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
            ram.read(offset, chunk);
            if chunk.iter().any(|byte| *byte != 0) {
                file.write_all_at(chunk, offset)?;
            }
            offset += chunk.len() as u64;
        }
        Ok(())
    }
}
