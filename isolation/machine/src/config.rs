//! What `atoll-vmm` is told: one JSON object.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

use atoll_cpu_api::Hypervisor;
use atoll_interpreter::Soft;
use atoll_kvm::Kvm;
use atoll_virtio::MAX_PARTITIONS;
use serde::{Deserialize, Serialize};

use crate::error::MachineError;
use crate::kernel::Protocol;
use crate::machine::{create_at, remove_state};

/// Who executes the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// KVM where a probe guest runs well on it, else software; for a machine that was saved, whatever it ran on.
    #[default]
    Auto,
    /// The host's processor, through /dev/kvm.
    Kvm,
    /// The CPU in software.
    Soft,
}

impl Backend {
    /// KVM or software, whichever it is here.
    #[must_use]
    pub fn choose(self) -> Self {
        match self {
            Self::Auto if atoll_kvm::probe().is_ok() => Self::Kvm,
            Self::Auto => Self::Soft,
            chosen => chosen,
        }
    }

    /// The backend itself.
    ///
    /// # Errors
    /// [`MachineError::Cpu`] when KVM was asked for and cannot be opened.
    pub fn open(self) -> Result<Box<dyn Hypervisor>, MachineError> {
        match self.choose() {
            Self::Kvm => Ok(Box::new(Kvm::open()?)),
            Self::Auto | Self::Soft => Ok(Box::new(Soft)),
        }
    }
}

/// How the monitor is shut in ([`jail`](crate::jail)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Jail {
    /// Namespaces, an empty root, no rights, a filter of system calls. What of it cannot be had is an error.
    #[default]
    On,
    /// All but namespaces and root, for hosts that allow neither.
    Filter,
    /// As [`Jail::On`], but forbidden system calls are made, and written to the kernel's log.
    Log,
    /// None of it.
    Off,
}

/// A disk of a machine: `{"path": …, "read_only": …}` or `{"layers": […]}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "FlatDisk", into = "FlatDisk")]
pub enum Disk {
    /// One file.
    Image {
        /// A raw image, or a block device.
        path: PathBuf,
        /// Whether the guest may only read it.
        read_only: bool,
    },
    /// Regular files, 1 to [`MAX_PARTITIONS`], that the guest may only read: each is a partition, in this order.
    Layers(Vec<PathBuf>),
}

impl Disk {
    /// The files of the host it is made of.
    pub fn paths(&self) -> &[PathBuf] {
        match self {
            Self::Image { path, .. } => std::slice::from_ref(path),
            Self::Layers(paths) => paths,
        }
    }
}

/// A disk in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlatDisk {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    read_only: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layers: Option<Vec<PathBuf>>,
}

impl TryFrom<FlatDisk> for Disk {
    type Error = String;

    fn try_from(flat: FlatDisk) -> Result<Self, String> {
        let Some(layers) = flat.layers else {
            return Ok(Self::Image {
                path: expected("path", flat.path)?,
                read_only: flat.read_only.unwrap_or(false),
            });
        };
        let given = [
            ("path", flat.path.is_some()),
            ("read_only", flat.read_only.is_some()),
        ];
        if let Some((name, _)) = given.iter().find(|(_, is_given)| *is_given) {
            return Err(format!("a disk of `layers` has no `{name}`"));
        }
        if layers.is_empty() || layers.len() > MAX_PARTITIONS {
            let count = layers.len();
            return Err(format!("{count} layers: a disk has 1 to {MAX_PARTITIONS}"));
        }
        Ok(Self::Layers(layers))
    }
}

impl From<Disk> for FlatDisk {
    fn from(disk: Disk) -> Self {
        match disk {
            Disk::Image { path, read_only } => Self {
                path: Some(path),
                read_only: Some(read_only),
                layers: None,
            },
            Disk::Layers(layers) => Self {
                path: None,
                read_only: None,
                layers: Some(layers),
            },
        }
    }
}

/// A network card of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkCard {
    /// The host's tap that its frames go through; made when there is none.
    pub tap: String,
    /// The network namespace that the tap is in (`/proc/PID/ns/net` or a mount of it), instead of the monitor's.
    #[serde(default)]
    pub namespace: Option<PathBuf>,
    /// Its hardware address; by default one that is made of the tap's name.
    #[serde(default)]
    pub mac: Option<[u8; 6]>,
    /// The longest packet of its network, if the guest is to know.
    #[serde(default)]
    pub mtu: Option<u16>,
}

/// Sockets between guest and host, by Firecracker's convention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sockets {
    /// Where the host connects and sends `CONNECT PORT\n`; a guest's connection to port P goes to this path with `_P`
    /// appended. A socket there that nobody listens at any more is replaced.
    pub path: PathBuf,
    /// The guest's context ID.
    #[serde(default = "first_cid")]
    pub cid: u64,
}

/// The first context ID a guest can have.
fn first_cid() -> u64 {
    3
}

/// A directory that a machine sees by virtiofs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The directory.
    pub path: PathBuf,
    /// The name the guest mounts it by: `mount -t virtiofs TAG …`.
    pub tag: String,
    /// Whether the guest may only read it.
    #[serde(default)]
    pub read_only: bool,
    /// Whether the guest may have upper and work directory of an overlay in it
    /// ([`FsOptions::overlay_upper`](atoll_virtio::FsOptions::overlay_upper)). The host looks at the outcome by an
    /// overlay with `userxattr`.
    #[serde(default)]
    pub overlay_upper: bool,
    /// Whether the guest is to see what is mounted below the directory later: in the mount namespace that the monitor
    /// was started in, where the directory must be a shared mount of its own. The guest can change what is mounted
    /// there, but not the directory itself.
    #[serde(default)]
    pub follows_mounts: bool,
}

/// What a fresh machine is, and what it boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootSource {
    /// A bzImage or plain ELF.
    pub kernel: PathBuf,
    /// How the kernel is entered; by default as it is best.
    pub protocol: Option<Protocol>,
    /// Folder for uncompressed kernels.
    pub kernel_store: PathBuf,
    /// Its initial ramdisk.
    pub initrd: Option<PathBuf>,
    /// The kernel's whole command line.
    pub command_line: String,
    /// Bytes of memory, a multiple of 4096.
    pub memory_bytes: u64,
    /// Virtual CPUs, 1 to 254.
    pub cpus: u8,
}

/// Where a machine begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// At the entry of a kernel.
    Boot(BootSource),
    /// Where the machine saved in this folder was.
    Restore(PathBuf),
}

/// A machine to run, as `atoll-vmm` reads it from its file: one flat object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Flat", into = "Flat")]
pub struct VmmConfig {
    /// Who executes it.
    pub backend: Backend,
    /// Where it begins.
    pub source: Source,
    /// Its disks, in the order of `/dev/vda`, `/dev/vdb`, ….
    pub disks: Vec<Disk>,
    /// Its network cards, in the order of `eth0`, `eth1`, ….
    pub networks: Vec<NetworkCard>,
    /// Empty places for further network cards, which are plugged in by [`control`](Self::control) while it runs.
    pub spare_cards: u8,
    /// Its sockets, if it has any.
    pub sockets: Option<Sockets>,
    /// The directories it shares with the host.
    pub shares: Vec<Share>,
    /// A balloon that asks the guest for this many bytes; with 0, the guest still reports the pages it has free, and
    /// the host gets them back.
    pub balloon_bytes: Option<u64>,
    /// A second console, `/dev/hvc0`: a terminal or pipe that is opened for reading and writing.
    pub console: Option<PathBuf>,
    /// A Unix socket to control it by (docs/formats/monitor-control.md).
    pub control: Option<PathBuf>,
    /// Whether to say at the end how long it ran and how many instructions it executed.
    pub statistics: bool,
    /// How the monitor is shut in.
    pub jail: Jail,
}

impl VmmConfig {
    /// The places of its network cards among its devices, in their order: first those of [`networks`](Self::networks),
    /// then the empty ones.
    pub fn card_places(&self) -> impl Iterator<Item = usize> + use<> {
        let cards = self.networks.len();
        let first = self.disks.len() + 1;
        let others = [
            usize::from(self.sockets.is_some()),
            self.shares.len(),
            usize::from(self.balloon_bytes.is_some()),
            usize::from(self.console.is_some()),
        ];
        let end = first + cards + others.iter().sum::<usize>();
        (first..first + cards).chain(end..end + usize::from(self.spare_cards))
    }

    /// Descriptors of the monitor that this names, as `/proc/self/fd/N` or `/dev/fd/N`: whoever starts it hands them on.
    pub fn inherited(&self) -> Vec<RawFd> {
        let mut paths = Vec::new();
        match &self.source {
            Source::Boot(source) => {
                paths.push(&source.kernel);
                paths.extend(&source.initrd);
            }
            Source::Restore(folder) => paths.push(folder),
        }
        paths.extend(&self.console);
        paths.extend(self.disks.iter().flat_map(Disk::paths));
        paths.extend(self.shares.iter().map(|share| &share.path));
        paths.into_iter().filter_map(|path| number(path)).collect()
    }
}

/// The number in a path that leads through the process' own descriptors.
fn number(path: &Path) -> Option<RawFd> {
    let folders = ["/proc/self/fd", "/dev/fd"];
    let name = folders
        .iter()
        .find_map(|folder| path.strip_prefix(folder).ok())?;
    let first = name.iter().next();
    first.and_then(OsStr::to_str)?.parse().ok()
}

/// How a machine was configured, in the folder it is saved in.
const SAVED_FILE: &str = "config.json";

impl VmmConfig {
    /// Writes it into `folder`, before a machine with it is saved there.
    ///
    /// # Errors
    /// [`MachineError::Io`].
    pub fn save(&self, folder: BorrowedFd<'_>) -> Result<(), MachineError> {
        let text = serde_json::to_vec(self).map_err(io::Error::from);
        remove_state(folder)
            .and_then(|()| create_at(folder, SAVED_FILE)?.write_all(&text?))
            .map_err(MachineError::io(format!(
                "write {SAVED_FILE} of the saved machine"
            )))
    }

    /// That of the machine saved in `folder`, to be restored from there.
    ///
    /// # Errors
    /// [`MachineError::Io`].
    pub fn of_saved(folder: &Path) -> Result<Self, MachineError> {
        let mut config = Self::read(&folder.join(SAVED_FILE))?;
        config.source = Source::Restore(folder.to_owned());
        Ok(config)
    }

    /// The one in the file at `path`.
    ///
    /// # Errors
    /// [`MachineError::Io`], also when it is none.
    pub fn read(path: &Path) -> Result<Self, MachineError> {
        let failed = || MachineError::io(format!("read {}", path.display()));
        let text = std::fs::read(path).map_err(failed())?;
        serde_json::from_slice(&text).map_err(|why| failed()(why.into()))
    }
}

/// The object in the file: what [`Source`] tells apart is there or not.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Flat {
    #[serde(default)]
    backend: Backend,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restore: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kernel: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<Protocol>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kernel_store: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    initrd: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command_line: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cpus: Option<u8>,
    #[serde(default)]
    disks: Vec<Disk>,
    #[serde(default)]
    networks: Vec<NetworkCard>,
    #[serde(default)]
    spare_cards: u8,
    #[serde(default)]
    sockets: Option<Sockets>,
    #[serde(default)]
    shares: Vec<Share>,
    #[serde(default)]
    balloon_bytes: Option<u64>,
    #[serde(default)]
    console: Option<PathBuf>,
    #[serde(default)]
    control: Option<PathBuf>,
    #[serde(default)]
    statistics: bool,
    #[serde(default)]
    jail: Jail,
}

/// A field that is missing, or one too many.
fn expected<T>(name: &str, value: Option<T>) -> Result<T, String> {
    value.ok_or_else(|| format!("missing field `{name}`"))
}

impl TryFrom<Flat> for VmmConfig {
    type Error = String;

    fn try_from(flat: Flat) -> Result<Self, String> {
        let source = match flat.restore {
            None => Source::Boot(BootSource {
                kernel: expected("kernel", flat.kernel)?,
                protocol: flat.protocol,
                kernel_store: expected("kernel_store", flat.kernel_store)?,
                initrd: flat.initrd,
                command_line: expected("command_line", flat.command_line)?,
                memory_bytes: expected("memory_bytes", flat.memory_bytes)?,
                cpus: expected("cpus", flat.cpus)?,
            }),
            Some(folder) => {
                let given = [
                    ("kernel", flat.kernel.is_some()),
                    ("protocol", flat.protocol.is_some()),
                    ("kernel_store", flat.kernel_store.is_some()),
                    ("initrd", flat.initrd.is_some()),
                    ("command_line", flat.command_line.is_some()),
                    ("memory_bytes", flat.memory_bytes.is_some()),
                    ("cpus", flat.cpus.is_some()),
                ];
                if let Some((name, _)) = given.iter().find(|(_, is_given)| *is_given) {
                    return Err(format!("`{name}` is the saved machine's with `restore`"));
                }
                Source::Restore(folder)
            }
        };
        Ok(Self {
            backend: flat.backend,
            source,
            disks: flat.disks,
            networks: flat.networks,
            spare_cards: flat.spare_cards,
            sockets: flat.sockets,
            shares: flat.shares,
            balloon_bytes: flat.balloon_bytes,
            console: flat.console,
            control: flat.control,
            statistics: flat.statistics,
            jail: flat.jail,
        })
    }
}

impl From<VmmConfig> for Flat {
    fn from(config: VmmConfig) -> Self {
        let (restore, boot) = match config.source {
            Source::Restore(folder) => (Some(folder), None),
            Source::Boot(boot) => (None, Some(boot)),
        };
        let mut flat = Self {
            backend: config.backend,
            restore,
            kernel: None,
            protocol: None,
            kernel_store: None,
            initrd: None,
            command_line: None,
            memory_bytes: None,
            cpus: None,
            disks: config.disks,
            networks: config.networks,
            spare_cards: config.spare_cards,
            sockets: config.sockets,
            shares: config.shares,
            balloon_bytes: config.balloon_bytes,
            console: config.console,
            control: config.control,
            statistics: config.statistics,
            jail: config.jail,
        };
        if let Some(boot) = boot {
            flat.kernel = Some(boot.kernel);
            flat.protocol = boot.protocol;
            flat.kernel_store = Some(boot.kernel_store);
            flat.initrd = boot.initrd;
            flat.command_line = Some(boot.command_line);
            flat.memory_bytes = Some(boot.memory_bytes);
            flat.cpus = Some(boot.cpus);
        }
        flat
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_found_in_paths() {
        let text = r#"{"kernel":"/dev/fd/3","initrd":"/proc/self/fd/10","kernel_store":"/dev/fd/4","command_line":"c",
            "memory_bytes":4096,"cpus":1,"disks":[{"path":"/dev/fd/x"},{"layers":["l","/dev/fd/9","/dev/fd/8"]}],
            "shares":[{"path":"/dev/fd/7/a","tag":"t"}],"jail":"log"}"#;
        let config: VmmConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.inherited(), [3, 10, 9, 8, 7]);
        assert_eq!(config.jail, Jail::Log);
    }

    #[test]
    fn defaults_are_filled_in_and_unknown_fields_refused() {
        let text =
            r#"{"kernel":"k","kernel_store":"s","command_line":"c","memory_bytes":4096,"cpus":1}"#;
        let config: VmmConfig = serde_json::from_str(text).unwrap();
        assert_eq!((config.backend, config.statistics), (Backend::Auto, false));
        assert!(config.networks.is_empty() && config.balloon_bytes.is_none());
        let more = text.replace('}', r#","networks":[{"tap":"t"}],"sockets":{"path":"p"}}"#);
        let more: VmmConfig = serde_json::from_str(&more).unwrap();
        assert_eq!(more.networks[0].mac, None);
        assert_eq!(more.sockets.unwrap().cid, 3);
        let again = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<VmmConfig>(&again).unwrap(), config);
        assert_eq!(config.jail, Jail::On);
        let refusal = |text: &str| {
            let refused = serde_json::from_str::<VmmConfig>(text);
            refused.unwrap_err().to_string()
        };
        let unknown = text.replace("\"cpus\"", "\"cores\":2,\"cpus\"");
        assert!(refusal(&unknown).contains("unknown field `cores`"));
        assert!(refusal(r#"{"kernel":"k"}"#).contains("missing field `kernel_store`"));
    }

    #[test]
    fn a_disk_is_one_file_or_layers() {
        let read = serde_json::from_str::<Disk>;
        let image = |read_only| Disk::Image {
            path: "d".into(),
            read_only,
        };
        let layers = |count| Disk::Layers(vec!["l".into(); count]);
        for (text, disk) in [
            (r#"{"path":"d"}"#, image(false)),
            (r#"{"path":"d","read_only":true}"#, image(true)),
            (r#"{"layers":["l","l"]}"#, layers(2)),
        ] {
            assert_eq!(read(text).unwrap(), disk);
            let again = serde_json::to_value(&disk).unwrap();
            assert_eq!(serde_json::from_value::<Disk>(again).unwrap(), disk);
        }
        let [most, too_many] = [255, 256].map(|count| serde_json::to_string(&layers(count)));
        let (most, too_many) = (most.unwrap(), too_many.unwrap());
        assert_eq!(read(&most).unwrap(), layers(255));
        for (text, part) in [
            (r#"{}"#, "missing field `path`"),
            (r#"{"read_only":true}"#, "missing field `path`"),
            (r#"{"layers":["l"],"path":"d"}"#, "has no `path`"),
            (r#"{"layers":["l"],"read_only":true}"#, "has no `read_only`"),
            (r#"{"layers":["l"],"more":1}"#, "unknown field `more`"),
            (r#"{"layers":[]}"#, "0 layers: a disk has 1 to 255"),
            (&too_many, "256 layers: a disk has 1 to 255"),
        ] {
            let refused = read(text).unwrap_err().to_string();
            assert!(refused.contains(part), "{text}: {refused}");
        }
    }

    #[test]
    fn a_saved_machine_has_its_own_memory_and_kernel() {
        let config: VmmConfig = serde_json::from_str(r#"{"restore":"f"}"#).unwrap();
        assert_eq!(config.source, Source::Restore("f".into()));
        let again = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<VmmConfig>(&again).unwrap(), config);
        let both = serde_json::from_str::<VmmConfig>(r#"{"restore":"f","cpus":1}"#);
        assert!(both.unwrap_err().to_string().contains("`cpus`"));
    }
}
