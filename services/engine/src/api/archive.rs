//! Copying files in and out of containers, their changes, their export: not available yet, and said so.

use crate::{
    engine::EngineRef,
    error::{Error, Result},
    http::{request::Request, response::Response},
};

/// GET, HEAD and PUT /containers/{id}/archive.
pub(crate) async fn archive(engine: &EngineRef, request: Request, id: &str) -> Result<Response> {
    engine.containers.find(id)?;
    let _ = request;
    Err(
        Error::not_implemented("copying files in and out of containers is not available yet")
            .with_hint(Some("pipe a tar through `docker exec -i`".to_owned())),
    )
}

/// GET /containers/{id}/changes.
pub(crate) async fn changes(engine: &EngineRef, id: &str) -> Result<Response> {
    engine.containers.find(id)?;
    Err(Error::not_implemented(
        "listing a container's changes is not available yet",
    ))
}

/// GET /containers/{id}/export.
pub(crate) async fn export(engine: &EngineRef, id: &str) -> Result<Response> {
    engine.containers.find(id)?;
    Err(Error::not_implemented(
        "exporting containers is not available yet",
    ))
}
