//! Doing what a plan says; deciding nothing.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

use atoll_netlink::{netns, nft, route};

use crate::error::{Error, kernel};
use crate::{Plan, Step};

/// Does the steps of `plan` in order; when one fails, what earlier ones created is removed again.
///
/// * `netns`: the endpoint's network namespace, needed by [`Step::Veth`] and [`Step::Inside`].
pub(crate) fn apply(plan: &Plan, netns: Option<BorrowedFd<'_>>) -> Result<(), Error> {
    let mut created = Created(Vec::new());
    for step in &plan.steps {
        apply_step(step, netns, &mut created)?;
    }
    created.0.clear();
    Ok(())
}

/// Links made by this plan so far; removed when dropped before the plan is complete.
struct Created(Vec<String>);

impl Drop for Created {
    fn drop(&mut self) {
        for name in self.0.drain(..).rev() {
            let request = route::Request::DeleteLink { name };
            if let Err(error) = route::execute(&[request])
                && !error.is_not_there()
            {
                tracing::warn!(%error, "a link of a failed plan stays behind");
            }
        }
    }
}

fn apply_step(
    step: &Step,
    netns: Option<BorrowedFd<'_>>,
    created: &mut Created,
) -> Result<(), Error> {
    match step {
        Step::Sysctl {
            key,
            value,
            is_optional,
        } => set_sysctl(key, value, *is_optional),
        Step::Bridge { name, .. } => {
            if make_bridge(step, name)? {
                created.0.push(name.clone());
            }
            Ok(())
        }
        Step::Veth { name, .. } => {
            make_veth(step, netns)?;
            created.0.push(name.clone());
            Ok(())
        }
        Step::Port { .. } => make_port(step),
        Step::Table(table) => nft::replace(table).map_err(kernel("install the firewall table")),
        Step::Inside(steps) => {
            let netns = netns.ok_or_else(no_namespace)?;
            netns::run_inside(netns, || configure(steps))
                .map_err(kernel("configure the endpoint"))?
        }
        Step::Address { .. } | Step::Up { .. } | Step::DefaultRoute { .. } => {
            configure(std::slice::from_ref(step))
        }
    }
}

/// Does steps that configure existing links of the current namespace, with one request for all.
fn configure(steps: &[Step]) -> Result<(), Error> {
    let mut requests = Vec::with_capacity(steps.len() + 1);
    for step in steps {
        match step {
            Step::Sysctl {
                key,
                value,
                is_optional,
            } => set_sysctl(key, value, *is_optional)?,
            Step::Address {
                link,
                address,
                prefix_len,
            } => {
                only_address(link, *address, *prefix_len, &mut requests)?;
            }
            Step::Up { link } => requests.push(route::Request::SetUp { name: link.clone() }),
            Step::DefaultRoute { gateway } => {
                // An end that is made later may take over from the way out there was.
                requests.push(route::Request::ReplaceRoute(route::RouteEntry {
                    destination: Ipv4Addr::UNSPECIFIED,
                    prefix_len: 0,
                    output: None,
                    gateway: Some(*gateway),
                }));
            }
            Step::Bridge { .. }
            | Step::Veth { .. }
            | Step::Port { .. }
            | Step::Table(_)
            | Step::Inside(_) => {
                return Err(no_namespace());
            }
        }
    }
    route::execute(&requests).map_err(kernel("configure links"))
}

/// Adds the requests that leave `link` with this address and no other.
fn only_address(
    link: &str,
    address: Ipv4Addr,
    prefix_len: u8,
    requests: &mut Vec<route::Request<'_>>,
) -> Result<(), Error> {
    let index = index_of(link)?;
    let wanted = route::Address {
        index,
        address,
        prefix_len,
    };
    let mut is_there = false;
    for found in route::addresses().map_err(kernel("list addresses"))? {
        if found == wanted {
            is_there = true;
        } else if found.index == index {
            let (address, prefix_len) = (found.address, found.prefix_len);
            requests.push(route::Request::RemoveAddress {
                index,
                address,
                prefix_len,
            });
        }
    }
    if !is_there {
        requests.push(route::Request::AddAddress {
            index,
            address,
            prefix_len,
        });
    }
    Ok(())
}

/// Makes the bridge; `false` when it is there already.
fn make_bridge(step: &Step, name: &str) -> Result<bool, Error> {
    let Step::Bridge { mac, mtu, .. } = step else {
        return Ok(false);
    };
    let request = route::Request::CreateBridge {
        name: name.to_owned(),
        mac: *mac,
        mtu: *mtu,
    };
    match route::execute(&[request]) {
        Ok(()) => Ok(true),
        Err(error) if error.is_already_there() => {
            let existing = route::link(name).map_err(kernel(format!("look up {name}")))?;
            match existing.and_then(|link| link.kind) {
                Some(kind) if kind == "bridge" => Ok(false),
                _ => Err(Error::NotABridge {
                    name: name.to_owned(),
                }),
            }
        }
        Err(error) => Err(kernel(format!("create bridge {name}"))(error)),
    }
}

fn make_veth(step: &Step, netns: Option<BorrowedFd<'_>>) -> Result<(), Error> {
    let Step::Veth {
        name,
        mac,
        bridge,
        mtu,
        peer_name,
        peer_mac,
    } = step
    else {
        return Ok(());
    };
    let request = route::Request::CreateVeth {
        name: name.clone(),
        mac: *mac,
        controller: index_of(bridge)?,
        mtu: *mtu,
        peer_name: peer_name.clone(),
        peer_mac: *peer_mac,
        peer_netns: netns.ok_or_else(no_namespace)?,
    };
    route::execute(&[request]).map_err(kernel(format!("connect to bridge {bridge}")))
}

fn make_port(step: &Step) -> Result<(), Error> {
    let Step::Port {
        name,
        mac,
        bridge,
        mtu,
    } = step
    else {
        return Ok(());
    };
    let requests = [
        route::Request::Configure {
            name: name.clone(),
            mac: Some(*mac),
            mtu: Some(*mtu),
            controller: Some(index_of(bridge)?),
        },
        route::Request::SetUp { name: name.clone() },
    ];
    route::execute(&requests).map_err(kernel(format!("connect {name} to bridge {bridge}")))
}

fn index_of(link: &str) -> Result<u32, Error> {
    let found = route::link(link).map_err(kernel(format!("look up link {link}")))?;
    found
        .map(|link| link.index)
        .ok_or_else(|| Error::NoSuchLink {
            name: link.to_owned(),
        })
}

/// Writes a setting that has another value; one that has it already may be read-only.
fn set_sysctl(key: &str, value: &str, is_optional: bool) -> Result<(), Error> {
    let path = format!("/proc/sys/{key}");
    let failed = |source| Error::Sysctl {
        key: key.to_owned(),
        value: value.to_owned(),
        source,
    };
    match fs::read_to_string(&path) {
        Ok(current) if current.trim() == value => Ok(()),
        Err(error) if is_optional && error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => fs::write(&path, value).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

/// A plan has a step in a place where it can't be done; plans of this crate never do.
fn no_namespace() -> Error {
    Error::NoSuchLink {
        name: "(endpoint namespace)".to_owned(),
    }
}
