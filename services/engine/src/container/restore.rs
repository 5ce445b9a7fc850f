//! After a restart of the engine: reads the records and finds out what became of each container meanwhile.

use std::{fs, path::Path, sync::Arc};

use super::{
    ContainerRef, Record, Status, ends, exit,
    handle::{Container, Durability},
    remove, start, volumes,
};
use crate::{
    engine::EngineRef,
    error::{Error, ErrorKind, Result},
    shim::client::{Shim, TaskStatus},
};

/// Reads all records into the registry. Directories without one were never acknowledged and go.
///
/// # Errors
/// 500 when the containers' directory can't be read.
pub(crate) fn load(engine: &EngineRef) -> Result<()> {
    let directory = engine.paths.containers();
    let entries = fs::read_dir(&directory).map_err(|error| {
        Error::caused(
            ErrorKind::Internal,
            format!("cannot read {}", directory.display()),
            &error,
        )
    })?;
    for entry in entries.flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        let path = engine.paths.record(&id);
        match read(&path) {
            Ok(Some(record)) if record.id == id => {
                if let Err(error) = engine.containers.reserve(&record.name, &id) {
                    tracing::error!(container = id, %error, "two containers have one name; this one is left out");
                    continue;
                }
                if record.state.is_running() || record.state.is_starting {
                    ends::adopt(engine, &record);
                }
                volumes::note(engine, &record);
                engine
                    .containers
                    .insert(Arc::new(Container::new(record, path)));
            }
            Ok(None) => {
                tracing::info!(container = id, "half-made container removed");
                let _ = fs::remove_dir_all(entry.path());
            }
            Ok(Some(_)) => {
                tracing::error!(container = id, "record is of another container; left out");
            }
            Err(error) => tracing::error!(container = id, %error, "record is unreadable; left out"),
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Option<Record>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::caused(ErrorKind::Internal, "cannot read it", &error)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Error::caused(ErrorKind::Internal, "invalid record", &error))
}

/// Finds out what became of every container, all at the same time, and follows the running ones.
pub(crate) async fn reconcile(engine: &EngineRef) {
    remove_strays(engine).await;
    let tasks: Vec<_> = engine
        .containers
        .all()
        .into_iter()
        .map(|container| {
            let engine = EngineRef::clone(engine);
            tokio::spawn(async move { reconcile_one(&engine, &container).await })
        })
        .collect();
    for task in tasks {
        let _ = task.await;
    }
}

/// Bundles and runtime state of containers nobody knows.
async fn remove_strays(engine: &EngineRef) {
    for directory in [engine.paths.bundles(), engine.paths.runtime()] {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            if engine
                .containers
                .find(&id)
                .is_ok_and(|found| found.id() == id)
            {
                continue;
            }
            tracing::info!(container = id, "what an unknown container left is removed");
            if let Ok(shim) = Shim::connect(&id, &engine.paths.bundle(&id)) {
                give_up(&shim).await;
            }
            exit::free(engine, &id).await;
            let _ = fs::remove_dir_all(engine.paths.bundle(&id));
        }
    }
}

async fn reconcile_one(engine: &EngineRef, container: &ContainerRef) {
    let record = container.record();
    let state = &record.state;
    let bundle = engine.paths.bundle(container.id());
    if state.is_running() || state.is_starting {
        adopt_or_end(engine, container, &bundle).await;
    } else {
        // A run whose end was recorded but not cleaned up, or a removal that was cut off.
        if let Ok(shim) = Shim::connect(container.id(), &bundle) {
            give_up(&shim).await;
        }
        exit::free(engine, container.id()).await;
        exit::remove_bundle(engine, container.id());
    }
    let record = container.record();
    if record.state.is_running() {
        return;
    }
    let is_leftover = record.host_config.auto_remove || record.state.status == Status::Removing;
    if is_leftover && !record.is_removed {
        let _ = remove::remove(engine, container, remove::How::AfterExit).await;
        return;
    }
    let policy = record.host_config.restart_policy.name.as_str();
    let wanted = match policy {
        "always" => record.state.status != Status::Created,
        "unless-stopped" => record.state.status != Status::Created && !record.stopped_by_user,
        _ => record.state.status == Status::Restarting,
    };
    if wanted && let Err(error) = start::start(engine, container).await {
        tracing::warn!(container = record.short_id(), %error, "restart failed");
    }
}

/// Goes on with a container whose shim answers, or records its end.
async fn adopt_or_end(engine: &EngineRef, container: &ContainerRef, bundle: &Path) {
    let record = container.record();
    let shim = Shim::connect(container.id(), bundle).ok();
    let task = match &shim {
        Some(shim) => shim.state().await.ok(),
        None => None,
    };
    match (shim, task) {
        (Some(shim), Some((TaskStatus::Running | TaskStatus::Paused, pid))) => {
            adopt(
                engine,
                container,
                shim,
                task.map_or(TaskStatus::Running, |task| task.0),
                pid,
            );
        }
        (Some(shim), Some((TaskStatus::Stopped, _))) => {
            tokio::spawn(exit::monitor(
                EngineRef::clone(engine),
                ContainerRef::clone(container),
                Arc::new(shim),
            ));
            let mut records = container.watch();
            let _ = records.wait_for(|record| !record.state.is_running()).await;
        }
        (shim, _) if record.state.is_starting => {
            // The start was never acknowledged: undone.
            if let Some(shim) = shim {
                give_up(&shim).await;
            }
            exit::free(engine, container.id()).await;
            exit::remove_bundle(engine, container.id());
            ends::release(engine, &record);
            volumes::unmount(engine, &record);
            container.update(|record| {
                record.published = None;
                record.state.is_starting = false;
                record.state.pid = 0;
                if record.state.status == Status::Restarting {
                    record.state.status = Status::Exited;
                }
            });
            save(container);
        }
        (shim, _) => {
            let recorded = exit::read_exit(bundle);
            if let Some(shim) = shim {
                give_up(&shim).await;
            }
            exit::free(engine, container.id()).await;
            let exit = match recorded {
                Some(exit) => exit,
                None => exit::lost(engine, container).await,
            };
            exit::remove_bundle(engine, container.id());
            exit::ended(engine, container, exit).await;
        }
    }
}

fn adopt(engine: &EngineRef, container: &ContainerRef, shim: Shim, status: TaskStatus, pid: u32) {
    let record = container.record();
    let shim = Arc::new(shim);
    container.set_shim(Some(Arc::clone(&shim)));
    container.update(|record| {
        record.state.status = if status == TaskStatus::Paused {
            Status::Paused
        } else {
            Status::Running
        };
        if record.state.is_starting {
            record.state.started_at = crate::time::now();
        }
        record.state.is_starting = false;
        record.state.pid = pid;
    });
    save(container);
    tracing::info!(container = record.short_id(), pid, "found running");
    tokio::spawn(exit::monitor(
        EngineRef::clone(engine),
        ContainerRef::clone(container),
        shim,
    ));
}

fn save(container: &ContainerRef) {
    if let Err(error) = container.save(Durability::Process) {
        tracing::error!(container = container.id(), %error, "cannot record a state");
    }
}

async fn give_up(shim: &Shim) {
    let _ = shim.kill("", crate::signal::KILL, true).await;
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), shim.wait("")).await;
    let _ = shim.delete("").await;
    shim.shutdown().await;
}
