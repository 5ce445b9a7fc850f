//! Connecting containers to networks and taking them out again, running or not.

use std::net::Ipv4Addr;

use atoll_network::Endpoint;

use super::{
    ContainerRef, Record, Status,
    create::check_end,
    ends::{self, Ends},
    files,
    handle::Durability,
    record::{EndRecord, PublishedPorts},
    wall,
};
use crate::{
    engine::{EngineRef, blocking, uninterrupted},
    error::{Error, ErrorKind, Result},
    network::NetRef,
    types::EndpointConfig,
};

/// Connects a container to a network; one that runs gets another link at once.
///
/// # Errors
/// 403 when it is connected already, 400 for what contradicts its other networks or the network, and for more than a machine can
/// have; 409 for a machine that is paused.
pub(crate) async fn connect(
    engine: &EngineRef,
    container: &ContainerRef,
    net: &NetRef,
    wanted: EndpointConfig,
) -> Result<()> {
    let (engine, container, net) = (
        EngineRef::clone(engine),
        ContainerRef::clone(container),
        NetRef::clone(net),
    );
    uninterrupted(async move {
        let _operation = container.operation.lock().await;
        connect_locked(&engine, &container, &net, wanted).await
    })
    .await
}

async fn connect_locked(
    engine: &EngineRef,
    container: &ContainerRef,
    net: &NetRef,
    mut wanted: EndpointConfig,
) -> Result<()> {
    let record = container.record();
    let name = net.record.name.clone();
    check(&record, net)?;
    check_end(net, &name, &wanted)?;
    let kept = match wanted.mac_address.as_str() {
        "" => EndRecord::default(),
        mac => EndRecord::with_mac(mac)?,
    };
    wanted.network_id.clone_from(&net.record.id);
    let mut planned = Record::clone(&record);
    planned.networks.insert(name.clone(), wanted.clone());
    planned.ends.insert(name.clone(), kept.clone());
    let made = match record.state.is_running() {
        true => Some(join(engine, container, &planned, net, &name).await?),
        false => None,
    };
    container.update(|record| {
        record.networks.remove("none");
        record.networks.insert(name.clone(), wanted);
        record.ends.insert(name.clone(), kept);
        if record.host_config.network_mode == "none" {
            record.host_config.network_mode.clone_from(&name);
        }
        if let Some((end, endpoint)) = &made {
            ends::note(record, &name, end, endpoint);
        }
    });
    if made.is_some_and(|(end, _)| end.plan.is_way_out) {
        lead_ports(engine, container, Some(&name)).await;
    }
    container.save(Durability::Disk)?;
    refresh(engine, container)
}

fn check(record: &Record, net: &NetRef) -> Result<()> {
    let name = &net.record.name;
    let mode = record.network_mode();
    if mode == "host" {
        return Err(Error::invalid(
            "container sharing network namespace with host cannot be connected to any other network",
        ));
    }
    if mode.starts_with("container:") {
        return Err(Error::invalid(
            "container sharing network namespace with another container or host cannot be connected to any other network",
        ));
    }
    if net.bridge().is_none() {
        return Err(Error::invalid(format!(
            "container cannot be connected to network {name}, which has no addresses"
        )));
    }
    if record.networks.contains_key(name) {
        return Err(Error::new(
            ErrorKind::Forbidden,
            format!(
                "endpoint with name {} already exists in network {name}",
                record.name
            ),
        ));
    }
    let others = record.networks.keys().filter(|name| *name != "none");
    wall::check_networks(&record.host_config, others.count() + 1)
}

async fn join(
    engine: &EngineRef,
    container: &ContainerRef,
    planned: &Record,
    net: &NetRef,
    name: &str,
) -> Result<(ends::End, Endpoint)> {
    let taken: Vec<&str> = planned
        .ends
        .values()
        .map(|end| end.interface.as_str())
        .collect();
    let interface = (0..)
        .map(|number| format!("eth{number}"))
        .find(|interface| !taken.contains(&interface.as_str()))
        .unwrap_or_default();
    let is_way_out = ends::way_out(engine, planned).as_deref() == Some(name);
    let end = ends::plan(net, name, planned, interface, is_way_out)?;
    let joined = match wall::is_machine(&planned.host_config) {
        true => {
            let mut before = planned.clone();
            before.networks.remove(name);
            plug(container, planned, &end, gateway_of(engine, &before)).await
        }
        false => {
            let (id, pid, of) = (planned.id.clone(), planned.state.pid, end.clone());
            blocking(move || ends::join(&id, pid, &of, None)).await
        }
    };
    match joined {
        Ok(endpoint) => Ok((end, endpoint)),
        Err(error) => {
            if let Some(bridge) = net.bridge() {
                bridge.release(end.plan.address);
            }
            Err(error)
        }
    }
}

/// The gateway of the network by which a container with this record gets out.
fn gateway_of(engine: &EngineRef, record: &Record) -> Option<Ipv4Addr> {
    let name = ends::way_out(engine, record)?;
    let net = ends::net_of(engine, &name, record.networks.get(&name)?).ok()?;
    net.bridge().map(|bridge| bridge.config().gateway())
}

/// Plugs a card into a running machine and makes its tap a port of the bridge. Nothing stays when that fails.
///
/// * `before`: where its default route has led so far.
async fn plug(
    container: &ContainerRef,
    record: &Record,
    end: &ends::End,
    before: Option<Ipv4Addr>,
) -> Result<Endpoint> {
    let (endpoint, card) = ends::card(&record.id, end)?;
    let shim = container.running_shim()?;
    let plugged = shim.connect_network(&card).await;
    plugged.map_err(|error| unpause_first(record, error))?;
    let (of, made) = (end.clone(), endpoint.clone());
    let id = record.id.clone();
    let joined = blocking(move || ends::join(&id, 0, &of, Some(&made))).await;
    if joined.is_err() {
        let before = before.filter(|_| card.is_way_out);
        if let Err(error) = shim.disconnect_network(&card.interface, before).await {
            tracing::warn!(container = record.short_id(), %error, "a network card that leads nowhere stays");
        }
    }
    joined
}

/// The guest of a paused machine can be told nothing.
fn unpause_first(record: &Record, error: Error) -> Error {
    match record.state.status {
        Status::Paused => error.with_hint(Some("unpause it first".to_owned())),
        _ => error,
    }
}

/// Has published ports lead to the end by which a running container gets out now, or nowhere when there is none.
async fn lead_ports(engine: &EngineRef, container: &ContainerRef, way_out: Option<&str>) {
    let record = container.record();
    let Some(published) = record.published.clone() else {
        return;
    };
    let to = way_out.and_then(|name| {
        let end = record.networks.get(name)?;
        let net = engine.network.by_id(&end.network_id)?;
        let host_ifname = record.ends.get(name)?.host_ifname.clone();
        Some((net, end.ip_address.parse().ok()?, host_ifname))
    });
    let (from, id) = (engine.network.by_id(&published.network), record.id.clone());
    let network = to.as_ref().map(|(net, ..)| net.record.id.clone());
    if network.as_ref() == Some(&published.network) {
        return;
    }
    let bindings = published.bindings.clone();
    let led = blocking(move || {
        if let Some(bridge) = from.as_ref().and_then(|net| net.bridge()) {
            bridge.publish(&id, Vec::new())?;
        }
        let Some((net, address, host_ifname)) = to else {
            return Ok(());
        };
        let Some(bridge) = net.bridge() else {
            return Ok(());
        };
        bridge.publish(&id, ends::ports_of(&bindings, address))?;
        bridge.set_published(&host_ifname)
    })
    .await;
    if let Err(error) = led {
        tracing::warn!(container = record.short_id(), %error, "published ports cannot follow the way out");
    }
    if network.is_none() {
        engine.network.ports.release(&record.id);
    }
    container.update(|record| {
        record.published = network.map(|network| PublishedPorts {
            network,
            bindings: published.bindings,
        });
    });
}

/// Takes a container out of a network.
///
/// # Errors
/// 403 when it is not in it; for a machine that runs, 409 when it is paused.
pub(crate) async fn disconnect(
    engine: &EngineRef,
    container: &ContainerRef,
    net: &NetRef,
) -> Result<()> {
    let (engine, container, net) = (
        EngineRef::clone(engine),
        ContainerRef::clone(container),
        NetRef::clone(net),
    );
    uninterrupted(async move {
        let _operation = container.operation.lock().await;
        let record = container.record();
        let name = net.record.name.clone();
        let Some(end) = record.networks.get(&name) else {
            return Err(Error::new(
                ErrorKind::Forbidden,
                format!("container {} is not connected to network {name}", record.id),
            ));
        };
        if net.bridge().is_none() {
            return Err(Error::invalid(format!(
                "container cannot be disconnected from {name} network"
            )));
        }
        let is_running = record.state.is_running();
        let mut after = Record::clone(&record);
        after.networks.remove(&name);
        let way_out = ends::way_out(&engine, &after);
        let is_moved = is_running && way_out != ends::way_out(&engine, &record);
        if is_running {
            let next = way_out.as_ref().filter(|_| is_moved);
            let next =
                next.and_then(|name| ends::net_of(&engine, name, after.networks.get(name)?).ok());
            leave(&container, &record, &net, end, next).await?;
        }
        container.update(|record| {
            record.networks.remove(&name);
            record.ends.remove(&name);
            if record.networks.is_empty() {
                let none = EndpointConfig {
                    network_id: engine.network.id("none"),
                    ..EndpointConfig::default()
                };
                record.networks.insert("none".to_owned(), none);
            }
            if record.network_mode() == name
                && let Some(other) = record.networks.keys().next()
            {
                record.host_config.network_mode.clone_from(other);
            }
        });
        if is_moved {
            lead_ports(&engine, &container, way_out.as_deref()).await;
        }
        container.save(Durability::Disk)?;
        refresh(&engine, &container)
    })
    .await
}

/// Takes a running container's end in `net` away, and has its default route lead to `next` if that is given.
async fn leave(
    container: &ContainerRef,
    record: &Record,
    net: &NetRef,
    end: &EndpointConfig,
    next: Option<NetRef>,
) -> Result<()> {
    let kept = record
        .ends
        .get(&net.record.name)
        .cloned()
        .unwrap_or_default();
    let is_machine = wall::is_machine(&record.host_config);
    if is_machine {
        let gateway = next.as_ref().and_then(|net| net.bridge());
        let gateway = gateway.map(|bridge| bridge.config().gateway());
        let shim = container.running_shim()?;
        match shim.disconnect_network(&kept.interface, gateway).await {
            Ok(()) => {}
            // An earlier attempt came as far as that.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(unpause_first(record, error)),
        }
    }
    let address = end.ip_address.parse().ok();
    let (of, id, pid) = (NetRef::clone(net), record.id.clone(), record.state.pid);
    blocking(move || {
        let Some(bridge) = of.bridge() else {
            return Ok(());
        };
        bridge.publish(&id, Vec::new())?;
        bridge.detach(&kept.host_ifname)?;
        if let Some(address) = address {
            bridge.release(address);
        }
        match next.as_ref().and_then(|net| net.bridge()) {
            Some(next) if !is_machine => next.lead_out(pid),
            _ => Ok(()),
        }
    })
    .await
}

/// Writes the names a running container knows anew.
fn refresh(engine: &EngineRef, container: &ContainerRef) -> Result<()> {
    let record = container.record();
    if !record.state.is_running() {
        return Ok(());
    }
    let directory = engine.paths.container(&record.id);
    files::write(
        engine,
        &directory,
        &record,
        &Ends::of_running(engine, &record),
    )
}
