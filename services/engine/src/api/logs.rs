//! GET /containers/{id}/logs.

use crate::{
    engine::EngineRef,
    error::{Error, Result},
    http::{
        body::Body,
        hijack,
        request::Request,
        response::{self, Response},
    },
    logs::{self, LogRequest},
    time,
};

/// GET /containers/{id}/logs.
pub(crate) fn logs(engine: &EngineRef, request: &Request, id: &str) -> Result<Response> {
    let container = engine.containers.find(id)?;
    let record = container.record();
    let query = &request.query;
    if !query.flag("stdout") && !query.flag("stderr") {
        return Err(Error::invalid(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    if record.host_config.log_config.kind == "none" {
        return Err(Error::not_implemented(
            "configured logging driver does not support reading",
        ));
    }
    let moment = |key: &str| -> Result<Option<i64>> {
        match query.text(key) {
            None | Some("0") => Ok(None),
            Some(text) => time::parse_nanos(text)
                .map(Some)
                .ok_or_else(|| Error::invalid(format!("invalid {key}: {text}"))),
        }
    };
    let wanted = LogRequest {
        path: engine.paths.log(container.id()),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        timestamps: query.flag("timestamps"),
        raw: record.config.tty,
        // Anything that is no number means all, as in dockerd.
        tail: query.text("tail").and_then(|text| text.parse().ok()),
        since_nanos: moment("since")?,
        until_nanos: moment("until")?,
        follow: query.flag("follow"),
    };
    let (sender, body) = Body::channel();
    tokio::spawn(logs::stream(wanted, sender, container.watch()));
    Ok(response::body(
        hijack::content_type(request.version, record.config.tty),
        body,
    ))
}
