//! Links, addresses and routes (rtnetlink).
//!
//! [`execute`] sends any number of [`Request`]s in one system call; the kernel does them in order.
//! Reading is tolerant: attributes of newer kernels are skipped, never an error.
//!
//! Kernel: rtnetlink(7), `include/uapi/linux/{rtnetlink,if_link,if_addr}.h`.

use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

use netlink_packet_core::NLMSG_ERROR;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::socket::{self, Socket};
use crate::{Error, MacAddr};

mod decode;
mod encode;
mod moving;
mod tc;

pub use moving::{AnyAddress, move_link};

/// Longest name of a link: `IFNAMSIZ` without its terminating zero.
pub const NAME_MAX: usize = 15;

/// One change to links, addresses or routes.
#[derive(Debug, Clone)]
pub enum Request<'fd> {
    /// Creates a bridge, down and without ports; refused when the name is taken.
    CreateBridge {
        /// Name of the new link.
        name: String,
        /// Its fixed address; without one a bridge takes the lowest of its ports and changes it.
        mac: MacAddr,
        /// Largest packet in bytes.
        mtu: u32,
    },
    /// Creates both ends of a veth pair in one step.
    ///
    /// The near end is in the current namespace, already up and a port of the bridge `controller`.
    /// The far end is in `peer_netns`, down: a veth can't go up before its other end exists.
    CreateVeth {
        /// Name of the near end.
        name: String,
        /// Address of the near end.
        mac: MacAddr,
        /// Index of the bridge.
        controller: u32,
        /// Largest packet in bytes, both ends.
        mtu: u32,
        /// Name of the far end.
        peer_name: String,
        /// Address of the far end.
        peer_mac: MacAddr,
        /// Namespace of the far end.
        peer_netns: BorrowedFd<'fd>,
    },
    /// Brings the link with this name up.
    SetUp {
        /// Name of the link.
        name: String,
    },
    /// Takes the link with this name down.
    SetDown {
        /// Name of the link.
        name: String,
    },
    /// Gives a link, which is down, another name.
    Rename {
        /// Index of the link.
        index: u32,
        /// Its new name.
        name: String,
    },
    /// Moves a link into another network namespace and renames it, in one step.
    Move {
        /// Index of the link.
        index: u32,
        /// Its name there.
        name: String,
        /// Where.
        netns: BorrowedFd<'fd>,
    },
    /// Gives a link another address or largest packet, or makes it a port of a bridge. What is `None` stays.
    Configure {
        /// Name of the link.
        name: String,
        /// Its address; many kinds of links must be down for that.
        mac: Option<MacAddr>,
        /// Largest packet in bytes.
        mtu: Option<u32>,
        /// Index of the bridge.
        controller: Option<u32>,
    },
    /// Says how a bridge treats one of its ports.
    BridgePort {
        /// Name of the port.
        name: String,
        /// What came in by it may go out by it, which `br_netfilter` asks for when it translates addresses.
        is_hairpin: bool,
        /// It exchanges nothing with other isolated ports.
        is_isolated: bool,
    },
    /// Deletes the link with this name (a veth takes its other end along).
    DeleteLink {
        /// Name of the link.
        name: String,
    },
    /// Gives a link an IPv4 address, and with it the route to the address's subnet.
    AddAddress {
        /// Index of the link.
        index: u32,
        /// The address.
        address: Ipv4Addr,
        /// Bits of the subnet, 0–32.
        prefix_len: u8,
    },
    /// Gives a link an address of either family.
    AddAnyAddress {
        /// Index of the link.
        index: u32,
        /// The address.
        address: AnyAddress,
    },
    /// Gives a link an IPv4 address and no route.
    AddAddressOnly {
        /// Index of the link.
        index: u32,
        /// The address.
        address: Ipv4Addr,
        /// Bits of the subnet, 0–32.
        prefix_len: u8,
    },
    /// Takes an IPv4 address from a link.
    RemoveAddress {
        /// Index of the link.
        index: u32,
        /// The address.
        address: Ipv4Addr,
        /// Bits of the subnet, 0–32.
        prefix_len: u8,
    },
    /// Adds a route to the main table.
    AddRoute(RouteEntry),
    /// Adds a route to the main table, in place of one that leads to the same.
    ReplaceRoute(RouteEntry),
    /// Lets filters see what comes in by a link; refused when something does already.
    AddIngress {
        /// Index of the link.
        index: u32,
    },
    /// Takes that back, and every filter with it.
    RemoveIngress {
        /// Index of the link.
        index: u32,
    },
    /// Sends every packet that comes in by one link out by another, past this host's own stack. After
    /// [`Request::AddIngress`]. Needs `act_mirred` and `cls_u32`.
    Redirect {
        /// Index of the link they come in by.
        from: u32,
        /// Index of the link they go out by.
        to: u32,
    },
}

impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateBridge { name, mac, mtu } => {
                write!(f, "link add {name} type bridge address {mac} mtu {mtu}")
            }
            Self::CreateVeth {
                name,
                mac,
                controller,
                mtu,
                peer_name,
                peer_mac,
                ..
            } => write!(
                f,
                "link add {name} type veth up address {mac} mtu {mtu} master #{controller} \
                 peer {peer_name} address {peer_mac} in its netns"
            ),
            Self::SetUp { name } => write!(f, "link set {name} up"),
            Self::SetDown { name } => write!(f, "link set {name} down"),
            Self::Rename { index, name } => write!(f, "link set #{index} name {name}"),
            Self::Move { index, name, .. } => {
                write!(f, "link move #{index} to its netns as {name}")
            }
            Self::AddAnyAddress { index, address } => {
                write!(f, "address add {address} dev #{index}")
            }
            Self::Configure {
                name,
                mac,
                mtu,
                controller,
            } => {
                write!(f, "link set {name}")?;
                mac.map_or(Ok(()), |mac| write!(f, " address {mac}"))?;
                mtu.map_or(Ok(()), |mtu| write!(f, " mtu {mtu}"))?;
                controller.map_or(Ok(()), |index| write!(f, " master #{index}"))
            }
            Self::BridgePort {
                name,
                is_hairpin,
                is_isolated,
            } => write!(
                f,
                "link set {name} type bridge_slave hairpin {is_hairpin} isolated {is_isolated}"
            ),
            Self::DeleteLink { name } => write!(f, "link delete {name}"),
            Self::AddAddress {
                index,
                address,
                prefix_len,
            } => {
                write!(f, "address add {address}/{prefix_len} dev #{index}")
            }
            Self::RemoveAddress {
                index,
                address,
                prefix_len,
            } => {
                write!(f, "address delete {address}/{prefix_len} dev #{index}")
            }
            Self::AddAddressOnly {
                index,
                address,
                prefix_len,
            } => {
                write!(
                    f,
                    "address add {address}/{prefix_len} dev #{index} noprefixroute"
                )
            }
            Self::AddRoute(route) | Self::ReplaceRoute(route) => {
                let verb = match self {
                    Self::AddRoute(_) => "add",
                    _ => "replace",
                };
                write!(f, "route {verb} {}/{}", route.destination, route.prefix_len)?;
                let gateway = route.gateway;
                gateway.map_or(Ok(()), |gateway| write!(f, " via {gateway}"))?;
                let output = route.output;
                output.map_or(Ok(()), |index| write!(f, " dev #{index}"))
            }
            Self::AddIngress { index } => write!(f, "qdisc add dev #{index} ingress"),
            Self::RemoveIngress { index } => write!(f, "qdisc delete dev #{index} ingress"),
            Self::Redirect { from, to } => write!(
                f,
                "filter add dev #{from} ingress u32 match all mirred egress redirect dev #{to}"
            ),
        }
    }
}

/// A network link, as far as Atoll looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace, from 1.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Kind of a virtual link: `bridge`, `veth`, `tun`, …; `None` for hardware and loopback.
    pub kind: Option<String>,
    /// Index of the bridge (or bond) it is a port of.
    pub controller: Option<u32>,
    /// Its Ethernet address, when it has one of six bytes.
    pub mac: Option<MacAddr>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub is_up: bool,
}

/// An IPv4 address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Index of the link.
    pub index: u32,
    /// The address.
    pub address: Ipv4Addr,
    /// Bits of its subnet, 0–32.
    pub prefix_len: u8,
}

/// An IPv4 route of any table that leads somewhere else (no local, broadcast or multicast route).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteEntry {
    /// Where it leads; `0.0.0.0` with `prefix_len` 0 is the default route.
    pub destination: Ipv4Addr,
    /// Bits of the destination, 0–32.
    pub prefix_len: u8,
    /// Index of the link it leaves by, when there is one.
    pub output: Option<u32>,
    /// Next hop, when it is not on the link itself.
    pub gateway: Option<Ipv4Addr>,
}

/// Does `requests` in order, in the calling thread's network namespace, with one system call.
///
/// # Errors
/// [`Error::Refused`] names the first request the kernel refused, with its errno. The kernel goes on
/// with the requests after it; callers undo what they need undone.
pub fn execute(requests: &[Request<'_>]) -> Result<(), Error> {
    if requests.is_empty() {
        return Ok(());
    }
    let mut socket = Socket::open(NETLINK_ROUTE)?;
    let mut bytes = Vec::with_capacity(512);
    for (sequence, request) in (1..).zip(requests) {
        encode::push(&mut bytes, request, sequence);
    }
    socket.send(&bytes)?;

    let mut unanswered = requests.len();
    let mut failure: Option<Error> = None;
    while unanswered > 0 {
        let more = socket.receive(|message| {
            if message.kind == NLMSG_ERROR {
                unanswered = unanswered.saturating_sub(1);
                let errno = socket::error_code(message.payload);
                if errno != 0 && failure.is_none() {
                    let at = usize::try_from(message.sequence)
                        .unwrap_or(0)
                        .saturating_sub(1);
                    let request = requests
                        .get(at)
                        .map_or_else(String::new, ToString::to_string);
                    failure = Some(socket::refused(&request, errno));
                }
            }
            Ok(())
        })?;
        if !more {
            let request = requests
                .last()
                .map_or_else(String::new, ToString::to_string);
            return Err(failure.unwrap_or(Error::Malformed { request }));
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Lists all links of the current network namespace.
///
/// # Errors
/// [`Error::Refused`] or [`Error::Socket`] when the kernel does not give the list.
pub fn links() -> Result<Vec<Link>, Error> {
    let mut links = Vec::new();
    Socket::open(NETLINK_ROUTE)?.dump(
        "link list",
        libc::RTM_GETLINK,
        &encode::list_links(),
        libc::RTM_NEWLINK,
        |payload| {
            links.extend(decode::link(payload));
            Ok(())
        },
    )?;
    Ok(links)
}

/// Looks up one link by name; `None` when there is none.
///
/// # Errors
/// [`Error::Refused`] when the kernel refuses for another reason than "no such device".
pub fn link(name: &str) -> Result<Option<Link>, Error> {
    let mut socket = Socket::open(NETLINK_ROUTE)?;
    let mut bytes = Vec::with_capacity(64);
    encode::push_lookup(&mut bytes, name);
    socket.send(&bytes)?;
    let what = || format!("link show {name}");
    let mut found = None;
    socket.receive(|message| match message.kind {
        libc::RTM_NEWLINK => {
            found = Some(decode::link(message.payload));
            Ok(())
        }
        NLMSG_ERROR => match socket::error_code(message.payload) {
            libc::ENODEV => {
                found = Some(None);
                Ok(())
            }
            errno => Err(socket::refused(&what(), errno)),
        },
        _ => Ok(()),
    })?;
    found.ok_or_else(|| Error::Malformed { request: what() })
}

/// Lists all IPv4 addresses of the current network namespace.
///
/// # Errors
/// [`Error::Refused`] or [`Error::Socket`] when the kernel does not give the list.
pub fn addresses() -> Result<Vec<Address>, Error> {
    let mut addresses = Vec::new();
    Socket::open(NETLINK_ROUTE)?.dump(
        "address list",
        libc::RTM_GETADDR,
        &encode::list_addresses(),
        libc::RTM_NEWADDR,
        |payload| {
            addresses.extend(decode::address(payload));
            Ok(())
        },
    )?;
    Ok(addresses)
}

/// Lists the IPv4 routes of all tables of the current network namespace.
///
/// # Errors
/// [`Error::Refused`] or [`Error::Socket`] when the kernel does not give the list.
pub fn routes() -> Result<Vec<RouteEntry>, Error> {
    let mut routes = Vec::new();
    Socket::open(NETLINK_ROUTE)?.dump(
        "route list",
        libc::RTM_GETROUTE,
        &encode::list_routes(),
        libc::RTM_NEWROUTE,
        |payload| {
            routes.extend(decode::route(payload));
            Ok(())
        },
    )?;
    Ok(routes)
}
