//! Networks: those that are always there and the users' own.

use std::{collections::BTreeMap, net::Ipv4Addr};

use atoll_network::Ipv4Net;
use http::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::{
    container::{ContainerRef, connect},
    engine::{EngineRef, blocking, uninterrupted},
    error::{Error, ErrorKind, Result},
    http::{
        query::Filters,
        request::Request,
        response::{self, Response},
    },
    network::{Asked, AskedPool, Net, NetRef, dns},
    time,
    types::EndpointConfig,
};

/// GET /networks.
pub(crate) fn list(engine: &EngineRef, request: &Request) -> Result<Response> {
    let filters = request.query.filters()?;
    filters.only(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
    let mut networks = engine.network.all();
    networks.retain(|net| matches(engine, net, &filters));
    networks.sort_by(|a, b| {
        (&a.record.created, &a.record.name).cmp(&(&b.record.created, &b.record.name))
    });
    let networks: Vec<Value> = networks
        .iter()
        .map(|net| network(engine, net, false))
        .collect();
    Ok(response::ok(&networks))
}

fn matches(engine: &EngineRef, net: &Net, filters: &Filters) -> bool {
    let record = &net.record;
    filters.any("name", |wanted| record.name.contains(wanted))
        && filters.any("id", |wanted| record.id.starts_with(wanted))
        && filters.any("driver", |wanted| wanted == record.driver)
        && filters.any("type", |wanted| {
            wanted
                == if net.is_builtin() {
                    "builtin"
                } else {
                    "custom"
                }
        })
        && filters.exact("scope", "local")
        && filters.labels("label", &record.labels)
        && filters.any("dangling", |wanted| {
            let is_dangling = !net.is_builtin() && members(engine, net, false).is_empty();
            matches!(wanted, "true" | "1") == is_dangling
        })
}

/// GET /networks/{id}.
pub(crate) fn inspect(engine: &EngineRef, request: &Request, id: &str) -> Result<Response> {
    if let Some(scope) = request.query.text("scope")
        && scope != "local"
    {
        return Err(Error::not_found(format!("network {id} not found")));
    }
    let net = engine.network.find(id)?;
    Ok(response::ok(&network(engine, &net, true)))
}

/// The body of POST /networks/create.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct CreateBody {
    name: String,
    driver: String,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_only: bool,
    config_from: Option<ConfigFrom>,
    scope: String,
    #[serde(rename = "IPAM")]
    ipam: Option<Ipam>,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: Option<bool>,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    #[serde(deserialize_with = "or_default")]
    options: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ConfigFrom {
    network: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Ipam {
    driver: String,
    #[serde(deserialize_with = "or_default")]
    config: Vec<IpamPool>,
    #[serde(deserialize_with = "or_default")]
    options: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct IpamPool {
    subnet: String,
    #[serde(rename = "IPRange")]
    ip_range: String,
    gateway: String,
    #[serde(deserialize_with = "or_default")]
    auxiliary_addresses: BTreeMap<String, String>,
}

/// Takes `null` for nothing, as Go does.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// POST /networks/create.
pub(crate) async fn create(engine: &EngineRef, mut request: Request) -> Result<Response> {
    let body: CreateBody = request.json().await?;
    let asked = asked(body)?;
    let owner = EngineRef::clone(engine);
    let net = uninterrupted(blocking(move || owner.network.create(asked))).await?;
    if let Err(error) = dns::serve(engine, &net).await {
        tracing::warn!(network = net.record.name, %error, "no name server; names don't resolve there");
    }
    network_event(engine, &net, "create", &[]);
    tracing::info!(
        network = net.record.name,
        link = net.record.link,
        "network created"
    );
    let answer = json!({ "Id": net.record.id, "Warning": "" });
    Ok(response::json(StatusCode::CREATED, &answer))
}

fn asked(body: CreateBody) -> Result<Asked> {
    match body.driver.as_str() {
        "" | "default" | "bridge" => {}
        "host" | "null" => {
            return Err(Error::new(
                ErrorKind::Forbidden,
                format!(
                    "only one instance of \"{}\" network is allowed",
                    body.driver
                ),
            ));
        }
        driver @ ("macvlan" | "ipvlan" | "overlay") => {
            return Err(Error::not_implemented(format!(
                "network driver {driver} is not available; bridge is"
            )));
        }
        driver => return Err(Error::not_found(format!("plugin {driver:?} not found"))),
    }
    let unavailable = [
        (body.enable_ipv6 == Some(true), "IPv6 of networks"),
        (body.enable_ipv4 == Some(false), "a network without IPv4"),
        (body.ingress, "an ingress network"),
        (
            body.config_only
                || body
                    .config_from
                    .is_some_and(|from| !from.network.is_empty()),
            "a configuration-only network",
        ),
        (
            !matches!(body.scope.as_str(), "" | "local"),
            "a scope but local",
        ),
    ];
    if let Some((_, what)) = unavailable.iter().find(|(asked, _)| *asked) {
        return Err(Error::not_implemented(format!("{what} is not available")));
    }
    Ok(Asked {
        name: body.name,
        pool: body.ipam.map(pool).transpose()?.flatten(),
        is_internal: body.internal,
        is_attachable: body.attachable,
        labels: body.labels,
        options: body.options,
    })
}

fn pool(ipam: Ipam) -> Result<Option<AskedPool>> {
    if !matches!(ipam.driver.as_str(), "" | "default") {
        return Err(Error::not_found(format!(
            "plugin {:?} not found",
            ipam.driver
        )));
    }
    if let Some(option) = ipam.options.keys().next() {
        return Err(Error::not_implemented(format!(
            "IPAM option {option} is not available"
        )));
    }
    let mut pools = ipam.config.into_iter();
    let Some(first) = pools.next() else {
        return Ok(None);
    };
    if pools.next().is_some() {
        return Err(Error::not_implemented(
            "several subnets in one network are not available",
        ));
    }
    let address = |text: &str| -> Result<Option<Ipv4Addr>> {
        match text {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| Error::invalid(format!("invalid IPv4 address: {text}"))),
        }
    };
    let net = |text: &str, what: &str| -> Result<Option<Ipv4Net>> {
        if text.is_empty() {
            return Ok(None);
        }
        if text.contains(':') {
            return Err(Error::not_implemented("IPv6 of networks is not available"));
        }
        let (address, net) = Ipv4Net::parse_with_address(text).map_err(|_| {
            Error::invalid(format!("invalid {what} {text}: it is not like 10.1.2.0/24"))
        })?;
        match address == net.network() {
            true => Ok(Some(net)),
            false => Err(Error::invalid(format!(
                "invalid {what} {text}: it should be {net}"
            ))),
        }
    };
    let mut auxiliary = BTreeMap::new();
    for (name, text) in &first.auxiliary_addresses {
        let parsed = address(text)?;
        auxiliary.extend(parsed.map(|address| (name.clone(), address)));
    }
    Ok(Some(AskedPool {
        subnet: net(&first.subnet, "subnet")?,
        gateway: address(&first.gateway)?,
        range: net(&first.ip_range, "IP range")?,
        auxiliary,
    }))
}

/// DELETE /networks/{id}.
pub(crate) async fn remove(engine: &EngineRef, id: &str) -> Result<Response> {
    let net = engine.network.find(id)?;
    remove_net(engine, &net).await?;
    Ok(response::empty(StatusCode::NO_CONTENT))
}

async fn remove_net(engine: &EngineRef, net: &NetRef) -> Result<()> {
    let users: Vec<(String, String)> = members(engine, net, true)
        .iter()
        .map(|container| (container.record().name.clone(), container.id().to_owned()))
        .collect();
    let (owner, removed) = (EngineRef::clone(engine), NetRef::clone(net));
    uninterrupted(blocking(move || owner.network.remove(&removed, &users))).await?;
    network_event(engine, net, "destroy", &[]);
    tracing::info!(network = net.record.name, "network removed");
    Ok(())
}

/// POST /networks/prune.
pub(crate) async fn prune(engine: &EngineRef, request: &Request) -> Result<Response> {
    let filters = request.query.filters()?;
    filters.only(&["label", "label!", "until"])?;
    let until = filters.values("until").first();
    let until = until
        .map(|text| {
            super::containers::until_nanos(text)
                .ok_or_else(|| Error::invalid(format!("invalid filter 'until={text}'")))
        })
        .transpose()?;
    let mut removed = Vec::new();
    for net in engine.network.all() {
        let labels = &net.record.labels;
        let is_kept = net.is_builtin()
            || !filters.labels("label", labels)
            || (!filters.values("label!").is_empty() && filters.labels("label!", labels))
            || until.is_some_and(|until| {
                time::unix_seconds(&net.record.created) * 1_000_000_000 >= until
            })
            || !members(engine, &net, false).is_empty();
        if is_kept {
            continue;
        }
        match remove_net(engine, &net).await {
            Ok(()) => removed.push(net.record.name.clone()),
            // Used or removed meanwhile.
            Err(error) if matches!(error.kind(), ErrorKind::Forbidden | ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    let list = if removed.is_empty() {
        Value::Null
    } else {
        removed.into()
    };
    Ok(response::ok(&json!({ "NetworksDeleted": list })))
}

/// The body of POST /networks/{id}/connect and disconnect.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ConnectBody {
    container: String,
    endpoint_config: Option<EndpointConfig>,
    force: bool,
}

/// POST /networks/{id}/connect.
pub(crate) async fn connect(
    engine: &EngineRef,
    mut request: Request,
    id: &str,
) -> Result<Response> {
    let body: ConnectBody = request.json().await?;
    let net = engine.network.find(id)?;
    let container = engine.containers.find(&body.container)?;
    let wanted = body.endpoint_config.unwrap_or_default();
    connect::connect(engine, &container, &net, wanted).await?;
    network_event(engine, &net, "connect", &[("container", container.id())]);
    Ok(response::empty(StatusCode::OK))
}

/// POST /networks/{id}/disconnect.
pub(crate) async fn disconnect(
    engine: &EngineRef,
    mut request: Request,
    id: &str,
) -> Result<Response> {
    let body: ConnectBody = request.json().await?;
    let net = engine.network.find(id)?;
    let container = match engine.containers.find(&body.container) {
        Ok(container) => container,
        // Forced, what is gone is disconnected.
        Err(_) if body.force => return Ok(response::empty(StatusCode::OK)),
        Err(error) => return Err(error),
    };
    connect::disconnect(engine, &container, &net).await?;
    network_event(engine, &net, "disconnect", &[("container", container.id())]);
    Ok(response::empty(StatusCode::OK))
}

fn network_event(engine: &EngineRef, net: &Net, action: &str, more: &[(&str, &str)]) {
    let mut attributes = BTreeMap::from([
        ("name".to_owned(), net.record.name.clone()),
        ("type".to_owned(), net.record.driver.clone()),
    ]);
    for (key, value) in more {
        attributes.insert((*key).to_owned(), (*value).to_owned());
    }
    engine
        .events
        .publish("network", action, &net.record.id, attributes);
}

/// The containers that have an end in a network, or with `running` those that have it now.
fn members(engine: &EngineRef, net: &Net, running: bool) -> Vec<ContainerRef> {
    let mut all = engine.containers.all();
    all.retain(|container| {
        let record = container.record();
        (!running || record.state.is_running())
            && record
                .networks
                .values()
                .any(|end| end.network_id == net.record.id)
    });
    all
}

fn network(engine: &EngineRef, net: &Net, with_containers: bool) -> Value {
    let record = &net.record;
    let ipam = match &record.pool {
        Some(pool) => {
            let mut config =
                json!({ "Subnet": pool.subnet.to_string(), "Gateway": pool.gateway.to_string() });
            if let Some(range) = pool.range {
                config["IPRange"] = range.to_string().into();
            }
            if !pool.auxiliary.is_empty() {
                config["AuxiliaryAddresses"] = json!(pool.auxiliary);
            }
            json!([config])
        }
        None => Value::Null,
    };
    let mut containers = BTreeMap::new();
    if with_containers {
        for container in members(engine, net, true) {
            let of = container.record();
            let ends = of.networks.values();
            for end in ends.filter(|end| end.network_id == record.id) {
                let address = match end.ip_address.as_str() {
                    "" => String::new(),
                    address => format!("{address}/{}", end.ip_prefix_len),
                };
                containers.insert(
                    of.id.clone(),
                    json!({
                        "Name": of.name, "EndpointID": end.endpoint_id, "MacAddress": end.mac_address,
                        "IPv4Address": address, "IPv6Address": "",
                    }),
                );
            }
        }
    }
    json!({
        "Name": record.name,
        "Id": record.id,
        "Created": record.created,
        "Scope": "local",
        "Driver": record.driver,
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": ipam },
        "Internal": record.is_internal,
        "Attachable": record.is_attachable,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers,
        "Options": options(engine, net),
        "Labels": record.labels,
    })
}

/// The options as they were given; of the default bridge, what they mean.
fn options(engine: &EngineRef, net: &Net) -> BTreeMap<String, String> {
    let mut options = net.record.options.clone();
    if let Some(bridge) = net.bridge().filter(|_| net.is_builtin()) {
        let host_address = engine.network.host_address().to_string();
        let own = [
            ("bridge.default_bridge", "true".to_owned()),
            ("bridge.enable_icc", "true".to_owned()),
            ("bridge.enable_ip_masquerade", "true".to_owned()),
            ("bridge.host_binding_ipv4", host_address),
            ("bridge.name", bridge.config().name().to_owned()),
            ("driver.mtu", bridge.config().mtu().to_string()),
        ];
        options.extend(own.map(|(key, value)| (format!("com.docker.network.{key}"), value)));
    }
    options
}
