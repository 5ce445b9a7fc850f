//! Moving a link into another network namespace.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressHeader, AddressMessage};
use netlink_packet_route::link::LinkAttribute;

use super::encode::{CREATE, DO, append, emitted, link as link_message};
use super::{Request, decode, execute, link};
use crate::socket::Socket;
use crate::{Error, netns};
use netlink_sys::protocols::NETLINK_ROUTE;

/// An address of either family with the length of its prefix in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnyAddress {
    /// The address.
    pub address: IpAddr,
    /// Bits of its subnet, 0–32 or 0–128.
    pub prefix_len: u8,
}

impl fmt::Display for AnyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// Moves the link `name` of the calling thread's network namespace into `target`, renames it on the way, and brings it up
/// there.
///
/// It keeps its hardware address, largest packet, and those of its addresses that say where it is for everyone and for good:
/// addresses that were leased, or count on the link only, stay behind. The kernel takes them all; they are given anew.
///
/// * `new_name`: free in `target`.
///
/// # Errors
/// [`Error::Refused`] naming the step; a link that is moved already stays where it is.
pub fn move_link(name: &str, new_name: &str, target: BorrowedFd<'_>) -> Result<(), Error> {
    let missing = |errno| crate::socket::refused(&format!("link show {name}"), errno);
    let found = link(name)?.ok_or_else(|| missing(libc::ENODEV))?;
    let addresses = lasting_addresses(found.index)?;
    execute(&[
        Request::SetDown {
            name: name.to_owned(),
        },
        Request::Move {
            index: found.index,
            name: new_name.to_owned(),
            netns: target,
        },
    ])?;
    netns::run_inside(target, || {
        // Its number may be another one here.
        let found = link(new_name)?;
        let found = found.ok_or_else(|| {
            crate::socket::refused(&format!("link show {new_name}"), libc::ENODEV)
        })?;
        let mut requests: Vec<Request<'_>> = addresses
            .into_iter()
            .map(|address| Request::AddAnyAddress {
                index: found.index,
                address,
            })
            .collect();
        requests.push(Request::SetUp {
            name: new_name.to_owned(),
        });
        execute(&requests)
    })?
}

/// Addresses of link `index` that neither expire nor count on the link only.
fn lasting_addresses(index: u32) -> Result<Vec<AnyAddress>, Error> {
    let mut addresses = Vec::new();
    Socket::open(NETLINK_ROUTE)?.dump(
        "address list",
        libc::RTM_GETADDR,
        &emitted(&AddressMessage::default()),
        libc::RTM_NEWADDR,
        |payload| {
            addresses.extend(decode::lasting_address(payload, index));
            Ok(())
        },
    )?;
    Ok(addresses)
}

/// Appends [`Request::Move`].
pub(super) fn push_move(
    buffer: &mut Vec<u8>,
    sequence: u32,
    index: u32,
    name: &str,
    netns: BorrowedFd<'_>,
) {
    let mut message = link_message(vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::NetNsFd(netns.as_raw_fd()),
    ]);
    message.header.index = index;
    append(buffer, libc::RTM_NEWLINK, DO, sequence, &message);
}

/// Appends [`Request::AddAnyAddress`] of an IPv6 address.
pub(super) fn push_address(buffer: &mut Vec<u8>, sequence: u32, index: u32, address: AnyAddress) {
    let mut message = AddressMessage::default();
    message.header = AddressHeader {
        family: AddressFamily::Inet6,
        prefix_len: address.prefix_len,
        index,
        ..AddressHeader::default()
    };
    message.attributes = vec![
        AddressAttribute::Local(address.address),
        AddressAttribute::Address(address.address),
    ];
    append(buffer, libc::RTM_NEWADDR, CREATE, sequence, &message);
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::MacAddr;
    use crate::route::addresses;

    fn address(text: &str, prefix_len: u8) -> AnyAddress {
        AnyAddress {
            address: text.parse().unwrap(),
            prefix_len,
        }
    }

    /// Needs root.
    #[test]
    fn a_link_keeps_its_addresses_under_another_name() {
        let (here, there) = (netns::create().unwrap(), netns::create().unwrap());
        let kept = [address("10.9.8.7", 24), address("2001:db8::7", 64)];
        netns::run_inside(here.as_fd(), || {
            execute(&[Request::CreateBridge {
                name: "lent0".to_owned(),
                mac: MacAddr([2, 0, 0, 0, 0, 9]),
                mtu: 1400,
            }])
            .unwrap();
            let index = link("lent0").unwrap().unwrap().index;
            let requests = kept.map(|address| Request::AddAnyAddress { index, address });
            execute(&requests).unwrap();
            // A bridge may not be moved; its address can be read all the same.
            assert_eq!(lasting_addresses(index).unwrap(), kept);
            let error = move_link("lent0", "eth0", there.as_fd()).unwrap_err();
            assert!(error.to_string().contains("link move"), "{error}");
            let error = move_link("none0", "eth0", there.as_fd()).unwrap_err();
            assert_eq!(error.errno(), Some(libc::ENODEV), "{error}");
        })
        .unwrap();
        netns::run_inside(here.as_fd(), || {
            execute(&[Request::CreateVeth {
                name: "near0".to_owned(),
                mac: MacAddr([2, 0, 0, 0, 0, 1]),
                controller: link("lent0").unwrap().unwrap().index,
                mtu: 1300,
                peer_name: "far0".to_owned(),
                peer_mac: MacAddr([2, 0, 0, 0, 0, 2]),
                peer_netns: here.as_fd(),
            }])
            .unwrap();
            let index = link("far0").unwrap().unwrap().index;
            execute(&kept.map(|address| Request::AddAnyAddress { index, address })).unwrap();
            move_link("far0", "eth0", there.as_fd()).unwrap();
            assert_eq!(link("far0").unwrap(), None);
        })
        .unwrap();
        netns::run_inside(there.as_fd(), || {
            let moved = link("eth0").unwrap().unwrap();
            assert!(moved.is_up);
            assert_eq!(
                (moved.mac, moved.mtu),
                (Some(MacAddr([2, 0, 0, 0, 0, 2])), 1300)
            );
            assert_eq!(lasting_addresses(moved.index).unwrap(), kept);
            assert_eq!(addresses().unwrap().len(), 1);
        })
        .unwrap();
    }
}
