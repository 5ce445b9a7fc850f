//! Annotations of a bundle whose container is to live in a virtual machine.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Annotation that names the wall: `vm`, `vm:kvm` or `vm:soft`, `system`, `chroot`; `process` or none is the application
/// container.
pub const ISOLATION: &str = "io.atoll.isolation";

/// Annotation with the machine's network cards, a list of [`MachineNetwork`] as JSON. Without it the guest has only `lo`.
pub const NETWORK: &str = "io.atoll.machine.network";

/// Bytes of memory of a machine whose container has no limit.
pub const DEFAULT_MEMORY: u64 = 512 << 20;

/// Network cards that a machine can have at a time.
pub const MOST_NETWORKS: u8 = 8;

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

/// ttrpc service of a shim for the network cards of its running machine. Payloads are JSON.
pub const NETWORK_SERVICE: &str = "io.atoll.machine.v1.Network";
/// Its method that plugs a card in: takes a [`ConnectRequest`], answers with nothing.
pub const CONNECT: &str = "Connect";
/// Its method that plugs one out: takes a [`DisconnectRequest`], answers with nothing.
pub const DISCONNECT: &str = "Disconnect";

/// A card to plug in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectRequest {
    /// The container's id.
    pub id: String,
    /// The card.
    pub card: MachineNetwork,
}

/// A card to plug out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisconnectRequest {
    /// The container's id.
    pub id: String,
    /// The card's [`MachineNetwork::interface`].
    pub interface: String,
    /// Where the default route leads afterwards, when it has to lead somewhere else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
}

/// A network card of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineNetwork {
    /// The host's tap: it is made for the monitor, and goes with the monitor. Whoever starts the shim connects it after
    /// `Create`, or after [`CONNECT`].
    pub tap: String,
    /// The card's hardware address.
    pub mac: [u8; 6],
    /// Bytes of its longest packet.
    pub mtu: u32,
    /// Its address.
    pub address: Ipv4Addr,
    /// Bits of the subnet.
    pub prefix_len: u8,
    /// The network's gateway.
    pub gateway: Ipv4Addr,
    /// Name of the link in the guest. That of a machine's first card is `eth0`.
    #[serde(default = "first")]
    pub interface: String,
    /// Whether the default route leads to the gateway.
    #[serde(default = "yes")]
    pub is_way_out: bool,
}

fn first() -> String {
    "eth0".to_owned()
}

fn yes() -> bool {
    true
}

/// Reads the value of the annotation [`NETWORK`].
///
/// # Errors
/// When it is neither a list of cards nor, as of earlier engines, one card.
pub fn networks(text: &str) -> Result<Vec<MachineNetwork>, serde_json::Error> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text);
    }
    serde_json::from_str(text).map(|card| vec![card])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_card_of_an_earlier_engine_is_a_list() {
        let one = r#"{"tap":"t","mac":[2,0,0,0,0,1],"mtu":1500,"address":"10.0.0.2","prefix_len":24,"gateway":"10.0.0.1"}"#;
        let cards = networks(one).unwrap();
        assert_eq!(cards.len(), 1);
        assert_eq!((&*cards[0].interface, cards[0].is_way_out), ("eth0", true));
        assert_eq!(networks(&format!("[{one}]")).unwrap(), cards);
        assert_eq!(
            networks(&serde_json::to_string(&cards).unwrap()).unwrap(),
            cards
        );
        assert!(networks("[]").unwrap().is_empty());
        for bad in ["", "{}", "[{}]", "7"] {
            assert!(networks(bad).is_err(), "{bad}");
        }
    }
}
