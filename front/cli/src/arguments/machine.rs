//! Flags of `machine` and `kernel`, which need no engine.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{HelpFlag, ListArgs};

/// `machine`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true, disable_help_subcommand = true)]
pub(crate) struct MachineArgs {
    #[command(subcommand)]
    pub(crate) verb: MachineVerb,
    #[command(flatten)]
    help: HelpFlag,
}

/// What to do with virtual machines.
#[derive(Debug, Subcommand)]
pub(crate) enum MachineVerb {
    /// Boot a virtual machine by itself, its console on the terminal; Ctrl-A x leaves
    Boot(Box<BootArgs>),
    /// Continue a saved machine; what is not named here is as it was. Its memory is shared until written: clone it so
    Restore(Box<RestoreArgs>),
    /// Save a machine into a folder; it goes on afterwards if it ran before
    Save(SaveArgs),
    /// Stop a machine's CPUs and devices where they are
    Pause(ControlArgs),
    /// Let a paused machine go on
    Resume(ControlArgs),
    /// Ask a machine's guest for memory, or give some back; it must have been started with --balloon
    Balloon(BalloonArgs),
    /// End a machine as if it were switched off
    Stop(ControlArgs),
    /// Say how a machine is, as JSON
    Status(ControlArgs),
}

/// Who executes a guest.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum BackendChoice {
    /// KVM where it works well, else software
    Auto,
    /// The processor's own virtualization
    Kvm,
    /// A CPU in software
    Soft,
}

/// How a kernel is entered.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ProtocolChoice {
    /// In long mode, as Linux wants it
    Linux,
    /// In protected mode, where the kernel's PVH note says
    Pvh,
}

/// How a monitor is shut in.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum JailChoice {
    /// Own namespaces, an empty root, no rights, a filter of system calls
    On,
    /// All but namespaces and root, for hosts that allow neither
    Filter,
    /// As on, but forbidden system calls are made, and written to the kernel's log
    Log,
    /// None of it
    Off,
}

/// `machine boot`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct BootArgs {
    /// Kernel to boot: a bzImage or plain ELF; by default the newest installed one
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// How to enter the kernel; by default PVH for an ELF with a PVH note that is not Linux, else Linux's
    #[arg(long, value_name = "PROTOCOL", value_enum)]
    pub(crate) boot_protocol: Option<ProtocolChoice>,
    /// Initial ramdisk; by default one is made of the guest's agent and the kernel's modules
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
    /// Memory of the machine
    #[arg(long, short, value_name = "BYTES", default_value = "256M")]
    pub(crate) memory: String,
    /// Number of virtual CPUs
    #[arg(long, value_name = "N", default_value = "1",
        value_parser = clap::value_parser!(u8).range(1..=254))]
    pub(crate) cpus: u8,
    /// Add words to the kernel's command line; those after -- go to the guest's first process
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub(crate) append: Vec<String>,
    #[command(flatten)]
    pub(crate) host: HostArgs,
    #[command(flatten)]
    help: HelpFlag,
}

/// What a machine has of the host.
#[derive(Debug, Args)]
pub(crate) struct HostArgs {
    /// Who executes the guest; by default KVM where it works well, else software
    #[arg(long, value_name = "BACKEND", value_enum)]
    pub(crate) backend: Option<BackendChoice>,
    /// Attach a raw image or block device as the next disk (/dev/vda, …); ,ro for reading only
    #[arg(long, value_name = "FILE[,ro]")]
    pub(crate) disk: Vec<String>,
    /// Attach files as the partitions of one disk, for reading only; it comes after those of --disk
    #[arg(long, value_name = "FILE,…")]
    pub(crate) layers: Vec<String>,
    /// Attach a network card to a tap of this host, made when there is none; the guest's eth0, eth1, …
    #[arg(long, value_name = "TAP")]
    pub(crate) net_tap: Vec<String>,
    /// Give the guest sockets: connect to PATH and send `CONNECT port`; the guest connects to PATH_port
    #[arg(long, value_name = "PATH")]
    pub(crate) vsock: Option<PathBuf>,
    /// Share a directory; the guest mounts it with `mount -t virtiofs TAG`; ,ro for reading only
    #[arg(long, value_name = "DIR:TAG[,ro]")]
    pub(crate) share: Vec<String>,
    /// Give the guest a balloon that takes this much memory from it; 0 only gets back what the guest has free
    #[arg(long, value_name = "BYTES")]
    pub(crate) balloon: Option<String>,
    /// Open a terminal or pipe as the guest's second console, /dev/hvc0
    #[arg(long, value_name = "FILE")]
    pub(crate) console: Option<PathBuf>,
    /// Listen at PATH for `atoll machine save`, `pause`, `resume`, `balloon`, `stop` and `status`
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,
    /// How the monitor is shut in, so that a guest that breaks out finds nothing; by default on
    #[arg(long, value_name = "JAIL", value_enum)]
    pub(crate) jail: Option<JailChoice>,
    /// Say at the end how long it ran and how many instructions it executed
    #[arg(long)]
    pub(crate) statistics: bool,
}

/// `machine restore`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct RestoreArgs {
    /// Folder of the saved machine
    #[arg(value_name = "FOLDER")]
    pub(crate) folder: PathBuf,
    #[command(flatten)]
    pub(crate) host: HostArgs,
    #[command(flatten)]
    help: HelpFlag,
}

/// `machine save`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct SaveArgs {
    /// The machine's control socket
    #[arg(value_name = "CONTROL")]
    pub(crate) control: PathBuf,
    /// Folder to save it in, made when there is none
    #[arg(value_name = "FOLDER")]
    pub(crate) folder: PathBuf,
    /// End the machine once it is saved
    #[arg(long)]
    pub(crate) stop: bool,
    #[command(flatten)]
    help: HelpFlag,
}

/// `machine balloon`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct BalloonArgs {
    /// The machine's control socket
    #[arg(value_name = "CONTROL")]
    pub(crate) control: PathBuf,
    /// How much of its memory the guest is to give in all; the guest takes its time, and may give less
    #[arg(value_name = "BYTES")]
    pub(crate) bytes: String,
    #[command(flatten)]
    help: HelpFlag,
}

/// `machine pause` and its like.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct ControlArgs {
    /// The machine's control socket
    #[arg(value_name = "CONTROL")]
    pub(crate) control: PathBuf,
    #[command(flatten)]
    help: HelpFlag,
}

/// `kernel`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true, disable_help_subcommand = true)]
pub(crate) struct KernelArgs {
    #[command(subcommand)]
    pub(crate) verb: KernelVerb,
    #[command(flatten)]
    help: HelpFlag,
}

/// What to do with kernels.
#[derive(Debug, Subcommand)]
pub(crate) enum KernelVerb {
    /// List the kernels that machines can boot
    #[command(visible_alias = "ls")]
    List(KernelListArgs),
    /// Fetch a kernel with the distribution's package tool, without installing it on this host
    Install(KernelInstallArgs),
    /// Write the initial ramdisk that `atoll machine boot` would make
    Initramfs(InitramfsArgs),
}

/// `kernel list`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct KernelListArgs {
    #[command(flatten)]
    pub(crate) list: ListArgs,
    #[command(flatten)]
    help: HelpFlag,
}

/// `kernel install`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct KernelInstallArgs {
    /// Package of the kernel, or one that depends on it
    #[arg(value_name = "PACKAGE", default_value = "linux-image-cloud-amd64")]
    pub(crate) package: String,
    #[command(flatten)]
    help: HelpFlag,
}

/// `kernel initramfs`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct InitramfsArgs {
    /// Kernel it is for; by default the newest installed one
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// Where to write it
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    help: HelpFlag,
}
