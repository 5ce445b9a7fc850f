//! What can go wrong, and what to do about it.

use std::io;
use std::net::Ipv4Addr;

use crate::Ipv4Net;

/// Why a network operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a change; what this call had done is undone.
    #[error("cannot {action}")]
    Kernel {
        /// What was tried: `create bridge atoll0`.
        action: String,
        /// The refused request and its errno.
        #[source]
        source: atoll_netlink::Error,
    },
    /// A kernel setting can't be read or written.
    #[error("cannot set /proc/sys/{key} to {value}")]
    Sysctl {
        /// Path below `/proc/sys`.
        key: String,
        /// The value wanted.
        value: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A link with the bridge's name exists and is something else.
    #[error("link {name} exists and is not a bridge")]
    NotABridge {
        /// The link's name.
        name: String,
    },
    /// A link that should be there is not.
    #[error("link {name} does not exist")]
    NoSuchLink {
        /// The link's name.
        name: String,
    },
    /// A link has no Ethernet address, so no card of a machine can stand for it.
    #[error("link {name} has no hardware address")]
    NoHardwareAddress {
        /// The link's name.
        name: String,
    },
    /// A link's name is empty, longer than 15 bytes or has forbidden characters.
    #[error("invalid link name {0:?}")]
    InvalidLinkName(String),
    /// A text is no `a.b.c.d/n`.
    #[error("invalid subnet {0:?}")]
    InvalidSubnet(String),
    /// A subnet has no room for a gateway and containers, or its gateway is not a host address of it.
    #[error("subnet {subnet} with gateway {gateway} has no room for containers")]
    UnusableSubnet {
        /// The subnet.
        subnet: Ipv4Net,
        /// The gateway.
        gateway: Ipv4Addr,
    },
    /// A range to give addresses out of is no part of its subnet.
    #[error("range {range} is not part of {subnet}")]
    UnusableRange {
        /// The range.
        range: Ipv4Net,
        /// The subnet.
        subnet: Ipv4Net,
    },
    /// Every private range tried meets a route of the host.
    #[error("no private address range is free on this host")]
    NoFreeSubnet,
    /// A requested address belongs to somebody.
    #[error("address {0} is in use")]
    AddressInUse(Ipv4Addr),
    /// A requested address is no host address of the subnet.
    #[error("address {address} is not usable in {subnet}")]
    AddressOutside {
        /// The address.
        address: Ipv4Addr,
        /// The subnet.
        subnet: Ipv4Net,
    },
    /// All addresses are given out.
    #[error("no address is left in {0}")]
    PoolExhausted(Ipv4Net),
}

impl Error {
    /// What the user can do, when there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Kernel { source, .. } => kernel_hint(source.errno()?),
            Self::Sysctl { source, .. } => kernel_hint(source.raw_os_error()?),
            Self::NotABridge { name } => Some(format!(
                "choose another name for the bridge, or remove the link with `ip link delete {name}`"
            )),
            Self::NoSuchLink { .. } => Some("restart the engine, which makes it again".to_owned()),
            Self::InvalidSubnet(_) => Some("write it like 172.30.0.1/24".to_owned()),
            Self::UnusableSubnet { .. } => {
                Some("use a prefix of 8 to 30 bits and a gateway inside it".to_owned())
            }
            Self::NoFreeSubnet => Some("choose one with `--bip`, like 10.99.0.1/24".to_owned()),
            Self::PoolExhausted(_) => {
                Some("remove containers, or choose a larger subnet with `--bip`".to_owned())
            }
            Self::NoHardwareAddress { .. }
            | Self::InvalidLinkName(_)
            | Self::UnusableRange { .. }
            | Self::AddressInUse(_)
            | Self::AddressOutside { .. } => None,
        }
    }
}

/// Adds what was tried to an error of the kernel.
pub(crate) fn kernel(action: impl Into<String>) -> impl FnOnce(atoll_netlink::Error) -> Error {
    move |source| Error::Kernel {
        action: action.into(),
        source,
    }
}

fn kernel_hint(errno: i32) -> Option<String> {
    const EPERM: i32 = 1;
    const EACCES: i32 = 13;
    const EROFS: i32 = 30;
    const EOPNOTSUPP: i32 = 95;
    let hint = match errno {
        EPERM | EACCES => {
            "bridge networking needs root; `--network none` and `--network host` do not"
        }
        EOPNOTSUPP => {
            "load the kernel modules bridge, veth, nf_tables, nft_chain_nat, nft_masq, nft_ct"
        }
        EROFS => "the kernel's settings are read-only here; change it on the host",
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_follow_the_errno() {
        let sysctl = |errno| Error::Sysctl {
            key: "net/ipv4/ip_forward".to_owned(),
            value: "1".to_owned(),
            source: io::Error::from_raw_os_error(errno),
        };
        assert!(sysctl(13).hint().is_some_and(|hint| hint.contains("root")));
        assert!(
            sysctl(30)
                .hint()
                .is_some_and(|hint| hint.contains("read-only"))
        );
        assert_eq!(sysctl(5).hint(), None);
    }
}
