//! Answers of the kernel, read attribute by attribute; what is unknown or malformed is skipped.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::NlasIterator;

use super::{Address, AnyAddress, Link, RouteEntry};
use crate::MacAddr;

const LINK_HEADER_LEN: usize = 16;
const ADDRESS_HEADER_LEN: usize = 8;
const ROUTE_HEADER_LEN: usize = 12;

/// `IFLA_INFO_KIND` inside `IFLA_LINKINFO`.
const INFO_KIND: u16 = 1;
/// `RTM_F_CLONED`: a cached route, not a configured one.
const ROUTE_CLONED: u32 = 0x200;
/// `RTN_LOCAL`, `RTN_BROADCAST`, `RTN_ANYCAST`, `RTN_MULTICAST`.
const ROUTES_TO_SELF: std::ops::RangeInclusive<u8> = 2..=5;

/// Reads an `RTM_NEWLINK` payload; `None` when it is too short or has no name.
pub(super) fn link(payload: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: u32_at(payload, 4)?,
        name: String::new(),
        kind: None,
        controller: None,
        mac: None,
        mtu: 0,
        is_up: u32_at(payload, 8)? & u32::try_from(libc::IFF_UP).ok()? != 0,
    };
    for_each_attribute(payload.get(LINK_HEADER_LEN..)?, |kind, value| match kind {
        libc::IFLA_IFNAME => link.name = text(value),
        libc::IFLA_ADDRESS => link.mac = <[u8; 6]>::try_from(value).ok().map(MacAddr),
        libc::IFLA_MTU => link.mtu = u32_at(value, 0).unwrap_or(0),
        libc::IFLA_MASTER => link.controller = u32_at(value, 0),
        libc::IFLA_LINKINFO => for_each_attribute(value, |kind, value| {
            if kind == INFO_KIND {
                link.kind = Some(text(value));
            }
        }),
        _ => {}
    });
    (!link.name.is_empty()).then_some(link)
}

/// Reads an `RTM_NEWADDR` payload; `None` when it is no IPv4 address.
pub(super) fn address(payload: &[u8]) -> Option<Address> {
    if i32::from(*payload.first()?) != libc::AF_INET {
        return None;
    }
    let mut found = None;
    for_each_attribute(payload.get(ADDRESS_HEADER_LEN..)?, |kind, value| {
        // IFA_ADDRESS is the other end on point-to-point links; IFA_LOCAL is always ours.
        if kind == libc::IFA_LOCAL || (kind == libc::IFA_ADDRESS && found.is_none()) {
            found = ipv4(value).or(found);
        }
    });
    Some(Address {
        index: u32_at(payload, 4)?,
        address: found?,
        prefix_len: *payload.get(1)?,
    })
}

/// Reads an `RTM_NEWADDR` payload; `None` unless it is an address of link `index` that neither expires nor counts on the link
/// or host only.
pub(super) fn lasting_address(payload: &[u8], index: u32) -> Option<AnyAddress> {
    let mut flags = u32::from(*payload.get(2)?);
    let scope = *payload.get(3)?;
    if u32_at(payload, 4)? != index || scope != libc::RT_SCOPE_UNIVERSE {
        return None;
    }
    let mut found = None;
    for_each_attribute(payload.get(ADDRESS_HEADER_LEN..)?, |kind, value| {
        if kind == libc::IFA_FLAGS {
            flags = u32_at(value, 0).unwrap_or(flags);
        }
        if kind == libc::IFA_LOCAL || (kind == libc::IFA_ADDRESS && found.is_none()) {
            found = ip(value).or(found);
        }
    });
    (flags & libc::IFA_F_PERMANENT != 0).then_some(AnyAddress {
        address: found?,
        prefix_len: *payload.get(1)?,
    })
}

/// Reads an `RTM_NEWROUTE` payload; `None` for routes to the host itself and cached ones.
pub(super) fn route(payload: &[u8]) -> Option<RouteEntry> {
    let is_ipv4 = i32::from(*payload.first()?) == libc::AF_INET;
    let leads_elsewhere = !ROUTES_TO_SELF.contains(payload.get(7)?);
    let is_configured = u32_at(payload, 8)? & ROUTE_CLONED == 0;
    if !(is_ipv4 && leads_elsewhere && is_configured) {
        return None;
    }
    let mut entry = RouteEntry {
        destination: Ipv4Addr::UNSPECIFIED,
        prefix_len: *payload.get(1)?,
        output: None,
        gateway: None,
    };
    for_each_attribute(payload.get(ROUTE_HEADER_LEN..)?, |kind, value| match kind {
        libc::RTA_DST => entry.destination = ipv4(value).unwrap_or(entry.destination),
        libc::RTA_OIF => entry.output = u32_at(value, 0),
        libc::RTA_GATEWAY => entry.gateway = ipv4(value),
        _ => {}
    });
    Some(entry)
}

fn for_each_attribute(bytes: &[u8], mut take: impl FnMut(u16, &[u8])) {
    for attribute in NlasIterator::new(bytes).map_while(Result::ok) {
        take(attribute.kind(), attribute.value());
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let ipv6 = <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    ipv6.ok().or_else(|| ipv4(bytes).map(IpAddr::V4))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_or_foreign_payloads_are_skipped() {
        for length in 0..16 {
            assert_eq!(link(&vec![2; length]), None);
            assert_eq!(address(&vec![2; length.min(7)]), None);
        }
        assert_eq!(address(&[10, 64, 0, 0, 1, 0, 0, 0]), None);
        assert_eq!(route(&[2, 8, 0, 0, 255, 2, 0, 2, 0, 0, 0, 0]), None);
    }
}
