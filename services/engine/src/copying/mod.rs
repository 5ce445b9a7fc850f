//! Files in and out of containers: where their root is, and the bytes between it and a client.
//!
//! ```text
//! running          /proc/<pid>/root, opened ──┐
//! created, exited  its layers and mounts, in   ├─► atoll-files, on a thread of its own ◄─► client
//!                  a mount namespace of a thread┘
//! in a machine     the guest's agent runs atoll-files ◄─ attach socket of the shim ─────► client
//! ```
//!
//! A container that does not run is held by its lock meanwhile, so that it is not started over the same writable layer.

mod idle;
mod machine;

use std::{
    io::{self, BufReader, Read, Write},
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use atoll_files::{Action, Fault, FaultKind, FilesError, Ids, PathStat, Request};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::{
    container::{ContainerRef, Record, Status, rootfs, volumes, wall},
    engine::{EngineRef, blocking},
    error::{Error, ErrorKind, Result},
};

/// Pieces that a slow client may leave waiting.
const PIECES: usize = 4;
/// Bytes of a piece.
const PIECE: usize = 64 << 10;
/// Stack of a copying thread.
const STACK: usize = 1 << 20;

/// What comes of an archive that is read: pieces, the last one an error if it was cut short.
pub(crate) type Pieces = mpsc::Receiver<Result<Bytes>>;

/// Opens the archive that is unpacked, on the thread that reads it.
pub(crate) type Input = Box<dyn FnOnce() -> io::Result<Box<dyn Read>> + Send>;

/// Looks at a path in a container.
///
/// # Errors
/// 404 when nothing is there, 409 when it cannot be looked at now.
pub(crate) async fn stat(
    engine: &EngineRef,
    container: &ContainerRef,
    path: &str,
) -> Result<PathStat> {
    let (stat, _) = begin(engine, container, path, Action::Stat).await?;
    Ok(stat)
}

/// Reads what is at a path in a container as an archive.
///
/// # Errors
/// As [`stat`].
pub(crate) async fn read(
    engine: &EngineRef,
    container: &ContainerRef,
    path: &str,
) -> Result<(PathStat, Pieces)> {
    begin(engine, container, path, Action::Read).await
}

/// Unpacks an archive in a folder of a container.
///
/// # Errors
/// 404 when the folder is not there, 400 when it is none, is read-only, or the archive is bad; 500 with the kernel's words.
pub(crate) async fn write(
    engine: &EngineRef,
    container: &ContainerRef,
    path: &str,
    options: atoll_files::Options,
    input: Input,
) -> Result<()> {
    let job = Job {
        request: Request {
            path: path.to_owned(),
            action: Action::Write(options),
        },
        input,
        output: None,
        found: None,
    };
    // Goes on when the client goes away: what it sent then ends.
    let (engine, container) = (EngineRef::clone(engine), ContainerRef::clone(container));
    crate::engine::uninterrupted(async move { run(&engine, &container, job).await }).await
}

async fn begin(
    engine: &EngineRef,
    container: &ContainerRef,
    path: &str,
    action: Action,
) -> Result<(PathStat, Pieces)> {
    let (found, hears) = oneshot::channel();
    let (output, pieces) = mpsc::channel(PIECES);
    let job = Job {
        request: Request {
            path: path.to_owned(),
            action,
        },
        input: Box::new(|| Ok(Box::new(io::empty()))),
        output: Some(output.clone()),
        found: Some(found),
    };
    let (engine, container) = (EngineRef::clone(engine), ContainerRef::clone(container));
    let running = tokio::spawn(async move {
        let outcome = run(&engine, &container, job).await;
        if let Err(error) = &outcome {
            // To whoever reads already; before that the error is the answer.
            let _ = output.send(Err(error.clone())).await;
        }
        outcome
    });
    match hears.await {
        Ok(stat) => Ok((stat, pieces)),
        Err(_) => match running.await {
            Ok(Err(error)) => Err(error),
            _ => Err(Error::internal("copying ended without a word")),
        },
    }
}

/// One request and the ends of its bytes.
struct Job {
    request: Request,
    input: Input,
    output: Option<mpsc::Sender<Result<Bytes>>>,
    found: Option<oneshot::Sender<PathStat>>,
}

impl Job {
    /// Serves it below `root`, or by somebody else who does: `serve` gets the ends.
    fn serve<T>(
        self,
        serve: impl FnOnce(&Request, Input, &mut dyn Write, &mut dyn FnMut(PathStat)) -> T,
    ) -> T {
        let Self {
            request,
            input,
            output,
            mut found,
        } = self;
        let mut output = Output {
            sender: output,
            piece: Vec::new(),
        };
        let served = serve(&request, input, &mut output, &mut |stat| {
            if let Some(found) = found.take() {
                let _ = found.send(stat);
            }
        });
        drop(found);
        served
    }
}

async fn run(engine: &EngineRef, container: &ContainerRef, job: Job) -> Result<()> {
    let operation = container.operation.lock().await;
    let record = container.record();
    let name = record.id.clone();
    match record.state.status {
        Status::Removing | Status::Dead => Err(Error::conflict(format!(
            "container {name} is marked for removal"
        ))),
        Status::Running | Status::Paused if wall::is_machine(&record.host_config) => {
            drop(operation);
            if record.state.status == Status::Paused {
                return Err(Error::conflict(format!(
                    "container {name} is paused, unpause it before copying: nothing in its machine can answer"
                )));
            }
            machine::run(container.running_shim()?, job).await
        }
        Status::Running | Status::Paused => {
            drop(operation);
            local(&name, job, move || running_root(&record)).await
        }
        _ => {
            // Held until it is done.
            let (ours, theirs) = (EngineRef::clone(engine), EngineRef::clone(engine));
            let (borrowed, lent) = (Arc::clone(&record), Arc::clone(&record));
            blocking(move || volumes::borrow(&ours, &borrowed)).await?;
            let outcome = local(&name, job, move || idle::root(&theirs, &record)).await;
            volumes::let_go(engine, &lent);
            drop(operation);
            outcome
        }
    }
}

/// Serves a request on a thread of its own: file systems of the container may make it wait for ever, and for a container that
/// does not run it is in a mount namespace of its own.
async fn local(
    name: &str,
    job: Job,
    open: impl FnOnce() -> Result<(OwnedFd, Ids)> + Send + 'static,
) -> Result<()> {
    let (done, hears) = oneshot::channel();
    let name = name.to_owned();
    let body = move || {
        let outcome = open().and_then(|(root, ids)| {
            job.serve(|request, input, output, on_found| {
                let input = input().map_err(|error| bad_archive(&error))?;
                let mut input = BufReader::with_capacity(PIECE, input);
                atoll_files::serve(root.as_fd(), ids, request, &mut input, output, on_found)
                    .map_err(|error| told(&name, request, &Fault::from(&error), Some(&error)))
            })
        });
        let _ = done.send(outcome);
    };
    let thread = std::thread::Builder::new().stack_size(STACK);
    thread
        .spawn(body)
        .map_err(|error| Error::caused(ErrorKind::Internal, "cannot start a thread", &error))?;
    hears
        .await
        .unwrap_or_else(|_| Err(Error::internal("the copying thread failed")))
}

fn running_root(record: &Record) -> Result<(OwnedFd, Ids)> {
    let root = rootfs::process_root(record.state.pid).map_err(|error| {
        Error::caused(
            ErrorKind::Internal,
            "cannot open the container's root",
            &error,
        )
    })?;
    let ids = match record.id_range {
        Some(range) => Ids::Shifted {
            first: range.first,
            count: range.size,
        },
        None => Ids::Same,
    };
    Ok((root, ids))
}

/// A failure in dockerd's words.
fn told(name: &str, request: &Request, fault: &Fault, error: Option<&FilesError>) -> Error {
    let path = &request.path;
    match fault.kind {
        FaultKind::NotFound => Error::not_found(format!(
            "Could not find the file {path} in container {name}"
        )),
        FaultKind::Invalid => Error::invalid(fault.message.clone()),
        FaultKind::NoSpace => Error::internal(fault.message.clone()).with_hint(Some(
            "what is written to is full: make room there".to_owned(),
        )),
        FaultKind::Other => match error {
            Some(FilesError::Output(_)) => Error::internal("the client has gone"),
            _ => Error::internal(fault.message.clone()),
        },
    }
}

/// An archive that cannot be opened, such as one that is compressed in a way nobody reads.
fn bad_archive(error: &io::Error) -> Error {
    Error::caused(
        ErrorKind::InvalidParameter,
        "cannot read the archive",
        error,
    )
}

/// Sends what is written in pieces; fails when the client has gone.
struct Output {
    sender: Option<mpsc::Sender<Result<Bytes>>>,
    piece: Vec<u8>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..length]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.piece));
        let sender = self.sender.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        let sent = sender.blocking_send(Ok(piece));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The shim of a machine.
type ShimRef = Arc<crate::shim::client::Shim>;
