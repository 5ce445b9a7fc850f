//! What the engine keeps about a network, on disk below `networks/` (docs/formats/network-record.md).

use std::{collections::BTreeMap, net::Ipv4Addr};

use atoll_network::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Version of the record's format.
pub(crate) const VERSION: u32 = 1;

const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const MTU: &str = "com.docker.network.driver.mtu";
/// What dockerd says of its default bridge and some clients repeat; nothing is to be done for it.
const NO_MEANING: &[&str] = &["com.docker.network.bridge.default_bridge"];

/// A network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NetRecord {
    /// [`VERSION`].
    pub(crate) version: u32,
    /// 64 hexadecimal digits.
    pub(crate) id: String,
    /// What users call it.
    pub(crate) name: String,
    /// RFC 3339.
    pub(crate) created: String,
    /// `bridge`, `host` or `null`.
    pub(crate) driver: String,
    /// The addresses of a bridge.
    pub(crate) pool: Option<Pool>,
    /// Name of the bridge's link.
    pub(crate) link: String,
    /// Cut off from everything outside.
    pub(crate) is_internal: bool,
    /// As the client said; without meaning outside of a swarm.
    pub(crate) is_attachable: bool,
    /// Users' labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// The driver's options as the client gave them.
    pub(crate) options: BTreeMap<String, String>,
    /// Its removal has begun; the next engine finishes it.
    pub(crate) is_removed: bool,
}

/// The addresses of a network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pool {
    /// All of them.
    pub(crate) subnet: Ipv4Net,
    /// The bridge's own.
    pub(crate) gateway: Ipv4Addr,
    /// Those that are given out unasked.
    pub(crate) range: Option<Ipv4Net>,
    /// Names for addresses that are somebody else's.
    #[serde(default)]
    pub(crate) auxiliary: BTreeMap<String, Ipv4Addr>,
}

/// The driver's options, understood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BridgeOptions {
    /// Name of the link.
    pub(crate) link: Option<String>,
    /// Endpoints don't see each other.
    pub(crate) is_isolated: bool,
    /// What leaves keeps its own address.
    pub(crate) keeps_source: bool,
    /// Where ports are published when nobody says.
    pub(crate) host_address: Option<Ipv4Addr>,
    /// Largest packet.
    pub(crate) mtu: Option<u32>,
}

impl BridgeOptions {
    /// Understands a network's options.
    ///
    /// # Errors
    /// 400 for values that mean nothing, and for options that this engine does not know: it never ignores one.
    pub(crate) fn parse(options: &BTreeMap<String, String>) -> Result<Self> {
        let mut parsed = Self::default();
        for (key, value) in options {
            let bad = || Error::invalid(format!("invalid value {value:?} of network option {key}"));
            let flag = || {
                value
                    .to_ascii_lowercase()
                    .parse::<bool>()
                    .map_err(|_| bad())
            };
            match key.as_str() {
                BRIDGE_NAME => parsed.link = Some(value.clone()),
                ICC => parsed.is_isolated = !flag()?,
                MASQUERADE => parsed.keeps_source = !flag()?,
                HOST_BINDING => parsed.host_address = Some(value.parse().map_err(|_| bad())?),
                MTU | "mtu" => {
                    let mtu = value.parse().ok().filter(|mtu| (68..=65535).contains(mtu));
                    parsed.mtu = Some(mtu.ok_or_else(bad)?);
                }
                key if NO_MEANING.contains(&key) => {}
                key => {
                    return Err(Error::invalid(format!("network option {key} is not available"))
                        .with_hint(Some(format!(
                            "available are {BRIDGE_NAME}, {ICC}, {MASQUERADE}, {HOST_BINDING} and {MTU}"
                        ))));
                }
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_understood_or_refused() {
        let parse = |pairs: &[(&str, &str)]| {
            let owned = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            BridgeOptions::parse(&owned.collect())
        };
        assert_eq!(parse(&[]).unwrap(), BridgeOptions::default());
        let all = parse(&[
            (BRIDGE_NAME, "br9"),
            (ICC, "false"),
            (MASQUERADE, "False"),
            (HOST_BINDING, "127.0.0.1"),
            (MTU, "1400"),
        ])
        .unwrap();
        assert!(all.is_isolated && all.keeps_source);
        assert_eq!((all.mtu, all.link.as_deref()), (Some(1400), Some("br9")));
        for bad in [
            (ICC, "maybe"),
            (HOST_BINDING, "::1"),
            (MTU, "67"),
            ("com.docker.x", "1"),
        ] {
            assert!(parse(&[bad]).is_err(), "{bad:?}");
        }
    }
}
