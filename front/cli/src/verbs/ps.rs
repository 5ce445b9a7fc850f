//! `ps`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::arguments::PsArgs;
use crate::client::{Client, Target};
use crate::error::Error;
use crate::human;
use crate::table::List;

/// One container as the engine lists it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Summary {
    id: String,
    names: Vec<String>,
    image: String,
    #[serde(rename = "ImageID")]
    image_id: String,
    command: String,
    created: i64,
    state: String,
    status: String,
    ports: Option<Vec<Port>>,
    labels: Option<BTreeMap<String, String>>,
    mounts: Option<Vec<Value>>,
    network_settings: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Port {
    #[serde(rename = "IP")]
    ip: Option<String>,
    private_port: u16,
    public_port: Option<u16>,
    #[serde(rename = "Type")]
    protocol: String,
}

const COLUMNS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
];

/// `atoll ps`.
pub(super) async fn ps(client: &Client, args: &PsArgs) -> Result<(), Error> {
    let limit = if args.latest { Some(1) } else { args.last };
    let target = Target::new("/containers/json")
        .with_flag("all", args.all || limit.is_some())
        .with_some("limit", limit)
        .with_some("filters", filters(&args.filter)?);
    let containers: Vec<Summary> = client.get("list containers", &target).await?;
    let rows = containers
        .iter()
        .map(|one| row(one, args.list.no_trunc))
        .collect();
    List {
        columns: COLUMNS,
        rows,
    }
    .print(&args.list)
}

/// `key=value` filters as the API has them: `{"key": ["value", …]}`; `None` when there are none.
pub(super) fn filters(texts: &[String]) -> Result<Option<String>, Error> {
    let mut filters: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for text in texts {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| Error::value("--filter", text, "expected key=value"))?;
        filters.entry(key).or_default().push(value);
    }
    Ok((!filters.is_empty()).then(|| json!(filters).to_string()))
}

fn row(container: &Summary, is_whole: bool) -> Map<String, Value> {
    let names = container
        .names
        .iter()
        .map(|name| name.trim_start_matches('/'));
    let names = names.collect::<Vec<_>>().join(",");
    let labels = container
        .labels
        .iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"));
    let mounts = container.mounts.iter().flatten().filter_map(|mount| {
        mount
            .get("Name")
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty())
            .or_else(|| mount.get("Source").and_then(Value::as_str))
    });
    let networks = container
        .network_settings
        .as_ref()
        .and_then(|settings| settings.get("Networks")?.as_object())
        .map(|networks| networks.keys().cloned().collect::<Vec<_>>().join(","))
        .unwrap_or_default();
    let ports = container
        .ports
        .iter()
        .flatten()
        .map(port)
        .collect::<Vec<_>>()
        .join(", ");
    let image = if container.image.is_empty() {
        &container.image_id
    } else {
        &container.image
    };
    let (id, command) = if is_whole {
        (container.id.clone(), container.command.clone())
    } else {
        (
            human::short_id(&container.id),
            human::shorten(&container.command, 20),
        )
    };
    let fields = json!({
        "ID": id,
        "Image": image,
        "Command": format!("\"{command}\""),
        "CreatedAt": human::time(container.created),
        "RunningFor": human::ago(container.created),
        "State": container.state,
        "Status": container.status,
        "Ports": ports,
        "Names": names,
        "Labels": labels.collect::<Vec<_>>().join(","),
        "Mounts": mounts.collect::<Vec<_>>().join(","),
        "Networks": networks,
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn port(port: &Port) -> String {
    let inner = format!("{}/{}", port.private_port, port.protocol);
    match (&port.ip, port.public_port) {
        (Some(ip), Some(public)) if ip.contains(':') => format!("[{ip}]:{public}->{inner}"),
        (Some(ip), Some(public)) => format!("{ip}:{public}->{inner}"),
        (None, Some(public)) => format!("{public}->{inner}"),
        (_, None) => inner,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_becomes_dockers_row() {
        let summary: Summary = serde_json::from_value(json!({
            "Id": "0123456789abcdef0123", "Names": ["/web"], "Image": "nginx",
            "Command": "nginx -g 'daemon off;' and more", "Created": 0, "State": "running",
            "Status": "Up 2 seconds", "Labels": {"a": "b"},
            "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
                      {"PrivatePort": 443, "Type": "tcp"}],
            "NetworkSettings": {"Networks": {"bridge": {}}},
        }))
        .unwrap();
        let row = row(&summary, false);
        assert_eq!(row["ID"], "0123456789ab");
        assert_eq!(row["Command"], "\"nginx -g 'daemon of…\"");
        assert_eq!(row["Ports"], "0.0.0.0:8080->80/tcp, 443/tcp");
        assert_eq!(
            (&row["Names"], &row["Networks"]),
            (&json!("web"), &json!("bridge"))
        );
    }

    #[test]
    fn filters_are_grouped_by_key() {
        let texts = ["status=exited", "label=a=b", "status=created"].map(str::to_owned);
        let expected = r#"{"label":["a=b"],"status":["exited","created"]}"#;
        assert_eq!(filters(&texts).unwrap().as_deref(), Some(expected));
        assert_eq!(filters(&[]).unwrap(), None);
        assert!(filters(&["status".to_owned()]).is_err());
    }
}
