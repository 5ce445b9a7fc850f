//! What the host has: its networks, its way out, its resolvers.

use std::fs;
use std::io;

use atoll_netlink::route;

use crate::subnet::Ipv4Net;
use crate::{Error, error};

/// Where systemd-resolved keeps the real servers behind its loopback stub.
const RESOLVED_UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";
const DEFAULT_MTU: u32 = 1500;

/// Lists the networks the host routes to or has an address in, for
/// [`choose_subnet`](crate::choose_subnet).
///
/// * `except`: a link whose routes and addresses don't count: the bridge itself.
///
/// # Errors
/// [`Error::Kernel`] when the kernel does not list them.
pub fn host_networks(except: &str) -> Result<Vec<Ipv4Net>, Error> {
    let ours = route::link(except).map_err(error::kernel("look up the bridge"))?;
    let ours = ours.map(|link| link.index);
    let routes = route::routes().map_err(error::kernel("list routes"))?;
    let addresses = route::addresses().map_err(error::kernel("list addresses"))?;
    let routed = routes
        .into_iter()
        .filter(|route| ours.is_none() || route.output != ours)
        .filter_map(|route| Ipv4Net::containing(route.destination, route.prefix_len));
    let addressed = addresses
        .into_iter()
        .filter(|address| Some(address.index) != ours)
        .filter_map(|address| Ipv4Net::containing(address.address, address.prefix_len));
    Ok(routed.chain(addressed).collect())
}

/// The MTU of the link the default route leaves by; 1500 when there is none.
///
/// A bridge with a larger MTU than the way out makes connections through tunnels hang.
///
/// # Errors
/// [`Error::Kernel`] when the kernel does not list routes or links.
pub fn uplink_mtu() -> Result<u32, Error> {
    let routes = route::routes().map_err(error::kernel("list routes"))?;
    let uplink = routes
        .iter()
        .find(|route| route.prefix_len == 0)
        .and_then(|route| route.output);
    let links = route::links().map_err(error::kernel("list links"))?;
    let mtu = links
        .iter()
        .find(|link| Some(link.index) == uplink)
        .map(|link| link.mtu);
    // The loopback and some tunnels say 65536; no bridge needs more than Ethernet's by itself.
    Ok(mtu.map_or(DEFAULT_MTU, |mtu| mtu.clamp(576, DEFAULT_MTU)))
}

/// Reads the host's resolver configuration, that of systemd-resolved's upstream when
/// `/etc/resolv.conf` only names its stub. A missing file is an empty text.
///
/// # Errors
/// The system's error when a file that exists can't be read.
pub fn host_resolv_conf() -> io::Result<String> {
    let text = read_or_empty("/etc/resolv.conf")?;
    let mut servers = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"));
    let is_stub = servers
        .next()
        .is_some_and(|server| server.trim() == "127.0.0.53");
    if is_stub && servers.next().is_none() {
        let upstream = read_or_empty(RESOLVED_UPSTREAM)?;
        if !upstream.is_empty() {
            return Ok(upstream);
        }
    }
    Ok(text)
}

fn read_or_empty(path: &str) -> io::Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}
