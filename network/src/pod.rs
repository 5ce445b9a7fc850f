//! Endpoints of machines in network namespaces that others made: pods of Kubernetes.
//!
//! Whoever made the namespace (CNI) gave it a link, with address and routes. A machine takes the link's place: its card has
//! the link's hardware address, its guest the addresses and routes, and between the card's tap and the link every packet is
//! passed on both ways.
//!
//! ```text
//!   the node ══ veth ══ eth0 ◀── ingress, redirect ──▶ tap ══ the machine's card
//!                        └───── in the pod's namespace ────┘
//! ```

use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

use atoll_netlink::route::{self, Request, RouteEntry};
use atoll_netlink::{MacAddr, netns};

use crate::Error;
use crate::error::kernel;

/// The link that CNI gives a pod.
const LINK: &str = "eth0";

/// What a link of a namespace is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLink {
    /// Its hardware address.
    pub mac: MacAddr,
    /// Bytes of its longest packet.
    pub mtu: u32,
    /// Its IPv4 addresses with the bits of their subnets.
    pub addresses: Vec<(Ipv4Addr, u8)>,
    /// The IPv4 routes that lead out by it; those that need no other come first.
    pub routes: Vec<PodRoute>,
}

/// A route of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodRoute {
    /// Where it leads.
    pub destination: Ipv4Addr,
    /// Bits of the destination; 0 is the default route.
    pub prefix_len: u8,
    /// Next hop, when it is not on the link itself.
    pub gateway: Option<Ipv4Addr>,
}

/// What the pod's link in the network namespace `netns` is like; none when it has only a loopback.
///
/// Works in a short-lived thread.
///
/// # Errors
/// [`Error::Kernel`] when the kernel does not say; [`Error::NoHardwareAddress`] for a link that no card can stand for.
pub fn pod_link(netns: BorrowedFd<'_>) -> Result<Option<PodLink>, Error> {
    inside(netns, || {
        let Some(link) = route::link(LINK).map_err(kernel("look up the pod's link"))? else {
            return Ok(None);
        };
        let mac = link.mac.ok_or(Error::NoHardwareAddress {
            name: LINK.to_owned(),
        })?;
        let addresses = route::addresses().map_err(kernel("list the pod's addresses"))?;
        let addresses = addresses.into_iter().filter(|one| one.index == link.index);
        let routes = route::routes().map_err(kernel("list the pod's routes"))?;
        Ok(Some(PodLink {
            mac,
            mtu: link.mtu,
            addresses: addresses.map(|one| (one.address, one.prefix_len)).collect(),
            routes: in_order(
                routes
                    .into_iter()
                    .filter(|route| route.output == Some(link.index)),
            ),
        }))
    })
}

/// Routes in an order they can be added in: a next hop must be reached already.
fn in_order(routes: impl Iterator<Item = RouteEntry>) -> Vec<PodRoute> {
    let mut routes: Vec<_> = routes
        .map(|route| PodRoute {
            destination: route.destination,
            prefix_len: route.prefix_len,
            gateway: route.gateway,
        })
        .collect();
    routes.sort_by_key(|route| (route.gateway.is_some(), std::cmp::Reverse(route.prefix_len)));
    routes
}

/// Joins the pod's link in `netns` and the tap there that a machine's monitor has open.
///
/// Both ways or not at all. The tap's side goes with the tap.
///
/// # Errors
/// [`Error::NoSuchLink`] when one of them is gone; [`Error::Kernel`] when the kernel refuses, also because something else
/// looks at what comes in by the link already.
pub fn connect_pod(netns: BorrowedFd<'_>, tap: &str) -> Result<(), Error> {
    inside(netns, || {
        let link = found(LINK)?;
        let card = found(tap)?;
        let up = [
            Request::Configure {
                name: tap.to_owned(),
                mac: None,
                mtu: Some(link.mtu),
                controller: None,
            },
            Request::SetUp {
                name: tap.to_owned(),
            },
            Request::AddIngress { index: card.index },
        ];
        route::execute(&up).map_err(kernel(format!("bring up {tap}")))?;
        let ingress = Request::AddIngress { index: link.index };
        let joining = || kernel(format!("join {LINK} and {tap}"));
        route::execute(&[ingress]).map_err(joining())?;
        let (from, to) = (link.index, card.index);
        let redirects = [
            Request::Redirect { from, to },
            Request::Redirect { from: to, to: from },
        ];
        route::execute(&redirects).map_err(|error| {
            // Half of it would let packets vanish.
            let _ = route::execute(&[Request::RemoveIngress { index: link.index }]);
            joining()(error)
        })
    })
}

/// Gives the pod's link in `netns` back to the namespace.
///
/// # Errors
/// [`Error::Kernel`] when the kernel refuses; a link that is gone or was not joined is none.
pub fn disconnect_pod(netns: BorrowedFd<'_>) -> Result<(), Error> {
    inside(netns, || {
        let Some(link) = route::link(LINK).map_err(kernel("look up the pod's link"))? else {
            return Ok(());
        };
        match route::execute(&[Request::RemoveIngress { index: link.index }]) {
            Err(error) if !is_none(&error) => Err(kernel("free the pod's link")(error)),
            _ => Ok(()),
        }
    })
}

/// Whether there was nothing to remove.
fn is_none(error: &atoll_netlink::Error) -> bool {
    const EINVAL: i32 = 22;
    error.is_not_there() || error.errno() == Some(EINVAL)
}

fn found(name: &str) -> Result<route::Link, Error> {
    let link = route::link(name).map_err(kernel(format!("look up link {name}")))?;
    link.ok_or_else(|| Error::NoSuchLink {
        name: name.to_owned(),
    })
}

fn inside<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    netns::run_inside(netns, work).map_err(kernel("enter the pod's network namespace"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_to_next_hops_come_before_those_that_need_them() {
        let entry = |destination: [u8; 4], prefix_len, gateway: Option<[u8; 4]>| RouteEntry {
            destination: destination.into(),
            prefix_len,
            output: Some(2),
            gateway: gateway.map(Into::into),
        };
        let routes = [
            entry([0; 4], 0, Some([10, 93, 0, 1])),
            entry([10, 93, 0, 0], 24, Some([10, 93, 0, 1])),
            entry([10, 93, 0, 1], 32, None),
        ];
        let order: Vec<_> = in_order(routes.into_iter())
            .into_iter()
            .map(|route| (route.prefix_len, route.gateway.is_some()))
            .collect();
        assert_eq!(order, [(32, false), (24, true), (0, true)]);
    }
}
