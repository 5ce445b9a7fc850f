//! Why a machine could not be made or kept running.

use std::io;
use std::path::PathBuf;

use atoll_cpu_api::{CpuError, Mismatch};
use atoll_memory::MemoryError;
use thiserror::Error;

use crate::kernel::Protocol;

/// Why a file is no kernel for our machines.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotAKernel {
    /// Neither a bzImage nor a 64-bit ELF executable.
    #[error("it is neither a bzImage nor a 64-bit ELF executable")]
    Format,
    /// It ends too early.
    #[error("it ends before it is complete")]
    Short,
    /// A boot protocol without 64-bit entry.
    #[error("its boot protocol {:#x} is older than 2.12", .0)]
    Old(u16),
    /// A kernel for 32-bit processors.
    #[error("it is a 32-bit kernel")]
    Only32Bit,
    /// An ELF file for another processor.
    #[error("it is for another processor (ELF machine {0})")]
    Machine(u16),
    /// Segments that cannot be loaded.
    #[error("its segments do not lie between 1 MiB and 4 GiB")]
    Segments,
    /// An entry outside its segments.
    #[error("its entry {0:#x} is in none of its segments")]
    Entry(u64),
    /// bzip2, LZMA or LZO.
    #[error("it is compressed by other means than gzip, xz, lz4 or zstd")]
    Compression,
    /// The compressed kernel is damaged.
    #[error("what is compressed in it is damaged: {0}")]
    Corrupt(String),
}

/// What does not fit.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("its processor is another: {0}")]
pub struct OtherProcessor(pub Mismatch);

/// Why a machine could not be made or kept running.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MachineError {
    /// A file or descriptor of ours failed.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// No kernel was named and none is installed.
    #[error("there is no kernel in {}", .0.display())]
    NoKernel(PathBuf),
    /// The file is no kernel for us.
    #[error("{} is not a kernel to boot", path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        reason: NotAKernel,
    },
    /// The kernel cannot be entered in the way that was asked for.
    #[error("the kernel cannot be entered by {}", match .0 {
        Protocol::Linux => "the Linux 64-bit boot protocol",
        Protocol::Pvh => "PVH: it has no note that says where",
    })]
    Protocol(Protocol),
    /// The memory cannot hold kernel and initial ramdisk.
    #[error("{} MiB of memory are not enough: {} MiB are needed", has >> 20, needs.div_ceil(1 << 20))]
    MemoryTooSmall {
        /// Bytes it has.
        has: u64,
        /// Bytes it needs at least.
        needs: u64,
    },
    /// The command line is longer than the kernel takes.
    #[error("the kernel's command line has {len} bytes; this kernel takes {limit}")]
    CommandLine {
        /// Its bytes.
        len: usize,
        /// The most it may have.
        limit: usize,
    },
    /// A module the guest needs is not among the kernel's.
    #[error("the kernel has no module {name} in {}", folder.display())]
    NoModule {
        /// The module.
        name: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// More devices than the board has interrupt pins.
    #[error("{count} devices are too many: a machine takes {limit}")]
    TooManyDevices {
        /// How many were asked for.
        count: usize,
        /// How many fit.
        limit: usize,
    },
    /// Guest memory could not be had.
    #[error("cannot make the guest's memory")]
    Memory(#[from] MemoryError),
    /// The CPU backend failed.
    #[error("the virtual CPU cannot run")]
    Cpu(#[from] CpuError),
    /// The guest stopped without powering off.
    #[error("the guest is dead: {reason}")]
    Dead {
        /// What happened.
        reason: String,
        /// Its console's last lines.
        console: Vec<String>,
    },
    /// The monitor could not be shut in.
    #[error("the monitor cannot {action} for its jail")]
    Jail {
        /// What was tried.
        action: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A saved machine that cannot be restored here.
    #[error("cannot save or restore the machine: {0}")]
    Snapshot(String),
    /// A balloon was to be resized and there is none.
    #[error("the machine has no balloon")]
    NoBalloon,
    /// There is no such place for a network card.
    #[error("the machine has no place {0} for a network card")]
    NoPlace(usize),
    /// A saved machine whose guest uses what the processor here does not have.
    #[error("the machine cannot go on here")]
    OtherProcessor(#[source] OtherProcessor),
    /// A monitor could not do what it was asked for.
    #[error("{message}")]
    Refused {
        /// What failed and why.
        message: String,
        /// What the monitor says to do about it.
        hint: Option<String>,
    },
}

impl MachineError {
    /// Wraps a system error with what was tried.
    pub fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// What the user can do, when there is something.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoKernel(_) => {
                "install one with `atoll kernel install`, or name one with --kernel".to_owned()
            }
            Self::NotAKernel { .. } => {
                "`atoll kernel list` shows the kernels that are installed".to_owned()
            }
            Self::Protocol(_) => "leave out --boot-protocol".to_owned(),
            Self::MemoryTooSmall { needs, .. } => {
                let mebibytes = needs.div_ceil(1 << 20).max(32).next_power_of_two();
                format!("give it more, like --memory {mebibytes}M")
            }
            Self::CommandLine { .. } => "shorten --append".to_owned(),
            Self::NoModule { .. } => {
                "take another kernel: `atoll kernel install` fetches one that has it".to_owned()
            }
            Self::TooManyDevices { .. } => "leave out disks".to_owned(),
            Self::Cpu(CpuError::Unavailable { backend: "kvm", .. }) => {
                "run it in software with --backend soft".to_owned()
            }
            Self::NoBalloon => "start it with --balloon 0".to_owned(),
            Self::OtherProcessor(_) | Self::Cpu(CpuError::Tsc { .. }) => {
                "restore it with the backend and on a processor like those it was saved on"
                    .to_owned()
            }
            Self::Refused { hint, .. } => return hint.clone(),
            Self::Jail { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "start it as root or allow user namespaces; --jail filter does without namespaces"
                    .to_owned()
            }
            Self::Memory(_) => "ask for less --memory".to_owned(),
            _ => return None,
        })
    }
}
