//! The built-in networks: bridge, host, none.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    engine::EngineRef,
    error::{Error, Result},
    http::{
        query::Filters,
        request::Request,
        response::{self, Response},
    },
    time,
};

const NAMES: [&str; 3] = ["bridge", "host", "none"];

/// GET /networks.
pub(crate) fn list(engine: &EngineRef, request: &Request) -> Result<Response> {
    let filters = request.query.filters()?;
    filters.only(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
    let networks: Vec<Value> = NAMES
        .iter()
        .filter(|name| matches(engine, name, &filters))
        .map(|name| network(engine, name, false))
        .collect();
    Ok(response::ok(&networks))
}

fn matches(engine: &EngineRef, name: &str, filters: &Filters) -> bool {
    filters.any("name", |wanted| name.contains(wanted))
        && filters.any("id", |wanted| engine.network.id(name).starts_with(wanted))
        && filters.any("driver", |wanted| wanted == driver(name))
        && filters.any("type", |wanted| wanted == "builtin")
        && filters.exact("scope", "local")
        && filters.values("label").is_empty()
        && filters.any("dangling", |wanted| wanted == "false" || wanted == "0")
}

/// GET /networks/{id}.
pub(crate) fn inspect(engine: &EngineRef, id: &str) -> Result<Response> {
    Ok(response::ok(&network(engine, find(engine, id)?, true)))
}

fn find(engine: &EngineRef, id: &str) -> Result<&'static str> {
    NAMES
        .into_iter()
        .find(|name| *name == id || (id.len() >= 4 && engine.network.id(name).starts_with(id)))
        .ok_or_else(|| Error::not_found(format!("network {id} not found")))
}

/// POST /networks/create.
pub(crate) async fn refuse_create(mut request: Request) -> Result<Response> {
    let body: Value = request.json().await?;
    let name = body["Name"].as_str().unwrap_or_default();
    if NAMES.contains(&name) {
        return Err(Error::conflict(format!(
            "network with name {name} already exists"
        )));
    }
    Err(Error::not_implemented(
        "networks beside bridge, host and none are not available yet",
    ))
}

/// DELETE /networks/{id}.
pub(crate) fn refuse_remove(engine: &EngineRef, id: &str) -> Result<Response> {
    let name = find(engine, id)?;
    Err(Error::new(
        crate::error::ErrorKind::Forbidden,
        format!("{name} is a pre-defined network and cannot be removed"),
    ))
}

/// POST /networks/prune: the built-in ones always stay.
pub(crate) fn prune() -> Response {
    response::ok(&json!({ "NetworksDeleted": null }))
}

fn driver(name: &str) -> &str {
    if name == "none" { "null" } else { name }
}

fn network(engine: &EngineRef, name: &str, with_containers: bool) -> Value {
    let config = engine.network.config();
    let is_bridge = name == "bridge";
    let ipam = match is_bridge {
        true => json!([{
            "Subnet": config.subnet().to_string(), "Gateway": config.gateway().to_string(),
        }]),
        false => Value::Null,
    };
    let options: BTreeMap<&str, String> = match is_bridge {
        true => BTreeMap::from([
            (
                "com.docker.network.bridge.default_bridge",
                "true".to_owned(),
            ),
            ("com.docker.network.bridge.enable_icc", "true".to_owned()),
            (
                "com.docker.network.bridge.enable_ip_masquerade",
                "true".to_owned(),
            ),
            ("com.docker.network.bridge.name", config.name().to_owned()),
            (
                "com.docker.network.driver.mtu",
                engine.settings.mtu.to_string(),
            ),
        ]),
        false => BTreeMap::new(),
    };
    let mut containers = BTreeMap::new();
    if with_containers {
        for container in engine.containers.all() {
            let record = container.record();
            let Some(end) = record
                .networks
                .get(name)
                .filter(|_| record.state.is_running())
            else {
                continue;
            };
            let address = match end.ip_address.as_str() {
                "" => String::new(),
                address => format!("{address}/{}", end.ip_prefix_len),
            };
            containers.insert(
                record.id.clone(),
                json!({
                    "Name": record.name, "EndpointID": end.endpoint_id, "MacAddress": end.mac_address,
                    "IPv4Address": address, "IPv6Address": "",
                }),
            );
        }
    }
    json!({
        "Name": name,
        "Id": engine.network.id(name),
        "Created": time::ZERO,
        "Scope": "local",
        "Driver": driver(name),
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": ipam },
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers,
        "Options": options,
        "Labels": {},
    })
}
