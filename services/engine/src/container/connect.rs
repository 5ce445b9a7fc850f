//! Connecting containers to networks and taking them out again, running or not.

use atoll_network::Endpoint;

use super::{
    ContainerRef, Record,
    create::check_end,
    ends::{self, Ends},
    files,
    handle::Durability,
    record::EndRecord,
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
/// 403 when it is connected already, 400 for what contradicts its other networks or the network, 501 for machines.
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
        true => Some(join(engine, &planned, net, &name).await?),
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
    let has_card = record.networks.keys().any(|name| name != "none");
    if wall::is_machine(&record.host_config) && (has_card || record.state.is_running()) {
        return Err(Error::not_implemented(format!(
            "container {} lives in a machine, which has one network card, and that cannot be plugged in while it runs",
            record.name
        ))
        .with_hint(Some(
            "create it anew with `--network`, or disconnect it, stopped, from its network first".to_owned(),
        )));
    }
    Ok(())
}

async fn join(
    engine: &EngineRef,
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
    let mut before = planned.clone();
    before.networks.remove(name);
    let is_way_out = !net.record.is_internal && ends::way_out(engine, &before).is_none();
    let end = ends::plan(net, name, planned, interface, is_way_out)?;
    let (id, pid) = (planned.id.clone(), planned.state.pid);
    let (of, bridge) = (end.clone(), NetRef::clone(net));
    blocking(move || {
        ends::join(&id, pid, &of, None)
            .map(|endpoint| (of.clone(), endpoint))
            .inspect_err(|_| {
                if let Some(bridge) = bridge.bridge() {
                    bridge.release(of.plan.address);
                }
            })
    })
    .await
}

/// Takes a container out of a network.
///
/// # Errors
/// 403 when it is not in it; 501 for a running machine.
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
        if is_running && wall::is_machine(&record.host_config) {
            return Err(Error::not_implemented(format!(
                "the network card of the machine of container {} cannot be unplugged while it runs",
                record.name
            ))
            .with_hint(Some("stop it first".to_owned())));
        }
        if is_running {
            let host_ifname = record.ends.get(&name).map(|end| end.host_ifname.clone());
            let address = end.ip_address.parse().ok();
            let (of, id) = (NetRef::clone(&net), record.id.clone());
            blocking(move || {
                let Some(bridge) = of.bridge() else {
                    return Ok(());
                };
                bridge.publish(&id, Vec::new())?;
                if let Some(link) = host_ifname {
                    bridge.detach(&link)?;
                }
                if let Some(address) = address {
                    bridge.release(address);
                }
                Ok(())
            })
            .await?;
        }
        container.update(|record| {
            record.networks.remove(&name);
            record.ends.remove(&name);
            let leads_here = |ports: &super::record::PublishedPorts| ports.network == net.record.id;
            if record.published.as_ref().is_some_and(leads_here) {
                record.published = None;
            }
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
        container.save(Durability::Disk)?;
        refresh(&engine, &container)
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
