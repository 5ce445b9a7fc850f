//! Copying files in and out of containers; their changes and their export are not available yet, and said so.

use atoll_files::{Options, PathStat};
use base64::Engine as _;
use http::{HeaderValue, Method};

use crate::{
    container::{ContainerRef, start},
    copying,
    engine::{EngineRef, blocking},
    error::{Error, ErrorKind, Result},
    http::{
        body::Body,
        request::Request,
        response::{self, Response},
    },
    time,
};

/// Header with what is at the path, as JSON in base64.
const STAT: &str = "x-docker-container-path-stat";

/// GET, HEAD and PUT /containers/{id}/archive.
pub(crate) async fn archive(engine: &EngineRef, request: Request, id: &str) -> Result<Response> {
    let path = request.query.text("path").map(ToOwned::to_owned);
    let container = engine.containers.find(id)?;
    let path = path.ok_or_else(|| Error::invalid("missing parameter in query: path"))?;
    if request.method == Method::PUT {
        return unpack(engine, &container, request, &path).await;
    }
    if request.method == Method::HEAD {
        let stat = copying::stat(engine, &container, &path).await?;
        return with_stat(response::empty(http::StatusCode::OK), &stat);
    }
    let (stat, pieces) = copying::read(engine, &container, &path).await?;
    let body = Body::Pieces(pieces);
    with_stat(response::body("application/x-tar", body), &stat)
}

async fn unpack(
    engine: &EngineRef,
    container: &ContainerRef,
    request: Request,
    path: &str,
) -> Result<Response> {
    let options = Options {
        keeps_kinds: request.query.flag("noOverwriteDirNonDir"),
        name: None,
        owner: match request.query.flag("copyUIDGID") {
            true => owner(engine, container).await?,
            false => None,
        },
    };
    let (body, feed) = request.into_reader();
    let input = Box::new(move || {
        let plain = atoll_layer::decompress(body);
        plain.map_err(std::io::Error::other)
    });
    let write = copying::write(engine, container, path, options, input);
    // The feed goes on when nobody reads any more, so that the client is there to hear why.
    let (outcome, ()) = tokio::join!(write, feed);
    outcome?;
    Ok(response::empty(http::StatusCode::OK))
}

/// Who files are given to: the container's user, if it has one; else the archive says.
async fn owner(engine: &EngineRef, container: &ContainerRef) -> Result<Option<(u32, u32)>> {
    let record = container.record();
    if record.config.user.is_empty() {
        return Ok(None);
    }
    let engine = EngineRef::clone(engine);
    let identity =
        blocking(move || start::rootfs(&engine, &record).identity(&record.config.user, &[]))
            .await?;
    Ok(Some((identity.uid, identity.gid)))
}

fn with_stat(mut response: Response, stat: &PathStat) -> Result<Response> {
    let text = serde_json::json!({
        "name": stat.name,
        "size": stat.size,
        "mode": stat.mode,
        "mtime": time::rfc3339(stat.mtime.0, stat.mtime.1),
        "linkTarget": stat.link_target,
    });
    let text = base64::engine::general_purpose::STANDARD.encode(text.to_string());
    let value = HeaderValue::from_str(&text)
        .map_err(|error| Error::caused(ErrorKind::Internal, "cannot answer", &error))?;
    response.headers_mut().insert(STAT, value);
    Ok(response)
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
