//! Volumes: none yet, and said so.

use serde_json::json;

use crate::{
    error::Error,
    http::response::{self, Response},
};

/// GET /volumes.
pub(crate) fn list() -> Response {
    response::ok(&json!({ "Volumes": [], "Warnings": null }))
}

/// POST /volumes/prune.
pub(crate) fn prune() -> Response {
    response::ok(&json!({ "VolumesDeleted": [], "SpaceReclaimed": 0 }))
}

/// The answer to POST /volumes/create.
pub(crate) fn unavailable() -> Error {
    Error::not_implemented("volumes are not available yet")
        .with_hint(Some("mount a directory by its absolute path".to_owned()))
}

/// The answer to anything about a volume.
pub(crate) fn no_such(name: &str) -> Error {
    Error::not_found(format!("get {name}: no such volume"))
}
