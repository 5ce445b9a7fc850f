//! GET /containers/{id}/json.

use std::collections::BTreeMap;

use atoll_layer::WritableLayer;
use serde_json::{Value, json};

use crate::{
    container::{Record, Status, create::lowers},
    engine::EngineRef,
    error::Result,
    http::{
        request::Request,
        response::{self, Response},
    },
    types::EndpointConfig,
};

/// GET /containers/{id}/json.
pub(crate) async fn container(engine: &EngineRef, request: &Request, id: &str) -> Result<Response> {
    let container = engine.containers.find(id)?;
    let record = container.record();
    let mut value = inspect(engine, &record);
    if request.query.flag("size") {
        let bytes = super::containers::writable_bytes(engine, &record.id).await;
        value["SizeRw"] = bytes.into();
        value["SizeRootFs"] = (bytes + super::containers::image_bytes(engine, &record)).into();
    }
    Ok(response::ok(&value))
}

fn inspect(engine: &EngineRef, record: &Record) -> Value {
    let directory = engine.paths.container(&record.id);
    let writable = WritableLayer::of(&directory);
    let lower: Vec<String> = lowers(engine, record)
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let execs = engine.execs.of_container(&record.id);
    let log_path = match record.host_config.log_config.kind.as_str() {
        "json-file" => engine.paths.log(&record.id).display().to_string(),
        _ => String::new(),
    };
    let machine = record
        .machine
        .as_ref()
        .map(|machine| json!({ "Backend": machine.backend, "Kernel": machine.kernel }));
    json!({
        "Id": record.id,
        "Machine": machine,
        "Created": record.created,
        "Path": record.path,
        "Args": record.args,
        "State": state(record),
        "Image": record.image_id,
        "ResolvConfPath": directory.join("resolv.conf"),
        "HostnamePath": directory.join("hostname"),
        "HostsPath": directory.join("hosts"),
        "LogPath": log_path,
        "Name": format!("/{}", record.name),
        "RestartCount": record.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": if execs.is_empty() { Value::Null } else { execs.into() },
        "HostConfig": record.host_config,
        "GraphDriver": {
            "Data": {
                "ID": record.id,
                "LowerDir": lower.join(":"),
                "MergedDir": "",
                "UpperDir": writable.diff(),
                "WorkDir": writable.work(),
            },
            "Name": "overlay2",
        },
        "Mounts": record.shown_mounts(),
        "Config": record.config,
        "NetworkSettings": network_settings(record),
    })
}

fn state(record: &Record) -> Value {
    let state = &record.state;
    json!({
        "Status": state.status.name(),
        "Running": state.is_running() || state.status == Status::Restarting,
        "Paused": state.status == Status::Paused,
        "Restarting": state.status == Status::Restarting,
        "OOMKilled": state.oom_killed,
        "Dead": state.status == Status::Dead,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": state.started_at,
        "FinishedAt": state.finished_at,
    })
}

fn network_settings(record: &Record) -> Value {
    let networks: BTreeMap<&String, Value> = record
        .networks
        .iter()
        .map(|(name, end)| (name, endpoint(record, end)))
        .collect();
    let none = EndpointConfig::default();
    // The old members are those of the default bridge.
    let bridge = record
        .networks
        .get("bridge")
        .filter(|_| record.state.is_running())
        .unwrap_or(&none);
    let mut ports: BTreeMap<&String, Value> = BTreeMap::new();
    if record.state.is_running() {
        let exposed = record.config.exposed_ports.keys();
        ports.extend(exposed.map(|port| (port, Value::Null)));
        let published = record.published.iter().flat_map(|all| &all.bindings);
        ports.extend(published.map(|(port, list)| (port, json!(list))));
    }
    let sandbox_key = match record.state.pid {
        0 => String::new(),
        pid => format!("/proc/{pid}/ns/net"),
    };
    json!({
        "Bridge": "",
        "SandboxID": if record.state.pid == 0 { "" } else { record.id.as_str() },
        "SandboxKey": sandbox_key,
        "Ports": ports,
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": bridge.endpoint_id,
        "Gateway": bridge.gateway,
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": bridge.ip_address,
        "IPPrefixLen": bridge.ip_prefix_len,
        "IPv6Gateway": "",
        "MacAddress": bridge.mac_address,
        "Networks": networks,
    })
}

/// A container's end in a network; one that doesn't run has no addresses.
pub(crate) fn endpoint(record: &Record, end: &EndpointConfig) -> Value {
    let mut end = end.clone();
    if !record.state.is_running() {
        end = EndpointConfig {
            ipam_config: end.ipam_config,
            links: end.links,
            aliases: end.aliases,
            driver_opts: end.driver_opts,
            network_id: end.network_id,
            ..EndpointConfig::default()
        };
    }
    serde_json::to_value(end).unwrap_or_default()
}
