//! Ethernet addresses of endpoints, derived from their IPv4 addresses.

use std::net::Ipv4Addr;

use crate::MacAddr;

/// The Ethernet address of the endpoint with `address`: `02:42` and the address, as Docker's.
///
/// Unique within a subnet without asking anyone, and neighbours' ARP caches stay right when an
/// address moves to another container.
#[must_use]
pub fn mac_for(address: Ipv4Addr) -> MacAddr {
    let [a, b, c, d] = address.octets();
    MacAddr([0x02, 0x42, a, b, c, d])
}

/// The address of the host's end of that endpoint's pair: `fe:42` and the address.
///
/// Fixed so that udev does not invent one; high so that no bridge ever takes it for its own.
pub(crate) fn host_mac_for(address: Ipv4Addr) -> MacAddr {
    let [a, b, c, d] = address.octets();
    MacAddr([0xfe, 0x42, a, b, c, d])
}

/// `#[serde(with)]` for a MAC address as text.
pub(crate) mod text {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::MacAddr;

    pub(crate) fn serialize<S: Serializer>(mac: &MacAddr, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(mac)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<MacAddr, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(de::Error::custom)
    }
}
