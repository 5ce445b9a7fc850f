//! What is to be done, as data that prints.

use std::fmt;
use std::net::Ipv4Addr;

use atoll_netlink::{MacAddr, nft};

/// Steps in the order they are done. Prints one step a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The steps; each may rely on those before it.
    pub steps: Vec<Step>,
}

/// One change to the kernel's network state. Each is idempotent unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// A setting below `/proc/sys` has this value.
    Sysctl {
        /// Path below `/proc/sys`.
        key: String,
        /// The value.
        value: &'static str,
        /// Whether a kernel without this setting is fine.
        is_optional: bool,
    },
    /// A bridge of this name exists.
    Bridge {
        /// Its name.
        name: String,
        /// Its address when it is made new.
        mac: MacAddr,
        /// Its largest packet in bytes when it is made new.
        mtu: u32,
    },
    /// A new veth pair: one end up as a port of the bridge, the other down in the endpoint's
    /// network namespace. Fails when the name is taken.
    Veth {
        /// Name of the host's end.
        name: String,
        /// Address of the host's end.
        mac: MacAddr,
        /// The bridge.
        bridge: String,
        /// Largest packet in bytes.
        mtu: u32,
        /// Name of the endpoint's end.
        peer_name: String,
        /// Address of the endpoint's end.
        peer_mac: MacAddr,
    },
    /// A link that is there, of somebody else's making, is up as a port of the bridge.
    Port {
        /// Name of the link.
        name: String,
        /// Address it gets.
        mac: MacAddr,
        /// The bridge.
        bridge: String,
        /// Largest packet in bytes.
        mtu: u32,
    },
    /// The link has this IPv4 address and no other.
    Address {
        /// Name of the link.
        link: String,
        /// The address.
        address: Ipv4Addr,
        /// Bits of its subnet.
        prefix_len: u8,
    },
    /// The link is up.
    Up {
        /// Name of the link.
        link: String,
    },
    /// The namespace's default route; fails when there is one.
    DefaultRoute {
        /// Next hop.
        gateway: Ipv4Addr,
    },
    /// The nf_tables table of this name is exactly this one, replaced in one transaction.
    Table(nft::Table),
    /// Steps inside the endpoint's network namespace.
    Inside(Vec<Step>),
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl {
                key,
                value,
                is_optional,
            } => {
                let condition = if *is_optional {
                    " where the kernel has it"
                } else {
                    ""
                };
                write!(f, "sysctl {key} = {value}{condition}")
            }
            Self::Bridge { name, mac, mtu } => write!(f, "bridge {name} address {mac} mtu {mtu}"),
            Self::Veth {
                name,
                mac,
                bridge,
                mtu,
                peer_name,
                peer_mac,
            } => write!(
                f,
                "veth {name} address {mac} mtu {mtu} up in {bridge}, \
                 peer {peer_name} address {peer_mac} inside"
            ),
            Self::Port {
                name,
                mac,
                bridge,
                mtu,
            } => write!(f, "port {name} address {mac} mtu {mtu} up in {bridge}"),
            Self::Address {
                link,
                address,
                prefix_len,
            } => {
                write!(f, "address {address}/{prefix_len} on {link}")
            }
            Self::Up { link } => write!(f, "up {link}"),
            Self::DefaultRoute { gateway } => write!(f, "default route via {gateway}"),
            Self::Table(table) => write!(f, "firewall {}", table.to_string().trim_end()),
            Self::Inside(steps) => {
                f.write_str("inside:")?;
                steps.iter().try_for_each(|step| write!(f, "\n  {step}"))
            }
        }
    }
}
