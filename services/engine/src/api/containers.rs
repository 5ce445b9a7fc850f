//! GET /containers/json, POST /containers/create, POST /containers/prune, DELETE /containers/{id}.

use std::collections::BTreeMap;

use atoll_layer::WritableLayer;
use http::StatusCode;
use serde_json::{Value, json};

use super::system;
use crate::{
    container::{
        ContainerRef, Record, Status,
        create::{self, CreateBody},
        remove::{self, How},
    },
    engine::EngineRef,
    error::{Error, ErrorKind, Result},
    http::{
        query::Filters,
        request::Request,
        response::{self, Response},
    },
    time,
};

const FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

/// GET /containers/json.
pub(crate) async fn list(engine: &EngineRef, request: &Request) -> Result<Response> {
    let filters = request.query.filters()?;
    filters.only(FILTERS)?;
    for status in filters.values("status") {
        let known = [
            "created",
            "restarting",
            "running",
            "removing",
            "paused",
            "exited",
            "dead",
        ];
        if !known.contains(&status.as_str()) {
            return Err(Error::invalid(format!("invalid filter 'status={status}'")));
        }
    }
    let limit = request.query.number("limit")?.unwrap_or(0);
    let is_filtered_by_state =
        !filters.values("status").is_empty() || !filters.values("exited").is_empty();
    let all = request.query.flag("all") || limit > 0 || is_filtered_by_state;
    let mut records: Vec<_> = engine
        .containers
        .all()
        .into_iter()
        .map(|container| container.record())
        .collect();
    records.sort_by(|a, b| b.created.cmp(&a.created));
    let created = |key: &str| -> Result<Option<String>> {
        filters
            .values(key)
            .first()
            .map(|name| Ok(engine.containers.find(name)?.record().created.clone()))
            .transpose()
    };
    let (before, since) = (created("before")?, created("since")?);
    let ancestors: Vec<String> = filters
        .values("ancestor")
        .iter()
        .filter_map(|name| engine.images.resolve(name).ok())
        .map(|image| image.id.to_string())
        .collect();
    let wants_size = request.query.flag("size");
    let mut summaries = Vec::new();
    for record in records {
        let is_shown = (all || record.state.is_running())
            && before
                .as_ref()
                .is_none_or(|before| record.created < *before)
            && since.as_ref().is_none_or(|since| record.created > *since)
            && (filters.values("ancestor").is_empty() || ancestors.contains(&record.image_id))
            && matches(&record, &filters);
        if !is_shown {
            continue;
        }
        let size = match wants_size {
            true => Some(writable_bytes(engine, &record.id).await),
            false => None,
        };
        summaries.push(summary(engine, &record, size));
        if limit > 0 && i64::try_from(summaries.len()).is_ok_and(|len| len >= limit) {
            break;
        }
    }
    Ok(response::ok(&summaries))
}

fn matches(record: &Record, filters: &Filters) -> bool {
    let name = format!("/{}", record.name);
    filters.any("id", |id| record.id.starts_with(id))
        && filters.any("name", |wanted| name_matches(&name, wanted))
        && filters.exact("status", record.state.status.name())
        && filters.any("exited", |code| {
            record.state.status == Status::Exited && code.parse() == Ok(record.state.exit_code)
        })
        && filters.labels("label", &record.config.labels)
        && filters.any("network", |wanted| {
            record
                .networks
                .iter()
                .any(|(name, end)| name == wanted || end.network_id == wanted)
        })
        && filters.any("volume", |wanted| {
            record.mounts.iter().any(|mount| {
                [&mount.name, &mount.source, &mount.destination].contains(&&wanted.to_owned())
            })
        })
        && filters.any("is-task", |wanted| wanted == "false" || wanted == "0")
        && filters.any("health", |wanted| wanted == "none")
        && filters.any("publish", |wanted| {
            let ports = record.published.iter().flat_map(|all| &all.bindings);
            ports
                .flat_map(|(port, list)| list.iter().map(move |at| (port, at)))
                .any(|(port, at)| {
                    let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
                    at.host_port == number && port.ends_with(protocol)
                })
        })
        && filters.any("expose", |wanted| {
            record
                .config
                .exposed_ports
                .keys()
                .any(|port| port == wanted || port.split('/').next() == Some(wanted))
        })
}

/// Docker takes the filter as a regular expression; of those, anchors and plain text are understood.
fn name_matches(name: &str, wanted: &str) -> bool {
    let from_start = wanted.strip_prefix('^');
    let text = from_start.unwrap_or(wanted);
    let to_end = text.strip_suffix('$');
    let text = to_end.unwrap_or(text);
    let bare = name.trim_start_matches('/');
    let candidates = [name, bare];
    candidates
        .iter()
        .any(|candidate| match (from_start.is_some(), to_end.is_some()) {
            (true, true) => *candidate == text,
            (true, false) => candidate.starts_with(text),
            (false, true) => candidate.ends_with(text),
            (false, false) => candidate.contains(text),
        })
}

/// One container as lists show it.
///
/// Docker Engine API v1.51, definition `ContainerSummary`.
pub(crate) fn summary(engine: &EngineRef, record: &Record, size: Option<u64>) -> Value {
    let mut command = record.path.clone();
    for argument in &record.args {
        command.push(' ');
        if argument.contains(' ') {
            command.push_str(&format!("'{argument}'"));
        } else {
            command.push_str(argument);
        }
    }
    let ports = ports(record);
    let image = match engine.images.resolve(&record.config.image) {
        Ok(image) if image.id.to_string() == record.image_id => record.config.image.clone(),
        // The name means another image by now.
        _ => record.image_id.clone(),
    };
    let networks: BTreeMap<&String, Value> = record
        .networks
        .iter()
        .map(|(name, end)| (name, super::inspect::endpoint(record, end)))
        .collect();
    let mut summary = json!({
        "Id": record.id,
        "Names": [format!("/{}", record.name)],
        "Image": image,
        "ImageID": record.image_id,
        "Command": command,
        "Created": time::unix_seconds(&record.created),
        "Ports": ports,
        "Labels": record.config.labels,
        "State": record.state.status.name(),
        "Status": record.state.words(),
        "HostConfig": { "NetworkMode": record.host_config.network_mode },
        "NetworkSettings": { "Networks": networks },
        "Mounts": record.shown_mounts(),
    });
    if let Some(bytes) = size {
        summary["SizeRw"] = bytes.into();
        summary["SizeRootFs"] = (bytes + image_bytes(engine, record)).into();
    }
    summary
}

/// Exposed ports, and where the published ones are reached.
fn ports(record: &Record) -> Vec<Value> {
    if !record.state.is_running() {
        return Vec::new();
    }
    let none = BTreeMap::new();
    let published = record.published.as_ref().map_or(&none, |all| &all.bindings);
    let exposed = record.config.exposed_ports.keys();
    let mut ports: Vec<Value> = exposed
        .filter(|port| !published.contains_key(*port))
        .filter_map(|port| {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            Some(json!({ "PrivatePort": number.parse::<u16>().ok()?, "Type": protocol }))
        })
        .collect();
    for (port, list) in published {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        for binding in list {
            ports.push(json!({
                "IP": binding.host_ip,
                "PrivatePort": number.parse::<u16>().unwrap_or(0),
                "PublicPort": binding.host_port.parse::<u16>().unwrap_or(0),
                "Type": protocol,
            }));
        }
    }
    ports
}

/// Size of the image's layers.
pub(crate) fn image_bytes(engine: &EngineRef, record: &Record) -> u64 {
    let id = record.image_id.parse().ok();
    id.and_then(|id| engine.images.get(&id))
        .map_or(0, |image| image.size_bytes)
}

/// Size of what a container has written.
pub(crate) async fn writable_bytes(engine: &EngineRef, id: &str) -> u64 {
    system::tree_bytes(WritableLayer::of(&engine.paths.container(id)).diff()).await
}

/// POST /containers/create.
pub(crate) async fn create(engine: &EngineRef, mut request: Request) -> Result<Response> {
    let body: CreateBody = request.json().await?;
    let name = request.query.text("name").map(ToOwned::to_owned);
    if let Some(platform) = request.query.text("platform") {
        let wanted = platform.to_ascii_lowercase();
        let (os, rest) = wanted.split_once('/').unwrap_or((&wanted, ""));
        let architecture = rest.split('/').next().unwrap_or_default();
        if os != "linux"
            || !matches!(architecture, "" | "x86_64") && architecture != system::architecture()
        {
            return Err(Error::not_found(format!(
                "image with reference {} was found but its platform does not match the requested platform {platform}",
                body.config.image
            )));
        }
    }
    let (container, warnings) = create::create(engine, name, body).await?;
    let answer = json!({ "Id": container.id(), "Warnings": warnings });
    Ok(response::json(StatusCode::CREATED, &answer))
}

/// DELETE /containers/{id}.
pub(crate) async fn remove(engine: &EngineRef, request: &Request, id: &str) -> Result<Response> {
    if request.query.flag("link") {
        return Err(Error::not_implemented("links are not available"));
    }
    let container = engine.containers.find(id)?;
    let how = if request.query.flag("force") {
        How::Forced
    } else {
        How::Asked
    };
    let takes_volumes = request.query.flag("v");
    remove::remove_with(engine, &container, how, takes_volumes).await?;
    Ok(response::empty(StatusCode::NO_CONTENT))
}

/// POST /containers/prune.
pub(crate) async fn prune(engine: &EngineRef, request: &Request) -> Result<Response> {
    let filters = request.query.filters()?;
    filters.only(&["label", "label!", "until"])?;
    let until = filters
        .values("until")
        .first()
        .map(|text| {
            until_nanos(text)
                .ok_or_else(|| Error::invalid(format!("invalid filter 'until={text}'")))
        })
        .transpose()?;
    let mut removed = Vec::new();
    let mut reclaimed_bytes = 0;
    for container in engine.containers.all() {
        if !is_prunable(&container, &filters, until) {
            continue;
        }
        let bytes = writable_bytes(engine, container.id()).await;
        match remove::remove(engine, &container, How::Asked).await {
            Ok(()) => {
                reclaimed_bytes += bytes;
                removed.push(container.id().to_owned());
            }
            // Started or removed meanwhile.
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    let list = if removed.is_empty() {
        Value::Null
    } else {
        removed.into()
    };
    Ok(response::ok(
        &json!({ "ContainersDeleted": list, "SpaceReclaimed": reclaimed_bytes }),
    ))
}

fn is_prunable(container: &ContainerRef, filters: &Filters, until: Option<i64>) -> bool {
    let record = container.record();
    let labels = &record.config.labels;
    matches!(
        record.state.status,
        Status::Created | Status::Exited | Status::Dead
    ) && !record.state.is_starting
        && filters.labels("label", labels)
        && (filters.values("label!").is_empty() || !filters.labels("label!", labels))
        && until.is_none_or(|until| time::unix_seconds(&record.created) * 1_000_000_000 < until)
}

/// A point in time, or a duration back from now such as `10m`.
pub(crate) fn until_nanos(text: &str) -> Option<i64> {
    if let Some(nanos) = time::parse_nanos(text) {
        return Some(nanos);
    }
    let mut seconds = 0_i64;
    let mut number = String::new();
    for letter in text.chars() {
        if letter.is_ascii_digit() {
            number.push(letter);
            continue;
        }
        let unit = match letter {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        seconds = seconds.checked_add(number.parse::<i64>().ok()?.checked_mul(unit)?)?;
        number.clear();
    }
    if !number.is_empty() {
        return None;
    }
    time::now_nanos().checked_sub(seconds.checked_mul(1_000_000_000)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_dockers_anchored_expressions() {
        assert!(name_matches("/web_1", "web"));
        assert!(name_matches("/web_1", "^/web_1$"));
        assert!(name_matches("/web_1", "^web"));
        assert!(!name_matches("/web_1", "^eb"));
        assert!(!name_matches("/web_1", "web$"));
    }

    #[test]
    fn until_takes_times_and_durations() {
        assert_eq!(until_nanos("1700000000"), Some(1_700_000_000_000_000_000));
        let ago = time::now_nanos() - until_nanos("1h30m").unwrap();
        assert!((5_399_000_000_000..5_401_000_000_000).contains(&ago));
        assert_eq!(until_nanos("soon"), None);
    }
}
