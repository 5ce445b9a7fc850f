//! Volumes: /volumes and what /system/df says of them.

use std::collections::BTreeMap;

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::system;
use crate::{
    container::{mounts, volumes},
    engine::{EngineRef, blocking},
    error::{Error, ErrorKind, Result},
    http::{
        query::Filters,
        request::Request,
        response::{self, Response},
        version::ApiVersion,
    },
    volume::{Asked, DRIVER, Volume},
};

/// From this version on, `prune` leaves volumes with a name unless `all` is asked for.
const PRUNES_ANONYMOUS: ApiVersion = ApiVersion::new(1, 42);

/// GET /volumes.
pub(crate) fn list(engine: &EngineRef, request: &Request) -> Result<Response> {
    let filters = request.query.filters()?;
    filters.only(&["dangling", "driver", "label", "name"])?;
    let dangling = filters.boolean("dangling")?;
    let is_shown = |volume: &Volume| {
        let record = volume.record();
        let is_dangling = || engine.volumes.users(&record.name).is_empty();
        filters.any("name", |wanted| record.name.contains(wanted))
            && filters.exact("driver", DRIVER)
            && filters.labels("label", &record.labels)
            && dangling.is_none_or(|wanted| wanted == is_dangling())
    };
    let volumes = engine.volumes.all().into_iter();
    let shown: Vec<Value> = volumes
        .filter(|volume| is_shown(volume))
        .map(|volume| volume.record().shown(&volume.data()))
        .collect();
    Ok(response::ok(&json!({ "Volumes": shown, "Warnings": null })))
}

/// GET /volumes/{name}.
pub(crate) fn inspect(engine: &EngineRef, name: &str) -> Result<Response> {
    let volume = engine.volumes.get(name)?;
    Ok(response::ok(&volume.record().shown(&volume.data())))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct CreateBody {
    name: String,
    driver: String,
    driver_opts: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    cluster_volume_spec: Option<Value>,
}

/// POST /volumes/create. One of this name is answered as it is.
pub(crate) async fn create(engine: &EngineRef, mut request: Request) -> Result<Response> {
    let body: CreateBody = request.json().await?;
    if body.cluster_volume_spec.is_some() {
        return Err(no_cluster());
    }
    mounts::check_driver(&body.driver)?;
    let asked = Asked {
        name: body.name,
        labels: body.labels,
        options: body.driver_opts,
    };
    let engine = EngineRef::clone(engine);
    let volume = blocking(move || {
        let (volume, is_new) = engine.volumes.obtain(&asked, None)?;
        if is_new {
            volumes::event(&engine, &volume, "create", &[]);
        }
        Ok(volume)
    })
    .await?;
    let shown = volume.record().shown(&volume.data());
    Ok(response::json(StatusCode::CREATED, &shown))
}

/// DELETE /volumes/{name}.
pub(crate) async fn remove(engine: &EngineRef, request: &Request, name: &str) -> Result<Response> {
    let is_forced = request.query.flag("force");
    let (engine, name) = (EngineRef::clone(engine), name.to_owned());
    blocking(move || match engine.volumes.remove(&name) {
        Ok(volume) => {
            volumes::event(&engine, &volume, "destroy", &[]);
            Ok(())
        }
        Err(error) if is_forced && error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    })
    .await?;
    Ok(response::empty(StatusCode::NO_CONTENT))
}

/// POST /volumes/prune.
pub(crate) async fn prune(engine: &EngineRef, request: &Request) -> Result<Response> {
    let filters = request.query.filters()?;
    filters.only(&["all", "label", "label!"])?;
    let all = filters.boolean("all")?;
    let all = all.unwrap_or(request.version < PRUNES_ANONYMOUS);
    let mut removed = Vec::new();
    let mut reclaimed_bytes = 0;
    for volume in engine.volumes.all() {
        let record = volume.record();
        if !is_prunable(&record.labels, all || record.is_anonymous(), &filters)
            || !engine.volumes.users(&record.name).is_empty()
        {
            continue;
        }
        let bytes = system::tree_bytes(volume.data()).await;
        match engine.volumes.remove(&record.name) {
            Ok(volume) => {
                volumes::event(engine, &volume, "destroy", &[]);
                removed.push(record.name.clone());
                reclaimed_bytes += bytes;
            }
            // A container got it meanwhile, or it is gone.
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    let attributes = BTreeMap::from([("reclaimed".to_owned(), reclaimed_bytes.to_string())]);
    engine.events.publish("volume", "prune", "", attributes);
    let list = match removed.is_empty() {
        true => Value::Null,
        false => removed.into(),
    };
    let answer = json!({ "VolumesDeleted": list, "SpaceReclaimed": reclaimed_bytes });
    Ok(response::ok(&answer))
}

fn is_prunable(labels: &BTreeMap<String, String>, is_meant: bool, filters: &Filters) -> bool {
    is_meant
        && filters.labels("label", labels)
        && (filters.values("label!").is_empty() || !filters.labels("label!", labels))
}

/// All volumes with their size and who has them, for /system/df.
pub(crate) async fn with_usage(engine: &EngineRef) -> Vec<Value> {
    let mut all = Vec::new();
    for volume in engine.volumes.all() {
        let mut shown = volume.record().shown(&volume.data());
        shown["UsageData"] = json!({
            "RefCount": engine.volumes.users(&volume.record().name).len(),
            "Size": system::tree_bytes(volume.data()).await,
        });
        all.push(shown);
    }
    all
}

/// The answer to what swarm's volumes need.
pub(crate) fn no_cluster() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "This node is not a swarm manager. Atoll has no swarm mode, so it has no cluster volumes.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_choose_what_is_pruned() {
        let labels = BTreeMap::from([("keep".to_owned(), "1".to_owned())]);
        let prunable = |text: &str| is_prunable(&labels, true, &Filters::parse(text).unwrap());
        assert!(prunable("{}") && prunable(r#"{"label":["keep"]}"#));
        assert!(!prunable(r#"{"label":["other"]}"#) && !prunable(r#"{"label!":["keep"]}"#));
        assert!(prunable(r#"{"label!":["other"]}"#));
        assert!(!is_prunable(&labels, false, &Filters::default()));
    }
}
