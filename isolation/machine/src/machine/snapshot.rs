//! A machine's state, saved and restored (docs/formats/machine-snapshot.md).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use atoll_cpu_api::{Processor, VcpuState};
use atoll_memory::GuestMemory;
use atoll_platform::{APIC_BASE_MSR, IoApicState, RtcState, SerialState, TSC_DEADLINE_MSR};
use atoll_virtio::{RestoreError, TransportState};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::code::Code;
use super::{Machine, MachineConfig, code};
use crate::config::Backend;
use crate::error::{MachineError, OtherProcessor};

/// Version of the format; a reader takes its own only.
pub const SNAPSHOT_VERSION: u32 = 1;

const STATE_FILE: &str = "state.json";
const NEW_STATE_FILE: &str = "state.new";
const MEMORY_FILE: &str = "memory";
pub(super) const CODE_FILE: &str = "code";
/// Bytes copied at once; a stretch of zeros this long becomes a hole.
const CHUNK: u64 = 64 * 1024;

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
    /// What the guest has been told of its processor; empty in snapshots of earlier programs.
    #[serde(default)]
    pub processor: Processor,
    /// The CPUs, with their local APICs.
    pub cpus: Vec<VcpuState>,
    /// The I/O APIC.
    pub ioapic: IoApicState,
    /// The serial port.
    pub serial: SerialState,
    /// The clock chip.
    #[serde(default)]
    pub rtc: RtcState,
    /// Code that the first CPU had decoded, when this very program wrote it: in a file of its own.
    #[serde(skip)]
    code: Option<Code>,
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
        let mut snapshot: Self = serde_json::from_slice(&text).map_err(damaged)?;
        let memory = File::open(folder.join(MEMORY_FILE)).map_err(failed(MEMORY_FILE))?;
        let bytes = memory.metadata().map_err(failed(MEMORY_FILE))?.len();
        if bytes != snapshot.memory_bytes {
            return Err(MachineError::Snapshot(format!(
                "its memory file has {bytes} bytes, not {}",
                snapshot.memory_bytes
            )));
        }
        let memory = GuestMemory::private_copy_of(memory, bytes)?;
        snapshot.code = Code::open(&folder.join(CODE_FILE));
        Ok((snapshot, memory))
    }

    /// Who executed it, and has to go on with it.
    #[must_use]
    pub fn backend(&self) -> Backend {
        match self.guest_clock {
            Some(_) => Backend::Kvm,
            None => Backend::Soft,
        }
    }

    /// The machine to make for it.
    ///
    /// # Errors
    /// [`MachineError::Snapshot`] when no machine has as many CPUs.
    pub fn shape(&self) -> Result<MachineConfig, MachineError> {
        let cpus = u8::try_from(self.cpus.len()).ok().filter(|cpus| *cpus > 0);
        let cpus =
            cpus.ok_or_else(|| MachineError::Snapshot(format!("it has {} CPUs", self.cpus.len())))?;
        Ok(MachineConfig {
            cpus,
            tsc_khz: Some(self.tsc_khz),
            spare_cards: 0,
        })
    }
}

impl Machine {
    /// Saves the machine, which is paused, into `folder`.
    ///
    /// A state that was there goes first, and the new one is written last and renamed into place: a folder with a state
    /// is whole.
    ///
    /// # Errors
    /// [`MachineError::Snapshot`] when it has other network cards than at first; [`MachineError::Io`],
    /// [`MachineError::Cpu`].
    pub fn save(&self, folder: BorrowedFd<'_>) -> Result<(), MachineError> {
        if !self.has_its_first_cards() {
            return Err(MachineError::Snapshot(
                "network cards were plugged in or out since it began".to_owned(),
            ));
        }
        let snapshot = self.snapshot()?;
        let failed = |name: &str| MachineError::io(format!("write {name} of the saved machine"));
        remove_state(folder).map_err(failed(STATE_FILE))?;
        create_at(folder, MEMORY_FILE)
            .and_then(|file| self.write_memory(&file))
            .map_err(failed(MEMORY_FILE))?;
        remove_at(folder, CODE_FILE).map_err(failed(CODE_FILE))?;
        if let Some(code) = self.vcpu(0).code() {
            create_at(folder, CODE_FILE)
                .and_then(|file| code::write(&file, &code))
                .map_err(failed(CODE_FILE))?;
        }
        let text =
            serde_json::to_vec(&snapshot).map_err(|why| MachineError::Snapshot(why.to_string()))?;
        create_at(folder, NEW_STATE_FILE)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| {
                rustix::fs::renameat(folder, NEW_STATE_FILE, folder, STATE_FILE).map_err(Into::into)
            })
            .map_err(failed(STATE_FILE))
    }

    /// Has the CPUs of the machine, which is paused, forget the code they decoded: what is saved later was executed since.
    pub fn forget_code(&self) {
        for index in 0..self.vcpus.len() {
            self.vcpu(index).forget_code();
        }
    }

    /// Puts a machine that was just made, with the memory [`Snapshot::open`] gave, into a saved state.
    ///
    /// # Errors
    /// [`MachineError::Snapshot`] when the machine is another, [`MachineError::OtherProcessor`] when the guest needs what
    /// is not here; [`MachineError::Cpu`] when the backend refuses a state.
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
        snapshot
            .processor
            .fits(&self.vm.processor())
            .map_err(|why| MachineError::OtherProcessor(OtherProcessor(why)))?;
        if snapshot.tsc_khz != self.vm.tsc_khz() {
            let why = format!("its TSC runs at {} kHz", snapshot.tsc_khz);
            return Err(MachineError::Snapshot(why));
        }
        // Before the CPUs: the guest compares it with their TSCs, which are set to go on from the same moment.
        if let (Some(clock), Some(accelerated)) = (snapshot.guest_clock, self.vm.accelerated()) {
            accelerated.set_guest_clock(clock)?;
        }
        for (index, state) in snapshot.cpus.iter().enumerate() {
            self.vcpu(index).set_state(state)?;
            if let Some(code) = &snapshot.code {
                // Without it the guest is slower at first.
                code.teach(&mut **self.vcpu(index));
            }
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
        self.board.rtc().set_state(&snapshot.rtc);
        Ok(())
    }

    fn snapshot(&self) -> Result<Snapshot, MachineError> {
        // Before the CPUs: the TSCs are then of the same moment.
        let guest_clock = match self.vm.accelerated() {
            Some(accelerated) => Some(accelerated.guest_clock()?),
            None => None,
        };
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
            processor: self.vm.processor(),
            cpus,
            ioapic: self.board.interrupts.save(),
            serial: self.board.serial().state().clone(),
            rtc: self.board.rtc().state(),
            code: None,
        })
    }

    /// Writes the memory with holes where it is zero.
    fn write_memory(&self, file: &File) -> io::Result<()> {
        let ram = self.memory.ram();
        file.set_len(self.memory.len())?;
        for stretch in self.memory.touched().map_err(io::Error::other)? {
            let mut offset = stretch.start;
            while offset < stretch.end {
                // Chunks end at multiples of their length, so none lies in two regions.
                let end = (offset / CHUNK + 1) * CHUNK;
                let len = end.min(stretch.end) - offset;
                if !ram.is_zero(offset, len) {
                    self.write_chunk(file, offset, len)?;
                }
                offset += len;
            }
        }
        Ok(())
    }

    /// Writes the `len` bytes at `offset`, all of one region, to the same place of the file.
    fn write_chunk(&self, file: &File, offset: u64, len: u64) -> io::Result<()> {
        let mut regions = self.memory.layout().iter().rev();
        let region = regions.find(|region| region.offset <= offset);
        let address = region.map_or(0, |region| region.address + (offset - region.offset));
        let mut done = 0;
        while done < len {
            let left = usize::try_from(len - done).map_err(io::Error::other)?;
            let slice = self.memory.get_slice(GuestAddress(address + done), left);
            let slice = slice.map_err(io::Error::other)?;
            match atoll_memory::write_vectored_at(file.as_fd(), &[slice], offset + done) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Removes the state that may be in `folder`: what is written there from now on belongs to another.
pub(crate) fn remove_state(folder: BorrowedFd<'_>) -> io::Result<()> {
    remove_at(folder, STATE_FILE)
}

fn remove_at(folder: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(folder, name, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// An empty file `name`, in place of one that may be there, that its owner only can read.
pub(crate) fn create_at(folder: BorrowedFd<'_>, name: &str) -> io::Result<File> {
    // A memory file that a machine lives on must not change: it loses its name only.
    remove_at(folder, name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    Ok(rustix::fs::openat(folder, name, flags, mode)?.into())
}
