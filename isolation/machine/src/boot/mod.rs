//! What the kernel finds in memory and registers when it begins: the Linux 64-bit boot protocol, or PVH.
//!
//! ```text
//!   0x0500   GDT                     0x7000   zero page (boot_params), or hvm_start_info
//!   0x9000   page tables, 6 pages    0x20000  command line
//!   0xE0000  ACPI tables             1 MiB..  kernel; initial ramdisk at the top of low memory
//! ```
//!
//! Source: Linux Documentation/arch/x86/boot.rst ("64-bit Boot Protocol") and zero-page.rst.

mod entry;
mod memory_map;
mod pvh;
mod zero_page;

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use atoll_cpu_api::VcpuState;
use atoll_memory::{GuestMemory, PAGE};
use atoll_platform::acpi::{Board, tables};
use vm_memory::{Bytes, GuestAddress};

use crate::error::MachineError;
use crate::kernel::{Kernel, Protocol};

/// Where the ACPI tables lie: in the BIOS area, which the kernel also searches.
pub const ACPI_ADDRESS: u64 = 0xE_0000;
/// Bytes there are for them.
const ACPI_BYTES: u64 = 0x2_0000;
const COMMAND_LINE: u64 = 0x2_0000;
/// The longest command line we have room for, with its NUL.
const COMMAND_LINE_BYTES: usize = 0x1_0000;

/// The longest ramdisk: beyond that it could not be addressed.
const RAMDISK_BYTES: u64 = 1 << 31;

/// What the kernel is told when nobody adds anything: no self-tests of ciphers, which are two thirds of the boot; a
/// reset is a triple fault, and a panic a reset at once.
pub const DEFAULT_COMMAND_LINE: &str = "console=ttyS0 cryptomgr.notests reboot=t panic=-1 pci=off no_timer_check tsc=reliable random.trust_cpu=on";

/// Added unless the caller has an `initcall_blacklist=` of its own: no files in tracefs, 37 million instructions of the
/// boot. Tracepoints, perf and kprobes through perf stay.
pub const WITHOUT_TRACEFS: &str = "initcall_blacklist=tracer_init_tracefs";

/// Puts kernel, ramdisk, command line, boot parameters and ACPI tables into zeroed memory. Gives the first CPU's state
/// at the kernel's entry.
///
/// # Errors
/// [`MachineError::MemoryTooSmall`], [`MachineError::CommandLine`], [`MachineError::Io`], [`MachineError::Protocol`].
pub fn prepare(
    memory: &GuestMemory,
    kernel: &mut Kernel,
    initrd: Option<&[u8]>,
    command_line: &str,
    board: &Board<'_>,
) -> Result<VcpuState, MachineError> {
    let limit = kernel
        .header
        .command_line_limit()
        .min(COMMAND_LINE_BYTES - 1);
    if command_line.len() > limit {
        let len = command_line.len();
        return Err(MachineError::CommandLine { len, limit });
    }
    let protocol = kernel.protocol;
    let loaded = kernel.elf.load(&mut kernel.file, memory, protocol)?;
    let initrd = match initrd {
        Some(bytes) => Some(place_initrd(memory, kernel, loaded.end, bytes)?),
        None => None,
    };
    let put = |bytes: &[u8], at: u64| {
        memory
            .write_slice(bytes, GuestAddress(at))
            .map_err(|why| MachineError::io("write the boot data")(std::io::Error::other(why)))
    };
    put(command_line.as_bytes(), COMMAND_LINE)?;
    let tables = tables(board, ACPI_ADDRESS);
    debug_assert!(
        tables.len() as u64 <= ACPI_BYTES,
        "256 CPUs and 19 devices fit"
    );
    put(&tables, ACPI_ADDRESS)?;
    if protocol == Protocol::Pvh {
        let info = pvh::start_info(COMMAND_LINE, initrd, memory.layout());
        put(&info, pvh::START_INFO)?;
        return Ok(pvh::state(loaded.entry));
    }
    let parameters = zero_page::Parameters {
        header: &kernel.header,
        command_line: COMMAND_LINE,
        initrd,
        memory: memory.layout(),
    };
    put(&parameters.page(), entry::ZERO_PAGE)?;
    for (at, bytes) in entry::tables() {
        put(&bytes, at)?;
    }
    Ok(entry::state(loaded.entry))
}

/// Copies the ramdisk to the highest place the kernel takes it from. Gives address and bytes.
fn place_initrd(
    memory: &GuestMemory,
    kernel: &Kernel,
    kernel_end: u64,
    bytes: &[u8],
) -> Result<(u64, u64), MachineError> {
    let len = bytes.len() as u64;
    let low = memory.layout()[0].len;
    let limit = low.min(u64::from(kernel.header.initrd_limit()) + 1);
    let start = limit.saturating_sub(len) / PAGE * PAGE;
    if start < kernel_end {
        // The kernel unpacks it beside the original.
        let needs = kernel_end + 2 * len + (16 << 20);
        let has = memory.len();
        return Err(MachineError::MemoryTooSmall { has, needs });
    }
    memory
        .write_slice(bytes, GuestAddress(start))
        .map_err(|why| MachineError::io("load the initial ramdisk")(std::io::Error::other(why)))?;
    Ok((start, len))
}

/// A ramdisk's file, read anew at each boot: its bytes need not lie in memory while a guest runs.
#[derive(Debug)]
pub struct Ramdisk {
    file: File,
    path: PathBuf,
}

impl Ramdisk {
    /// Opens the ramdisk at `path`. What can be read only once, like a pipe, is kept in a file in memory.
    ///
    /// # Errors
    /// [`MachineError::Io`].
    pub fn open(path: &Path) -> Result<Self, MachineError> {
        let failed = || MachineError::io(format!("read {}", path.display()));
        let mut file = File::open(path).map_err(failed())?;
        if !file.metadata().map_err(failed())?.is_file() {
            let flags = rustix::fs::MemfdFlags::CLOEXEC;
            let kept = rustix::fs::memfd_create("ramdisk", flags)
                .map_err(|errno| failed()(errno.into()))?;
            let mut kept = File::from(kept);
            io::copy(&mut file.take(RAMDISK_BYTES), &mut kept).map_err(failed())?;
            file = kept;
        }
        let path = path.to_owned();
        Ok(Self { file, path })
    }

    /// Its bytes.
    ///
    /// # Errors
    /// [`MachineError::Io`].
    pub fn read(&mut self) -> Result<Vec<u8>, MachineError> {
        let failed = || MachineError::io(format!("read {}", self.path.display()));
        let mut bytes = Vec::new();
        self.file.rewind().map_err(failed())?;
        let mut file = (&mut self.file).take(RAMDISK_BYTES);
        file.read_to_end(&mut bytes).map_err(failed())?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{KernelStore, SetupHeader};

    fn kernel() -> Kernel {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmlinux");
        std::fs::write(&path, crate::kernel::tests_elf(b"\xF4")).unwrap();
        KernelStore::new(folder.path()).open(&path).unwrap()
    }

    fn board() -> Board<'static> {
        Board {
            processors: 1,
            devices: &[],
        }
    }

    #[test]
    fn a_kernel_finds_its_parameters() {
        let memory = GuestMemory::new(64 << 20).unwrap();
        let state = prepare(&memory, &mut kernel(), Some(b"disk"), "quiet", &board()).unwrap();
        assert_eq!((state.rip, state.registers[6]), (1 << 24, entry::ZERO_PAGE));
        let ram = memory.ram();
        let at = |offset: u64| u64::from(ram.load::<u32>(entry::ZERO_PAGE + offset));
        let mut text = [0; 6];
        ram.read(at(0x228), &mut text);
        assert_eq!(&text, b"quiet\0");
        assert_eq!((at(0x218), at(0x21C)), ((64 << 20) - 4096, 4));
        let mut disk = [0; 4];
        ram.read(at(0x218), &mut disk);
        assert_eq!(&disk, b"disk");
        assert_eq!(at(0x202), u64::from(u32::from_le_bytes(*b"HdrS")));
        let mut signature = [0; 8];
        ram.read(at(0x70), &mut signature);
        assert_eq!(&signature, b"RSD PTR ");
        let offset = SetupHeader::OFFSET as u64;
        assert_eq!(ram.load::<u8>(entry::ZERO_PAGE + offset + 0x1F), 0xFF);
    }

    #[test]
    fn a_ramdisk_is_read_at_each_boot_even_from_a_pipe() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, b"ramdisk").unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, b"ramdisk").unwrap();
        drop(writer);
        let pipe = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        for path in [path, PathBuf::from(pipe)] {
            let mut ramdisk = Ramdisk::open(&path).unwrap();
            assert_eq!(ramdisk.read().unwrap(), b"ramdisk");
            assert_eq!(ramdisk.read().unwrap(), b"ramdisk");
        }
        let error = Ramdisk::open(Path::new("/none")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /none");
    }

    #[test]
    fn what_does_not_fit_is_said_with_numbers() {
        let memory = GuestMemory::new(18 << 20).unwrap();
        let disk = vec![1; 2 << 20];
        let error = prepare(&memory, &mut kernel(), Some(&disk), "", &board()).unwrap_err();
        assert!(
            matches!(error, MachineError::MemoryTooSmall { has, needs } if has < needs),
            "{error}"
        );
        let line = "x".repeat(2048);
        let error = prepare(&memory, &mut kernel(), None, &line, &board()).unwrap_err();
        assert!(matches!(
            error,
            MachineError::CommandLine {
                len: 2048,
                limit: 2047
            }
        ));
    }
}
