//! `network` and `port`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::inspect::show;
use super::lifecycle::each;
use super::ps::filters;
use crate::arguments::network::{
    ConnectArgs, CreateNetworkArgs, DisconnectArgs, InspectNetworksArgs, ListNetworksArgs,
    NetworkVerb, PortArgs, PruneNetworksArgs,
};
use crate::client::{Client, Target};
use crate::error::Error;
use crate::table::List;
use crate::{human, print, values};

/// `atoll network`.
pub(super) async fn network(client: &Client, verb: &NetworkVerb) -> Result<(), Error> {
    match verb {
        NetworkVerb::Create(args) => create(client, args).await,
        NetworkVerb::Ls(args) => list(client, args).await,
        NetworkVerb::Inspect(args) => inspect(client, args).await,
        NetworkVerb::Rm(args) => remove(client, &args.names).await,
        NetworkVerb::Prune(args) => prune(client, args).await,
        NetworkVerb::Connect(args) => connect(client, args).await,
        NetworkVerb::Disconnect(args) => disconnect(client, args).await,
    }
}

async fn create(client: &Client, args: &CreateNetworkArgs) -> Result<(), Error> {
    let target = Target::new("/networks/create");
    let action = format!("create network {}", args.name);
    let answer = client
        .post(&action, &target, Some(&create_body(args)))
        .await?;
    print::line(answer["Id"].as_str().unwrap_or_default())
}

fn create_body(args: &CreateNetworkArgs) -> Value {
    let mut pool = Map::new();
    for (key, value) in [
        ("Subnet", &args.subnet),
        ("Gateway", &args.gateway),
        ("IPRange", &args.ip_range),
    ] {
        if let Some(value) = value {
            pool.insert(key.to_owned(), value.as_str().into());
        }
    }
    let mut body = json!({
        "Name": args.name,
        "Driver": args.driver,
        "Internal": args.internal,
        "Labels": values::pairs(&args.label),
        "Options": values::pairs(&args.opt),
    });
    if !pool.is_empty() {
        body["IPAM"] = json!({ "Config": [pool] });
    }
    body
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Summary {
    id: String,
    name: String,
    driver: String,
    scope: String,
    created: String,
    internal: bool,
    labels: Option<BTreeMap<String, String>>,
    #[serde(rename = "IPAM")]
    ipam: Value,
}

const COLUMNS: &[(&str, &str)] = &[
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Subnet", "SUBNET"),
];

async fn list(client: &Client, args: &ListNetworksArgs) -> Result<(), Error> {
    let target = Target::new("/networks").with_some("filters", filters(&args.filter)?);
    let networks: Vec<Summary> = client.get("list networks", &target).await?;
    let rows = networks
        .iter()
        .map(|one| row(one, args.list.no_trunc))
        .collect();
    List {
        columns: COLUMNS,
        rows,
    }
    .print(&args.list)
}

fn row(network: &Summary, is_whole: bool) -> Map<String, Value> {
    let labels = network.labels.iter().flatten();
    let labels: Vec<String> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let id = match is_whole {
        true => network.id.clone(),
        false => human::short_id(&network.id),
    };
    let fields = json!({
        "ID": id,
        "Name": network.name,
        "Driver": network.driver,
        "Scope": network.scope,
        "Subnet": network.ipam["Config"][0]["Subnet"].as_str().unwrap_or_default(),
        "Internal": network.internal.to_string(),
        "CreatedAt": network.created,
        "Labels": labels.join(","),
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

async fn inspect(client: &Client, args: &InspectNetworksArgs) -> Result<(), Error> {
    show(&args.names, args.format.as_deref(), async |name| {
        let target = Target::object("networks", name, "");
        client
            .get(&format!("inspect network {name}"), &target)
            .await
    })
    .await
}

async fn remove(client: &Client, names: &[String]) -> Result<(), Error> {
    each(names, async |name| {
        let target = Target::object("networks", name, "");
        client
            .delete(&format!("remove network {name}"), &target)
            .await
    })
    .await
}

async fn prune(client: &Client, args: &PruneNetworksArgs) -> Result<(), Error> {
    let target = Target::new("/networks/prune").with_some("filters", filters(&args.filter)?);
    let answer = client.post("remove unused networks", &target, None).await?;
    let removed = answer["NetworksDeleted"].as_array();
    removed
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .try_for_each(print::line)
}

async fn connect(client: &Client, args: &ConnectArgs) -> Result<(), Error> {
    let mut end = json!({ "Aliases": args.alias });
    if let Some(ip) = &args.ip {
        end["IPAMConfig"] = json!({ "IPv4Address": ip });
    }
    let body = json!({ "Container": args.container, "EndpointConfig": end });
    let action = format!("connect {} to network {}", args.container, args.network);
    let target = Target::object("networks", &args.network, "connect");
    client.post(&action, &target, Some(&body)).await.map(drop)
}

async fn disconnect(client: &Client, args: &DisconnectArgs) -> Result<(), Error> {
    let body = json!({ "Container": args.container, "Force": args.force });
    let action = format!("take {} out of network {}", args.container, args.network);
    let target = Target::object("networks", &args.network, "disconnect");
    client.post(&action, &target, Some(&body)).await.map(drop)
}

/// `atoll port`.
pub(super) async fn port(client: &Client, args: &PortArgs) -> Result<(), Error> {
    let action = format!("look at container {}", args.container);
    let target = Target::object("containers", &args.container, "json");
    let details: Value = client.get(&action, &target).await?;
    let none = Map::new();
    let ports = details["NetworkSettings"]["Ports"].as_object();
    let lines = port_lines(ports.unwrap_or(&none), args.port.as_deref());
    if let (Some(port), true) = (&args.port, lines.is_empty()) {
        let expected = format!("container {} does not publish it", args.container);
        return Err(Error::value("port", port, &expected));
    }
    lines.iter().try_for_each(|line| print::line(line))
}

/// Where the ports are reached, the port itself in front unless one is asked for.
fn port_lines(ports: &Map<String, Value>, wanted: Option<&str>) -> Vec<String> {
    let wanted = wanted.map(|port| match port.contains('/') {
        true => port.to_owned(),
        false => format!("{port}/tcp"),
    });
    let mut lines = Vec::new();
    for (port, bindings) in ports {
        if wanted.as_ref().is_some_and(|wanted| wanted != port) {
            continue;
        }
        for binding in bindings.as_array().into_iter().flatten() {
            let text = |key: &str| binding[key].as_str().unwrap_or_default();
            let at = format!("{}:{}", text("HostIp"), text("HostPort"));
            lines.push(match wanted {
                Some(_) => at,
                None => format!("{port} -> {at}"),
            });
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_told_as_docker_does() {
        let ports = json!({
            "80/tcp": [{ "HostIp": "0.0.0.0", "HostPort": "8080" }],
            "53/udp": [{ "HostIp": "127.0.0.1", "HostPort": "5353" }],
            "443/tcp": null,
        });
        let ports = ports.as_object().unwrap();
        assert_eq!(
            port_lines(ports, None),
            ["53/udp -> 127.0.0.1:5353", "80/tcp -> 0.0.0.0:8080"]
        );
        assert_eq!(port_lines(ports, Some("80")), ["0.0.0.0:8080"]);
        assert_eq!(port_lines(ports, Some("53/udp")), ["127.0.0.1:5353"]);
        assert!(port_lines(ports, Some("443")).is_empty());
    }
}
