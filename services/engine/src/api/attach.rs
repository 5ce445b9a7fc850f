//! POST /containers/{id}/attach.

use atoll_shim_protocol::{AttachRequest, Framing, spawn};
use tokio::io::AsyncWriteExt as _;

use crate::{
    container::{ContainerRef, Status},
    engine::EngineRef,
    error::{Error, ErrorKind, Result},
    http::{
        body::Body, connection::Connection, hijack::Hijack, request::Request, response::Response,
    },
    logs::{self, LogRequest},
    shim::attach,
};

/// POST /containers/{id}/attach: before the start, the client waits for it; then it gets all output from the first byte.
pub(crate) async fn attach(engine: &EngineRef, mut request: Request, id: &str) -> Result<Response> {
    let container = engine.containers.find(id)?;
    let record = container.record();
    if record.state.status == Status::Paused {
        return Err(Error::conflict(format!(
            "container {} is paused, unpause the container before attach",
            record.id
        )));
    }
    let query = &request.query;
    let tty = record.config.tty;
    let wants = AttachRequest {
        stdin: query.flag("stdin") && record.config.open_stdin,
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        framing: if tty {
            Framing::Raw
        } else {
            Framing::Multiplexed
        },
    };
    let detach_keys = detach_keys(query.text("detachKeys"))?.filter(|_| tty && wants.stdin);
    let (wants_logs, wants_stream) = (query.flag("logs"), query.flag("stream"));
    let version = request.version;
    let hijack = request.hijack()?;
    let response = hijack.response(version, tty);
    // Registered before the answer: whoever sees it may start the container.
    let source = if wants_stream {
        source(&container, wants.clone()).await?
    } else {
        Source::None
    };
    let past = wants_logs.then(|| LogRequest {
        path: engine.paths.log(container.id()),
        stdout: wants.stdout,
        stderr: wants.stderr,
        raw: tty,
        ..LogRequest::default()
    });
    engine.container_event(&record, "attach", &[]);
    let engine = EngineRef::clone(engine);
    tokio::spawn(async move {
        let detached = serve(hijack, &container, past, source, wants.stdin, detach_keys).await;
        if detached {
            engine.container_event(&container.record(), "detach", &[]);
        }
    });
    Ok(response)
}

/// Keys of a query, or the usual ones.
///
/// # Errors
/// 400 when they aren't keys.
pub(crate) fn detach_keys(text: Option<&str>) -> Result<Option<Vec<u8>>> {
    match text {
        None => Ok(Some(attach::DETACH_KEYS.to_vec())),
        Some(text) => attach::parse_detach_keys(text)
            .map(Some)
            .ok_or_else(|| Error::invalid(format!("Invalid detach keys ({text})"))),
    }
}

/// Where the container's streams come from.
enum Source {
    /// The container runs.
    Now(tokio::net::UnixStream),
    /// It is to be started.
    Later(tokio::sync::oneshot::Receiver<tokio::net::UnixStream>),
    /// Only the past is wanted.
    None,
}

async fn source(container: &ContainerRef, wants: AttachRequest) -> Result<Source> {
    if !container.record().state.is_running() {
        return Ok(Source::Later(container.attach.wait(wants)));
    }
    let socket = container
        .running_shim()?
        .bundle()
        .join(spawn::ATTACH_SOCKET);
    let stream = attach::connect(&socket, &wants)
        .await
        .map_err(|error| Error::caused(ErrorKind::Internal, "cannot attach", &error))?;
    Ok(Source::Now(stream))
}

async fn serve(
    hijack: Hijack,
    container: &ContainerRef,
    past: Option<LogRequest>,
    source: Source,
    has_stdin: bool,
    detach_keys: Option<Vec<u8>>,
) -> bool {
    let Ok(mut connection) = hijack.connection().await else {
        return false;
    };
    if let Some(past) = past
        && send_past(&mut connection, past, container).await.is_err()
    {
        return false;
    }
    let shim = match source {
        Source::Now(stream) => stream,
        Source::Later(stream) => match stream.await {
            Ok(stream) => stream,
            // The start failed, or the container is gone.
            Err(_) => return false,
        },
        Source::None => {
            let _ = connection.shutdown().await;
            return false;
        }
    };
    attach::proxy(connection, shim, has_stdin, detach_keys, async {}).await
}

async fn send_past(
    connection: &mut Connection,
    past: LogRequest,
    container: &ContainerRef,
) -> std::io::Result<()> {
    let (sender, body) = Body::channel();
    let Body::Stream(mut chunks) = body else {
        return Ok(());
    };
    tokio::spawn(logs::stream(past, sender, container.watch()));
    while let Some(chunk) = chunks.recv().await {
        connection.write_all(&chunk).await?;
    }
    Ok(())
}
