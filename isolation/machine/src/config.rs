//! What `atoll-vmm` is told: one JSON object.

use std::path::PathBuf;

use atoll_cpu_api::Hypervisor;
use atoll_interpreter::Soft;
use atoll_kvm::Kvm;
use serde::{Deserialize, Serialize};

use crate::error::MachineError;

/// Who executes the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// KVM where a probe guest runs well on it, else software.
    #[default]
    Auto,
    /// The host's processor, through /dev/kvm.
    Kvm,
    /// The CPU in software.
    Soft,
}

impl Backend {
    /// The backend itself.
    ///
    /// # Errors
    /// [`MachineError::Cpu`] when KVM was asked for and cannot be opened.
    pub fn open(self) -> Result<Box<dyn Hypervisor>, MachineError> {
        let is_kvm = match self {
            Self::Auto => atoll_kvm::probe().is_ok(),
            Self::Kvm => true,
            Self::Soft => false,
        };
        if is_kvm {
            Ok(Box::new(Kvm::open()?))
        } else {
            Ok(Box::new(Soft))
        }
    }
}

/// A disk of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// A raw image, or a block device.
    pub path: PathBuf,
    /// Whether the guest may only read it.
    #[serde(default)]
    pub read_only: bool,
}

/// A network card of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkCard {
    /// The host's tap that its frames go through, in the network namespace of the monitor; made when there is none.
    pub tap: String,
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
    /// appended. It must be free.
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
}

/// A machine to run, as `atoll-vmm` reads it from its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmmConfig {
    /// Who executes it.
    #[serde(default)]
    pub backend: Backend,
    /// A bzImage or plain ELF.
    pub kernel: PathBuf,
    /// Folder for uncompressed kernels.
    pub kernel_store: PathBuf,
    /// Its initial ramdisk.
    #[serde(default)]
    pub initrd: Option<PathBuf>,
    /// The kernel's whole command line.
    pub command_line: String,
    /// Bytes of memory, a multiple of 4096.
    pub memory_bytes: u64,
    /// Virtual CPUs, 1 to 254.
    pub cpus: u8,
    /// Its disks, in the order of `/dev/vda`, `/dev/vdb`, ….
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Its network cards, in the order of `eth0`, `eth1`, ….
    #[serde(default)]
    pub networks: Vec<NetworkCard>,
    /// Its sockets, if it has any.
    #[serde(default)]
    pub sockets: Option<Sockets>,
    /// The directories it shares with the host.
    #[serde(default)]
    pub shares: Vec<Share>,
    /// A balloon that asks the guest for this many bytes; with 0, the guest still reports the pages it has free, and
    /// the host gets them back.
    #[serde(default)]
    pub balloon_bytes: Option<u64>,
    /// A second console, `/dev/hvc0`: a terminal or pipe that is opened for reading and writing.
    #[serde(default)]
    pub console: Option<PathBuf>,
    /// Whether to say at the end how long it ran and how many instructions it executed.
    #[serde(default)]
    pub statistics: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let unknown = text.replace("\"cpus\"", "\"cores\":2,\"cpus\"");
        assert!(serde_json::from_str::<VmmConfig>(&unknown).is_err());
    }
}
