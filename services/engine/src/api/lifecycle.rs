//! Start, stop, restart, kill, pause, unpause, wait, resize, rename, update.

use bytes::Bytes;
use http::StatusCode;
use serde_json::json;
use tokio::sync::watch;

use crate::{
    container::{ContainerRef, Record, Status, lifecycle, start},
    engine::EngineRef,
    error::{Error, Result},
    http::{
        body::Body,
        request::Request,
        response::{self, Response},
    },
    signal,
    types::HostConfig,
};

/// POST /containers/{id}/start.
pub(crate) async fn start(engine: &EngineRef, request: &Request, id: &str) -> Result<Response> {
    if request.query.text("checkpoint").is_some() {
        return Err(Error::not_implemented("checkpoints are not available"));
    }
    let container = engine.containers.find(id)?;
    start::start(engine, &container).await?;
    Ok(no_content())
}

/// POST /containers/{id}/stop.
pub(crate) async fn stop(engine: &EngineRef, request: &Request, id: &str) -> Result<Response> {
    let container = engine.containers.find(id)?;
    let (signal, grace) = signal_and_grace(request)?;
    lifecycle::stop(engine, &container, signal, grace).await?;
    Ok(no_content())
}

/// POST /containers/{id}/restart.
pub(crate) async fn restart(engine: &EngineRef, request: &Request, id: &str) -> Result<Response> {
    let container = engine.containers.find(id)?;
    let (signal, grace) = signal_and_grace(request)?;
    lifecycle::restart(engine, &container, signal, grace).await?;
    Ok(no_content())
}

fn signal_and_grace(request: &Request) -> Result<(Option<u32>, Option<i64>)> {
    let signal = request
        .query
        .text("signal")
        .map(signal::parse)
        .transpose()?;
    Ok((signal, request.query.number("t")?))
}

/// POST /containers/{id}/kill.
pub(crate) async fn kill(engine: &EngineRef, request: &Request, id: &str) -> Result<Response> {
    let container = engine.containers.find(id)?;
    let signal = request
        .query
        .text("signal")
        .map_or(Ok(signal::KILL), signal::parse)?;
    lifecycle::kill(engine, &container, signal).await?;
    Ok(no_content())
}

/// POST /containers/{id}/pause and unpause.
pub(crate) async fn pause(engine: &EngineRef, id: &str, freeze: bool) -> Result<Response> {
    let container = engine.containers.find(id)?;
    lifecycle::pause(engine, &container, freeze).await?;
    Ok(no_content())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    NotRunning,
    NextExit,
    Removed,
}

/// POST /containers/{id}/wait: the head of the answer goes out at once, its body when the condition holds.
pub(crate) fn wait(engine: &EngineRef, request: &Request, id: &str) -> Result<Response> {
    let condition = match request.query.text("condition") {
        None | Some("not-running") => Condition::NotRunning,
        Some("next-exit") => Condition::NextExit,
        Some("removed") => Condition::Removed,
        Some(other) => return Err(Error::invalid(format!("invalid condition: {other:?}"))),
    };
    let container = engine.containers.find(id)?;
    // Subscribed before the answer's head goes out, so that a start after it is seen.
    let records = container.watch();
    let exits = records.borrow().exits;
    let (sender, body) = Body::channel();
    tokio::spawn(async move {
        let record = tokio::select! {
            record = wait_for(records, condition, exits) => record,
            () = sender.closed() => return,
        };
        let Some(record) = record else { return };
        // `Error` would mean that waiting failed; why a run failed is for inspect.
        let answer = json!({ "StatusCode": record.state.exit_code });
        let _ = sender.send(Bytes::from(format!("{answer}\n"))).await;
    });
    Ok(response::body("application/json", body))
}

async fn wait_for(
    mut records: watch::Receiver<std::sync::Arc<Record>>,
    condition: Condition,
    exits: u64,
) -> Option<std::sync::Arc<Record>> {
    let holds = |record: &std::sync::Arc<Record>| match condition {
        Condition::NotRunning => {
            !record.state.is_running()
                && !record.state.is_starting
                && record.state.status != Status::Restarting
        }
        Condition::NextExit => record.exits > exits || record.is_removed,
        Condition::Removed => record.is_removed,
    };
    let record = records.wait_for(holds).await.ok()?;
    Some(std::sync::Arc::clone(&record))
}

/// POST /containers/{id}/resize.
pub(crate) async fn resize(engine: &EngineRef, request: &Request, id: &str) -> Result<Response> {
    let container = engine.containers.find(id)?;
    let (rows, columns) = terminal_size(request)?;
    if let Some(shim) = container.shim() {
        shim.resize("", rows, columns).await?;
    } else {
        remember_size(&container, rows, columns)?;
    }
    Ok(response::empty(StatusCode::OK))
}

/// The size of a terminal that doesn't exist yet.
fn remember_size(container: &ContainerRef, rows: u16, columns: u16) -> Result<()> {
    if !container.record().state.is_starting {
        return Err(Error::conflict(format!(
            "container {} is not running",
            container.id()
        )));
    }
    container.update(|record| record.host_config.console_size = [rows, columns]);
    Ok(())
}

/// Height and width out of the query.
pub(crate) fn terminal_size(request: &Request) -> Result<(u16, u16)> {
    let side = |key: &str| -> Result<u16> {
        let text = request.query.text(key).unwrap_or_default();
        text.parse()
            .map_err(|_| Error::invalid(format!("invalid {key}: {text:?}")))
    };
    Ok((side("h")?, side("w")?))
}

/// POST /containers/{id}/rename.
pub(crate) fn rename(engine: &EngineRef, request: &Request, id: &str) -> Result<Response> {
    let container = engine.containers.find(id)?;
    let name = request
        .query
        .text("name")
        .ok_or_else(|| Error::invalid("Neither old nor new names may be empty"))?;
    lifecycle::rename(engine, &container, name)?;
    Ok(no_content())
}

/// POST /containers/{id}/update.
pub(crate) async fn update(engine: &EngineRef, mut request: Request, id: &str) -> Result<Response> {
    let container = engine.containers.find(id)?;
    let change: HostConfig = request.json().await?;
    lifecycle::update(engine, &container, change).await?;
    Ok(response::ok(&json!({ "Warnings": null })))
}

fn no_content() -> Response {
    response::empty(StatusCode::NO_CONTENT)
}
