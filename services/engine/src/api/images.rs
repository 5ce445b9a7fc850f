//! GET /images/json, /images/{name}/json, /images/{name}/history; POST /images/{name}/tag, /images/prune; DELETE /images/{name}.

use std::collections::{BTreeMap, HashMap};

use atoll_image::{Digest, Image, ImageUse, Reference, RemoveItem};
use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    engine::{EngineRef, blocking},
    error::{Error, Result},
    http::{
        query::Filters,
        request::Request,
        response::{self, Response},
    },
    image_errors, time,
};

/// GET /images/json.
pub(crate) fn list(engine: &EngineRef, request: &Request) -> Result<Response> {
    let mut filters = request.query.filters()?;
    filters.only(&["before", "dangling", "label", "reference", "since", "until"])?;
    // The parameter of API versions before 1.41.
    if let Some(name) = request.query.text("filter") {
        filters.add("reference", name);
    }
    Ok(response::ok(&summaries(
        engine,
        &filters,
        request.query.flag("shared-size"),
    )?))
}

/// Images as lists show them, newest first.
///
/// # Errors
/// 400 for filters that aren't understood; 500 when the store fails.
pub(crate) fn summaries(engine: &EngineRef, filters: &Filters, counts: bool) -> Result<Vec<Value>> {
    let mut images = engine.images.list().map_err(image_errors::convert)?;
    images.sort_by(|a, b| {
        b.created
            .cmp(&a.created)
            .then_with(|| a.id.to_string().cmp(&b.id.to_string()))
    });
    let dangling = filters.boolean("dangling")?;
    let created = |key: &str| -> Result<Option<i64>> {
        filters
            .values(key)
            .first()
            .map(|name| {
                let image = engine.images.resolve(name).map_err(image_errors::convert)?;
                Ok(created_seconds(&image))
            })
            .transpose()
    };
    let (before, since) = (created("before")?, created("since")?);
    let mut uses: HashMap<String, i64> = HashMap::new();
    if counts {
        for container in engine.containers.all() {
            *uses.entry(container.record().image_id.clone()).or_default() += 1;
        }
    }
    let empty = BTreeMap::new();
    let summaries = images
        .iter()
        .filter(|image| {
            dangling.is_none_or(|wanted| image.repo_tags.is_empty() == wanted)
                && before.is_none_or(|before| created_seconds(image) < before)
                && since.is_none_or(|since| created_seconds(image) > since)
                && filters.labels(
                    "label",
                    image.config.config.labels.as_ref().unwrap_or(&empty),
                )
        })
        .filter_map(|image| {
            let tags: Vec<&String> = image
                .repo_tags
                .iter()
                .filter(|tag| filters.any("reference", |pattern| reference_matches(tag, pattern)))
                .collect();
            let is_hidden = tags.is_empty() && !filters.values("reference").is_empty();
            (!is_hidden).then(|| summary(image, &tags, counts, &uses))
        })
        .collect();
    Ok(summaries)
}

fn summary(image: &Image, tags: &[&String], counts: bool, uses: &HashMap<String, i64>) -> Value {
    let id = image.id.to_string();
    let count = if counts {
        uses.get(&id).copied().unwrap_or(0)
    } else {
        -1
    };
    json!({
        "Containers": count,
        "Created": created_seconds(image),
        "Id": id,
        "Labels": image.config.config.labels,
        "ParentId": "",
        "RepoDigests": image.repo_digests,
        "RepoTags": tags,
        "SharedSize": -1,
        "Size": image.size_bytes,
    })
}

fn created_seconds(image: &Image) -> i64 {
    image.created.as_deref().map_or(0, time::unix_seconds)
}

/// Docker's glob over `name:tag` or `name`: `*` and `?` stop at slashes.
fn reference_matches(tag: &str, pattern: &str) -> bool {
    let name = tag.rsplit_once(':').map_or(tag, |(name, _)| name);
    glob(pattern.as_bytes(), tag.as_bytes()) || glob(pattern.as_bytes(), name.as_bytes())
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // Iterative, so that a hostile pattern costs at most its length times the text's.
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'?') if text[t] != b'/' => (p, t) = (p + 1, t + 1),
            Some(byte) if *byte == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) if text[from] != b'/' => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                _ => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// GET /images/{name}/json.
pub(crate) fn inspect(engine: &EngineRef, request: &Request, name: &str) -> Result<Response> {
    let image = engine.images.resolve(name).map_err(image_errors::convert)?;
    let config = &image.config;
    let run = serde_json::to_value(&config.config).unwrap_or_default();
    let layers: Vec<String> = config
        .rootfs
        .diff_ids
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut shown = json!({
        "Id": image.id.to_string(),
        "RepoTags": image.repo_tags,
        "RepoDigests": image.repo_digests,
        "Parent": "",
        "Comment": config.comment.as_deref().unwrap_or_default(),
        "Created": image.created,
        "DockerVersion": config.docker_version.as_deref().unwrap_or_default(),
        "Author": config.author.as_deref().unwrap_or_default(),
        "Config": run,
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": image.size_bytes,
        "GraphDriver": { "Data": {}, "Name": "overlay2" },
        "RootFS": { "Type": "layers", "Layers": layers },
        "Metadata": { "LastTagTime": image.tagged_at.as_deref().unwrap_or(time::ZERO) },
    });
    if !request.version.at_least(45) || is_old_compose(request) {
        // That of the container the image was made from, which was configured as the image is.
        shown["ContainerConfig"] = shown["Config"].clone();
    }
    Ok(response::ok(&shown))
}

/// Whether the client is docker-compose 1: it asks in the newest version, but looks for an image's volumes in the
/// `ContainerConfig` of those before 1.45 when it makes a container anew.
fn is_old_compose(request: &Request) -> bool {
    let client = request.headers.get(http::header::USER_AGENT);
    client.is_some_and(|name| name.as_bytes().starts_with(b"docker-compose/1."))
}

/// GET /images/{name}/history.
pub(crate) fn history(engine: &EngineRef, name: &str) -> Result<Response> {
    let image = engine.images.resolve(name).map_err(image_errors::convert)?;
    let mut layers = image.chain_ids.iter();
    let mut entries: Vec<Value> = image
        .config
        .history
        .iter()
        .map(|step| {
            let bytes = if step.empty_layer {
                None
            } else {
                layers.next()
            }
            .and_then(|layer| engine.images.layers().size_bytes(layer).ok())
            .unwrap_or(0);
            json!({
                "Id": "<missing>",
                "Created": step.created.as_deref().map_or(0, time::unix_seconds),
                "CreatedBy": step.created_by.as_deref().unwrap_or_default(),
                "Tags": null,
                "Size": bytes,
                "Comment": step.comment.as_deref().unwrap_or_default(),
            })
        })
        .collect();
    entries.reverse();
    if let Some(newest) = entries.first_mut() {
        newest["Id"] = image.id.to_string().into();
        if !image.repo_tags.is_empty() {
            newest["Tags"] = image.repo_tags.clone().into();
        }
    }
    Ok(response::ok(&entries))
}

/// POST /images/{name}/tag.
pub(crate) async fn tag(engine: &EngineRef, request: &Request, name: &str) -> Result<Response> {
    let repository = request
        .query
        .text("repo")
        .ok_or_else(|| Error::invalid("repository name must have at least one component"))?;
    let text = match request.query.text("tag") {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    };
    let reference: Reference = text.parse().map_err(image_errors::convert)?;
    let images = engine.images.clone();
    let name = name.to_owned();
    let (id, familiar) = (name.clone(), reference.familiar());
    blocking(move || {
        let image = images.resolve(&name).map_err(image_errors::convert)?;
        images
            .tag(&image.id, &reference)
            .map_err(image_errors::convert)
    })
    .await?;
    event(engine, "tag", &id, &familiar);
    Ok(response::empty(StatusCode::CREATED))
}

/// DELETE /images/{name}.
pub(crate) async fn remove(engine: &EngineRef, request: &Request, name: &str) -> Result<Response> {
    let force = request.query.flag("force");
    let name = name.to_owned();
    let worker = EngineRef::clone(engine);
    let items = blocking(move || {
        worker
            .images
            .remove(&name, force, &|id| image_use(&worker, id))
            .map_err(image_errors::convert)
    })
    .await?;
    Ok(response::ok(&removed(engine, &items)))
}

/// POST /images/prune.
pub(crate) async fn prune(engine: &EngineRef, request: &Request) -> Result<Response> {
    let filters = request.query.filters()?;
    filters.only(&["dangling"])?;
    let is_all = filters.boolean("dangling")? == Some(false);
    let worker = EngineRef::clone(engine);
    let (items, reclaimed_bytes) = blocking(move || {
        let bytes = |engine: &EngineRef| -> u64 {
            engine.images.layers().list().map_or(0, |layers| {
                layers.iter().map(|layer| layer.size_bytes).sum()
            })
        };
        let before = bytes(&worker);
        let in_use = |id: &Digest| image_use(&worker, id);
        let mut items = worker
            .images
            .prune(&in_use)
            .map_err(image_errors::convert)?;
        if is_all {
            for image in worker.images.list().map_err(image_errors::convert)? {
                if in_use(&image.id).is_some() {
                    continue;
                }
                for tag in image.repo_tags.iter().chain(&image.repo_digests) {
                    // Gone with an earlier name of the same image.
                    items.extend(
                        worker
                            .images
                            .remove(tag, false, &in_use)
                            .unwrap_or_default(),
                    );
                }
            }
        }
        Ok((items, before.saturating_sub(bytes(&worker))))
    })
    .await?;
    let list = removed(engine, &items);
    let list = if list.is_empty() {
        Value::Null
    } else {
        list.into()
    };
    Ok(response::ok(
        &json!({ "ImagesDeleted": list, "SpaceReclaimed": reclaimed_bytes }),
    ))
}

fn removed(engine: &EngineRef, items: &[RemoveItem]) -> Vec<Value> {
    items
        .iter()
        .map(|item| match item {
            RemoveItem::Untagged(name) => {
                event(engine, "untag", name, name);
                json!({ "Untagged": name })
            }
            RemoveItem::Deleted(id) => {
                event(engine, "delete", id, id);
                json!({ "Deleted": id })
            }
        })
        .collect()
}

/// A container that uses an image, a running one first.
fn image_use(engine: &EngineRef, id: &Digest) -> Option<ImageUse> {
    let id = id.to_string();
    let users = engine
        .containers
        .all()
        .into_iter()
        .map(|container| container.record());
    users
        .filter(|record| record.image_id == id)
        .max_by_key(|record| record.state.is_running())
        .map(|record| ImageUse {
            container: record.short_id().to_owned(),
            is_running: record.state.is_running(),
        })
}

/// Publishes an image's event.
pub(crate) fn event(engine: &EngineRef, action: &str, id: &str, name: &str) {
    let attributes = BTreeMap::from([("name".to_owned(), name.to_owned())]);
    engine.events.publish("image", action, id, attributes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_match_globs() {
        assert!(reference_matches("bb:latest", "bb"));
        assert!(reference_matches("bb:latest", "b*:l?test"));
        assert!(reference_matches("a/b:1", "a/*"));
        assert!(!reference_matches("a/b:1", "*"));
        assert!(!reference_matches("bb:latest", "b"));
        assert!(glob(b"*a*a*a", b"aaaaaaaaaaaaaaaaaaaaaaaa"));
        assert!(!glob(b"*a*a*b", b"aaaaaaaaaaaaaaaaaaaaaaaa"));
    }
}
