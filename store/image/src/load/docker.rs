//! `manifest.json`, docker's own table of contents.
//!
//! Format: moby, image/tarexport; the fields are those `docker save` has written since 1.10.

use serde::Deserialize;

use super::{Content, ImagePlan};
use crate::{ImageError, Reference};
use atoll_layer::Digest;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

pub(super) fn plan(content: &Content, manifest: &[u8]) -> Result<Vec<ImagePlan>, ImageError> {
    let items: Vec<Item> = serde_json::from_slice(manifest).map_err(|source| ImageError::Json {
        what: "manifest.json",
        source,
    })?;
    items
        .into_iter()
        .map(|item| item_plan(content, item))
        .collect()
}

fn item_plan(content: &Content, item: Item) -> Result<ImagePlan, ImageError> {
    let path = item.config.trim_start_matches("./");
    let config = content
        .document(path)
        .ok_or_else(|| ImageError::Archive(format!("the configuration `{path}` is missing")))?;
    // Named by its digest: `<hex>.json` or `blobs/sha256/<hex>`.
    let name = path.rsplit('/').next().unwrap_or(path);
    let found = Digest::of(&config);
    if Digest::from_hex(name.trim_end_matches(".json")).is_some_and(|named| named != found) {
        return Err(ImageError::BlobDigest {
            name: path.to_owned(),
            found,
        });
    }
    let names = item
        .repo_tags
        .unwrap_or_default()
        .iter()
        .map(|name| name.parse::<Reference>())
        .collect::<Result<_, _>>()?;
    let layers = item.layers.unwrap_or_default();
    let layers = layers
        .iter()
        .map(|path| path.trim_start_matches("./").to_owned())
        .collect();
    Ok(ImagePlan {
        config,
        manifest: None,
        layers,
        names,
    })
}
