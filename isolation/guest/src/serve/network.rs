//! The guest's links.

use std::collections::BTreeMap;
use std::fs;

use atoll_guest::protocol::{Network, Route};
use atoll_netlink::route::{self, RouteEntry};
use atoll_netlink::{Error, MacAddr};

use crate::Failure;

/// The guest's network card.
const CARD: &str = "eth0";

/// Brings the loopback link up.
pub(super) fn bring_up_loopback() -> Result<(), Failure> {
    let up = route::Request::SetUp {
        name: "lo".to_owned(),
    };
    let failed = |error: Error| Failure::of("bring up lo")(std::io::Error::other(error));
    route::execute(&[up]).map_err(failed)
}

/// Sets the guest's network settings.
pub(super) fn set(sysctls: &BTreeMap<String, String>) -> Result<(), String> {
    for (key, value) in sysctls {
        let is_network = key.starts_with("net.") && !key.contains("..") && !key.contains('/');
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        if !is_network {
            return Err(format!("sysctl {key} is none of the network's"));
        }
        fs::write(path, value).map_err(|error| format!("set sysctl {key} = {value}: {error}"))?;
    }
    Ok(())
}

/// Brings the card up without an address: filling its ring with buffers is most of the work that it makes.
pub(super) fn bring_up_card() -> Result<(), Error> {
    // Addresses by router advertisement are not planned; a kernel without IPv6 is fine.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{CARD}/disable_ipv6"), "1");
    route::execute(&[route::Request::SetUp {
        name: CARD.to_owned(),
    }])
}

/// Makes the card be as the host says; without a network nothing is done.
pub(super) fn configure(network: Option<&Network>) -> Result<(), Error> {
    let Some(network) = network else {
        return Ok(());
    };
    let card = route::link(CARD)?;
    if !card.as_ref().is_some_and(|card| card.is_up) {
        bring_up_card()?;
    }
    let index = card.map_or(0, |link| link.index);
    let mut requests = vec![route::Request::Configure {
        name: CARD.to_owned(),
        mac: Some(MacAddr(network.mac)),
        mtu: Some(network.mtu),
        controller: None,
    }];
    let address = |(address, prefix_len): &(_, _)| route::Request::AddAddressOnly {
        index,
        address: *address,
        prefix_len: *prefix_len,
    };
    requests.extend(network.addresses.iter().map(address));
    let route = |route: &Route| {
        route::Request::AddRoute(RouteEntry {
            destination: route.destination,
            prefix_len: route.prefix_len,
            output: Some(index),
            gateway: route.gateway,
        })
    };
    requests.extend(network.routes.iter().map(route));
    route::execute(&requests)
}
