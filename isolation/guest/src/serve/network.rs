//! The guest's links.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use atoll_guest::protocol::{Network, Route};
use atoll_netlink::route::{self, RouteEntry};
use atoll_netlink::{Error, MacAddr};

use crate::Failure;

/// The network card that a machine is made with.
const FIRST: &str = "eth0";
/// The driver of all virtio devices.
const DRIVER: &str = "/sys/bus/platform/drivers/virtio-mmio";
const DEVICES: &str = "/sys/bus/platform/devices";

/// Brings the loopback link up.
pub(super) fn bring_up_loopback() -> Result<(), Failure> {
    let up = route::Request::SetUp {
        name: "lo".to_owned(),
    };
    let failed = |error: Error| Failure::of("bring up lo")(io::Error::other(error));
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

/// Brings the card that the machine was made with up without an address: filling its ring with buffers is most of the
/// work that it makes.
pub(super) fn bring_up_first() -> Result<(), Error> {
    bring_up(FIRST)
}

fn bring_up(name: &str) -> Result<(), Error> {
    // Addresses by router advertisement are not planned; a kernel without IPv6 is fine.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    route::execute(&[route::Request::SetUp {
        name: name.to_owned(),
    }])
}

/// Makes a card be as the host says. One that was plugged in is let go of when that fails.
pub(super) fn connect(network: &Network) -> Result<(), String> {
    let Some(place) = network.place else {
        return configure(network).map_err(|error| error.to_string());
    };
    find(place, network)
        .and_then(|()| configure(network).map_err(|error| error.to_string()))
        .inspect_err(|_| {
            // It may not have come as far as to have a driver.
            let _ = let_go(place);
        })
}

/// Lets go of the card at `place`, and has the default route lead to `gateway` if one is given.
pub(super) fn disconnect(place: u8, gateway: Option<Ipv4Addr>) -> Result<(), String> {
    let_go(place)?;
    let default = gateway.map(|gateway| {
        route::Request::ReplaceRoute(RouteEntry {
            destination: Ipv4Addr::UNSPECIFIED,
            prefix_len: 0,
            output: None,
            gateway: Some(gateway),
        })
    });
    route::execute(default.as_slice()).map_err(|error| error.to_string())
}

/// Has the driver look at `place` again, where a card was plugged in, and gives its link the right name.
fn find(place: u8, network: &Network) -> Result<(), String> {
    let device = device(place);
    fs::write(format!("{DRIVER}/bind"), &device).map_err(|error| {
        format!("find a network card at place {place} ({device} of virtio-mmio): {error}")
    })?;
    let name = link_of(&device).map_err(|error| format!("find the link of {device}: {error}"))?;
    let look = || route::link(&name).map_err(|error| error.to_string());
    let link = look()?.ok_or_else(|| format!("link {name} of {device} is gone"))?;
    if link.mac != Some(MacAddr(network.mac)) {
        return Err(format!("link {name} of {device} is another card's"));
    }
    if name == network.interface {
        return Ok(());
    }
    let rename = route::Request::Rename {
        index: link.index,
        name: network.interface.clone(),
    };
    route::execute(&[rename]).map_err(|error| error.to_string())
}

fn let_go(place: u8) -> Result<(), String> {
    let device = device(place);
    match fs::write(format!("{DRIVER}/unbind"), &device) {
        // No driver has it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        done => done.map_err(|error| format!("let go of {device}: {error}")),
    }
}

/// What the kernel calls the device at `place`: they are numbered in the order of the board's description.
fn device(place: u8) -> String {
    format!("LNRO0005:{place:02x}")
}

/// The link of the network card `device`: `virtioN/net/NAME` in its folder.
fn link_of(device: &str) -> io::Result<String> {
    let none = || io::Error::from(io::ErrorKind::NotFound);
    let names = |folder: PathBuf| -> io::Result<Vec<String>> {
        let entries = fs::read_dir(folder)?;
        let name = |entry: io::Result<fs::DirEntry>| {
            entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
        };
        entries.map(name).collect()
    };
    let folder = PathBuf::from(DEVICES).join(device);
    let mut inside = names(folder.clone())?.into_iter();
    let virtio = inside.find(|name| {
        let number = name.strip_prefix("virtio").unwrap_or_default();
        number.parse::<u32>().is_ok()
    });
    let mut links = names(folder.join(virtio.ok_or_else(none)?).join("net"))?;
    links.pop().ok_or_else(none)
}

fn configure(network: &Network) -> Result<(), Error> {
    let name = &network.interface;
    let card = route::link(name)?;
    if !card.as_ref().is_some_and(|card| card.is_up) {
        bring_up(name)?;
    }
    let index = card.map_or(0, |link| link.index);
    let mut requests = vec![route::Request::Configure {
        name: name.clone(),
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
    let entry = |route: &Route| RouteEntry {
        destination: route.destination,
        prefix_len: route.prefix_len,
        output: Some(index),
        gateway: route.gateway,
    };
    let (default, others): (Vec<_>, Vec<_>) = network
        .routes
        .iter()
        .map(entry)
        .partition(|route| route.prefix_len == 0);
    requests.extend(others.into_iter().map(route::Request::AddRoute));
    route::execute(&requests)?;
    // Another card's stays as long as something may fail.
    let default = default.into_iter().map(route::Request::ReplaceRoute);
    route::execute(&default.collect::<Vec<_>>())
}
