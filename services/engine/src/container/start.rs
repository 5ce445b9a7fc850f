//! Starting a container: bundle, shim, network, attached clients, process.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use atoll_layer::WritableLayer;
use atoll_shim_protocol::{
    LogConfig, LogDriver, StdioUri, machine::MachineNetwork, spawn, start_error_exit_code,
};

use super::{
    ContainerRef, Record, Status,
    create::{chain_ids, lowers},
    ends::Ends,
    exit, files,
    handle::Durability,
    host_wall, mounts, remove,
    rootfs::Rootfs,
    spec::{self, SpecInput, devices},
    volumes::{self, Subpaths},
    wall,
};
use crate::{
    engine::{EngineRef, blocking, uninterrupted},
    error::{Error, ErrorKind, Result},
    settings,
    shim::client::{RootfsMount, Shim},
    time,
};

/// Starts a container.
///
/// # Errors
/// 304 when it runs; 409 when it is paused or being removed; else what failed, in runc's words where clients read them. The
/// record then has the exit code 127, 126 or 128, and the container stays created (or is removed, if it was to be).
pub(crate) async fn start(engine: &EngineRef, container: &ContainerRef) -> Result<()> {
    let engine = EngineRef::clone(engine);
    let container = ContainerRef::clone(container);
    uninterrupted(async move {
        let operation = container.operation.lock().await;
        let result = start_locked(&engine, &container).await;
        drop(operation);
        let failed = result
            .as_ref()
            .is_err_and(|error| error.kind() != ErrorKind::NotModified);
        if failed
            && container.record().host_config.auto_remove
            && !container.record().state.is_running()
        {
            let _ = remove::remove(&engine, &container, remove::How::AfterExit).await;
        }
        result
    })
    .await
}

/// As [`start`], for who holds the operation's lock.
///
/// # Errors
/// As [`start`].
pub(crate) async fn start_locked(engine: &EngineRef, container: &ContainerRef) -> Result<()> {
    let record = container.record();
    match record.state.status {
        Status::Running => return Err(Error::not_modified()),
        Status::Paused => {
            return Err(Error::conflict(
                "cannot start a paused container, try unpause instead",
            ));
        }
        Status::Removing | Status::Dead => {
            return Err(Error::conflict(
                "container is marked for removal and cannot be started",
            ));
        }
        Status::Created | Status::Exited | Status::Restarting => {}
    }
    let began = Instant::now();
    container.update_and_save(|record| {
        record.state.is_starting = true;
        record.state.error.clear();
        record.stopped_by_user = false;
    })?;
    let mut ends = match Ends::take(engine, &record) {
        Ok(ends) => ends,
        Err(error) => return Err(fail(engine, container, None, Ends::default(), error).await),
    };
    let bundle = engine.paths.bundle(container.id());
    let cards = match wall::is_machine(&record.host_config) {
        true => ends.plan_cards(),
        false => Ok(Vec::new()),
    };
    let cards = match cards {
        Ok(cards) => cards,
        Err(error) => return Err(fail(engine, container, None, ends, error).await),
    };
    let subpaths = match mount_volumes(engine, &record).await {
        Ok(subpaths) => subpaths,
        Err(error) => return Err(fail(engine, container, None, ends, error).await),
    };
    let shim = match prepare(engine, container, &bundle, &ends, cards, &subpaths) {
        Ok(shim) => shim,
        Err((shim, error)) => return Err(fail(engine, container, shim, ends, error).await),
    };
    match run(engine, container, &shim, &ends).await {
        Ok(pid) => {
            let record = container.record();
            tracing::info!(
                container = record.short_id(),
                pid,
                took = ?began.elapsed(),
                "started"
            );
            tokio::spawn(exit::monitor(
                EngineRef::clone(engine),
                ContainerRef::clone(container),
                shim,
            ));
            Ok(())
        }
        Err(error) => Err(fail(engine, container, Some(shim), ends, error).await),
    }
}

/// Mounts volumes that are no plain folders, and fills those that are empty.
async fn mount_volumes(engine: &EngineRef, record: &Arc<Record>) -> Result<Subpaths> {
    if record.mounts.iter().all(|point| point.kind != "volume") {
        return Ok(Subpaths::default());
    }
    let (engine, record) = (EngineRef::clone(engine), Arc::clone(record));
    // A server that does not answer is waited for by the kernel.
    blocking(move || {
        volumes::mount(&engine, &record)?;
        let filled = volumes::fill(&engine, &record, || rootfs(&engine, &record), true);
        filled.and_then(|()| Subpaths::open(&record))
    })
    .await
}

/// Starts the shim and, while it comes up, writes the bundle.
fn prepare(
    engine: &EngineRef,
    container: &ContainerRef,
    bundle: &Path,
    ends: &Ends,
    cards: Vec<MachineNetwork>,
    subpaths: &Subpaths,
) -> Result<Arc<Shim>, (Option<Arc<Shim>>, Error)> {
    let record = subpaths.applied_to(&container.record());
    make_bundle(bundle).map_err(|error| (None, error))?;
    let held = ends.holders().map_err(|error| (None, error))?;
    let shim = Shim::launch(
        &engine.settings.shim,
        container.id(),
        bundle,
        &engine.paths.runtime(),
        held,
    )
    .map_err(|error| (None, error))?;
    let shim = Arc::new(shim);
    match write_bundle(engine, &record, bundle, ends, cards) {
        Ok(()) => Ok(shim),
        Err(error) => Err((Some(shim), error)),
    }
}

fn make_bundle(bundle: &Path) -> Result<()> {
    let make = || {
        if bundle.exists() {
            fs::remove_dir_all(bundle)?;
        }
        fs::create_dir(bundle)?;
        fs::create_dir(bundle.join("rootfs"))
    };
    make().map_err(|error: std::io::Error| {
        Error::caused(
            ErrorKind::Internal,
            format!("cannot make bundle {}", bundle.display()),
            &error,
        )
    })
}

fn write_bundle(
    engine: &EngineRef,
    record: &Record,
    bundle: &Path,
    ends: &Ends,
    cards: Vec<MachineNetwork>,
) -> Result<()> {
    mounts::prepare(record.mounts.iter())?;
    let directory = engine.paths.container(&record.id);
    files::write(engine, &directory, record, ends)?;
    let groups = record.host_config.group_add.as_deref().unwrap_or_default();
    let identity = rootfs(engine, record).identity(&record.config.user, groups)?;
    let shared = |mode: &str| -> Result<Option<u32>> {
        let Some(name) = mode.strip_prefix("container:") else {
            return Ok(None);
        };
        let other = engine.containers.find(name)?;
        let state = &other.record().state;
        match state.pid {
            0 => Err(Error::conflict(format!(
                "cannot join the namespace of container {name}, which is not running"
            ))),
            pid => Ok(Some(pid)),
        }
    };
    let is_machine = wall::is_machine(&record.host_config);
    let input = SpecInput {
        record,
        identity: &identity,
        host: &engine.host,
        directory: &directory,
        cgroups_path: cgroups_path(engine, record),
        default_ulimits: &engine.settings.ulimits,
        devices: match is_machine {
            true => Vec::new(),
            false => devices::collect(&record.host_config)?,
        },
        cards,
        network_pid: shared(&record.host_config.network_mode)?,
        pid_pid: shared(&record.host_config.pid_mode)?,
        ipc_pid: shared(&record.host_config.ipc_mode)?,
    };
    let spec = spec::build(&input)?;
    let bytes = serde_json::to_vec(&spec)
        .map_err(|error| Error::internal(format!("cannot write the bundle: {error}")))?;
    fs::write(bundle.join("config.json"), bytes).map_err(|error| {
        Error::caused(
            ErrorKind::Internal,
            format!("cannot write bundle {}", bundle.display()),
            &error,
        )
    })
}

/// Creates the process, connects what must be connected before it runs, and lets it run; answers its id.
async fn run(
    engine: &EngineRef,
    container: &ContainerRef,
    shim: &Arc<Shim>,
    ends: &Ends,
) -> Result<u32> {
    let record = container.record();
    let stdio = stdio(engine, &record, shim.bundle());
    let mounts = rootfs_mounts(engine, &record).await?;
    let pid = shim
        .create(&mounts, record.config.tty, &stdio)
        .await
        .map_err(start_failed)?;
    let made = ends.connect(pid).await?;
    let must_be_kept = made.must_be_kept();
    container.update(|record| made.note(record));
    if must_be_kept {
        container.save(Durability::Process)?;
    }
    container
        .attach
        .connect_all(&stdio.attach_socket)
        .await
        .map_err(|error| Error::caused(ErrorKind::Internal, "cannot attach", &error))?;
    let pid = shim.start("").await.map_err(start_failed)?;
    container.set_shim(Some(Arc::clone(shim)));
    let machine = match wall::is_machine(&record.host_config) {
        true => wall::facts(shim.bundle()),
        false => None,
    };
    container.update_and_save(|record| {
        record.machine = machine;
        let state = &mut record.state;
        state.status = Status::Running;
        state.is_starting = false;
        state.pid = pid;
        state.exit_code = 0;
        state.oom_killed = false;
        state.started_at = time::now();
        state.finished_at = time::ZERO.to_owned();
    })?;
    engine.container_event(&container.record(), "start", &[]);
    Ok(pid)
}

/// Undoes a failed start and records why; answers the error for the client.
async fn fail(
    engine: &EngineRef,
    container: &ContainerRef,
    shim: Option<Arc<Shim>>,
    ends: Ends,
    error: Error,
) -> Error {
    if let Some(shim) = shim {
        let _ = shim.kill("", crate::signal::KILL, true).await;
        let _ = shim.delete("").await;
        shim.shutdown().await;
    }
    exit::remove_bundle(engine, container.id());
    volumes::unmount(engine, &container.record());
    let owner = EngineRef::clone(engine);
    let _ = blocking(move || {
        ends.release(&owner);
        Ok(())
    })
    .await;
    container.set_shim(None);
    container.attach.dismiss();
    let code = i64::from(start_error_exit_code(&error.to_string()));
    let saved = container.update_and_save(|record| {
        record.state.is_starting = false;
        if record.state.status == Status::Restarting {
            record.state.status = Status::Exited;
        }
        record.state.exit_code = code;
        record.state.error = error.to_string();
        record.state.pid = 0;
        record.published = None;
        record.exits += 1;
    });
    if let Err(error) = saved {
        tracing::error!(container = container.id(), %error, "cannot record a failed start");
    }
    tracing::warn!(container = container.record().short_id(), %error, "start failed");
    error
}

/// Puts dockerd's words around runc's, which clients look for.
fn start_failed(error: Error) -> Error {
    let code = start_error_exit_code(&error.to_string());
    let kind = if code == 128 {
        error.kind()
    } else {
        ErrorKind::InvalidParameter
    };
    // The docker CLI takes its exit code from the words of the whole message, so hints avoid them.
    // Other steps fail with the same words, a working directory that is a file for one.
    let is_of_program = error.to_string().contains("exec: \"");
    let hint = error.hint().or(match code {
        _ if !is_of_program => None,
        127 => Some("name a program that the image has, by its path or in the image's $PATH"),
        126 => Some("name a program, or make the file executable in the image"),
        _ => None,
    });
    let hint = hint.map(ToOwned::to_owned);
    Error::new(
        kind,
        format!("failed to create task for container: failed to create shim task: OCI runtime create failed: {error}"),
    )
    .with_hint(hint)
}

/// Where the container's cgroups go.
fn cgroups_path(engine: &EngineRef, record: &Record) -> String {
    let parent = match record.host_config.resources.cgroup_parent.as_str() {
        "" => engine.cgroup_parent.as_str(),
        parent => parent,
    };
    format!("{}/{}", parent.trim_end_matches('/'), record.id)
}

/// The files of a container that doesn't run.
pub(crate) fn rootfs(engine: &EngineRef, record: &Record) -> Rootfs {
    let writable = WritableLayer::of(&engine.paths.container(&record.id));
    let mut layers = vec![writable.diff()];
    layers.extend(lowers(engine, record));
    Rootfs::of_layers(layers)
}

/// What the shim makes the root file system of: one overlay of directories, or behind the wall of a machine each layer
/// as an image, top first, and what lies above them.
async fn rootfs_mounts(engine: &EngineRef, record: &Record) -> Result<Vec<RootfsMount>> {
    let writable = WritableLayer::of(&engine.paths.container(&record.id));
    let chain_ids = chain_ids(record);
    let is_layered = wall::is_machine(&record.host_config) && !chain_ids.is_empty();
    if !is_layered {
        let mut mount: RootfsMount = writable.mount(&lowers(engine, record)).into();
        mount
            .options
            .extend(host_wall::shift_options(record.id_range));
        return Ok(vec![mount]);
    }
    let engine = EngineRef::clone(engine);
    let images: Vec<PathBuf> = blocking(move || {
        let layers = engine.images.layers();
        let images = chain_ids.iter().map(|id| layers.erofs_image(id));
        images
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| {
                Error::caused(
                    ErrorKind::Internal,
                    "cannot make the image's layers into disks",
                    &error,
                )
            })
    })
    .await?;
    let mut mounts: Vec<RootfsMount> = images
        .iter()
        .map(|image| RootfsMount {
            kind: "erofs".to_owned(),
            source: image.to_string_lossy().into_owned(),
            options: vec!["ro".to_owned()],
        })
        .collect();
    mounts.push(writable.mount(&[]).into());
    Ok(mounts)
}

fn stdio(engine: &EngineRef, record: &Record, bundle: &Path) -> StdioUri {
    let log = &record.host_config.log_config;
    let option = |key: &str| log.config.get(key);
    StdioUri {
        attach_socket: bundle.join(spawn::ATTACH_SOCKET),
        log: Some(LogConfig {
            driver: if log.kind == "none" {
                LogDriver::None
            } else {
                LogDriver::JsonFile
            },
            path: engine.paths.log(&record.id),
            max_size_bytes: option("max-size")
                .and_then(|text| settings::parse_bytes(text))
                .and_then(|bytes| u64::try_from(bytes).ok())
                .filter(|bytes| *bytes > 0),
            max_files: option("max-file")
                .and_then(|text| text.parse().ok())
                .unwrap_or(1)
                .max(1),
        }),
        open_stdin: record.config.open_stdin,
        stdin_once: record.config.stdin_once,
    }
}
