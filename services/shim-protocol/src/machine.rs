//! Annotations of a bundle whose container is to live in a virtual machine.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Annotation that names the wall: `vm`, `vm:kvm` or `vm:soft`, `system`, `chroot`; `process` or none is the application
/// container.
pub const ISOLATION: &str = "io.atoll.isolation";

/// Annotation with the machine's network card, a [`MachineNetwork`] as JSON. Without it the guest has only `lo`.
pub const NETWORK: &str = "io.atoll.machine.network";

/// File in the bundle that says what the machine turned out to be, a [`MachineFacts`] as JSON; there before `Create` is
/// answered.
pub const FACTS_FILE: &str = "machine.json";

/// What a machine turned out to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineFacts {
    /// Who executes it: `kvm` or `soft`.
    pub backend: String,
    /// Release of the guest's kernel.
    pub kernel: String,
}

/// The network card of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineNetwork {
    /// The host's tap: the monitor makes it, and it goes with the monitor. Whoever starts the shim connects it after
    /// `Create`.
    pub tap: String,
    /// The card's hardware address.
    pub mac: [u8; 6],
    /// Bytes of its longest packet.
    pub mtu: u32,
    /// Its address.
    pub address: Ipv4Addr,
    /// Bits of the subnet.
    pub prefix_len: u8,
    /// The default route's next hop.
    pub gateway: Ipv4Addr,
}
