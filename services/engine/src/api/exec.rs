//! POST /containers/{id}/exec, /exec/{id}/start, /exec/{id}/resize, GET /exec/{id}/json.

use std::sync::Arc;

use atoll_shim_protocol::{StreamKind, frame_header};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::{attach::detach_keys, lifecycle::terminal_size};
use crate::{
    engine::{EngineRef, uninterrupted},
    error::{Error, Result},
    exec::{self, Exec, ExecConfig},
    http::{
        connection::Connection,
        hijack::Hijack,
        request::Request,
        response::{self, Response},
    },
    shim::attach,
};

/// POST /containers/{id}/exec.
pub(crate) async fn create(engine: &EngineRef, mut request: Request, id: &str) -> Result<Response> {
    let container = engine.containers.find(id)?;
    let config: ExecConfig = request.json().await?;
    let id = exec::create(engine, &container, config)?;
    Ok(response::json(StatusCode::CREATED, &json!({ "Id": id })))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct StartBody {
    detach: bool,
    tty: bool,
    console_size: Option<[u16; 2]>,
}

/// POST /exec/{id}/start.
pub(crate) async fn start(engine: &EngineRef, mut request: Request, id: &str) -> Result<Response> {
    let exec = engine.execs.find(id)?;
    let body: StartBody = request.json().await?;
    if body.console_size.is_some() && !body.tty {
        return Err(Error::invalid(
            "console size is only for execs with a terminal",
        ));
    }
    let engine = EngineRef::clone(engine);
    if body.detach {
        exec::claim(&exec)?;
        uninterrupted(async move {
            exec::start(&engine, &exec, body.console_size, false)
                .await
                .map(drop)
        })
        .await?;
        return Ok(response::empty(StatusCode::OK));
    }
    let hijack = request.hijack()?;
    exec::claim(&exec)?;
    let response = hijack.response(request.version, exec.config.tty);
    tokio::spawn(async move { serve(&engine, &exec, hijack, body.console_size).await });
    Ok(response)
}

async fn serve(
    engine: &EngineRef,
    exec: &Arc<Exec>,
    hijack: Hijack,
    console_size: Option<[u16; 2]>,
) {
    let started = exec::start(engine, exec, console_size, true).await;
    let Ok(mut connection) = hijack.connection().await else {
        return;
    };
    match started {
        Ok(Some(stream)) => {
            let config = &exec.config;
            let keys = Some(config.detach_keys.as_str()).filter(|keys| !keys.is_empty());
            let keys = detach_keys(keys)
                .ok()
                .flatten()
                .filter(|_| config.tty && config.attach_stdin);
            // Whoever sees the end of the output asks for the exit code next.
            attach::proxy(connection, stream, config.attach_stdin, keys, exec.ended()).await;
        }
        Ok(None) => {}
        // The head has gone out, so the words go where the output would.
        Err(error) => refuse(&mut connection, exec.config.tty, &error).await,
    }
}

async fn refuse(connection: &mut Connection, is_tty: bool, error: &Error) {
    let words = format!("{}\r\n", error.client_message());
    let mut bytes = Vec::with_capacity(words.len() + 8);
    if !is_tty {
        let len = u32::try_from(words.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&frame_header(StreamKind::Stdout, len));
    }
    bytes.extend_from_slice(words.as_bytes());
    let _ = connection.write_all(&bytes).await;
    let _ = connection.shutdown().await;
}

/// POST /exec/{id}/resize.
pub(crate) async fn resize(engine: &EngineRef, request: &Request, id: &str) -> Result<Response> {
    let exec = engine.execs.find(id)?;
    let (rows, columns) = terminal_size(request)?;
    exec.container
        .running_shim()?
        .resize(&exec.id, rows, columns)
        .await?;
    Ok(response::empty(StatusCode::OK))
}

/// GET /exec/{id}/json.
pub(crate) fn inspect(engine: &EngineRef, id: &str) -> Result<Response> {
    let exec = engine.execs.find(id)?;
    let state = exec.state();
    let config = &exec.config;
    let words = config.cmd.as_deref().unwrap_or_default();
    let exit_code = state.exit_code.map_or(Value::Null, Value::from);
    Ok(response::ok(&json!({
        "ID": exec.id,
        "Running": state.is_running,
        "ExitCode": exit_code,
        "ProcessConfig": {
            "tty": config.tty,
            "entrypoint": words.first().map_or("", String::as_str),
            "arguments": words.get(1..).unwrap_or_default(),
            "privileged": config.privileged,
            "user": config.user,
        },
        "OpenStdin": config.attach_stdin,
        "OpenStderr": config.attach_stderr,
        "OpenStdout": config.attach_stdout,
        "CanRemove": false,
        "ContainerID": exec.container.id(),
        "DetachKeys": "",
        "Pid": state.pid,
    })))
}
