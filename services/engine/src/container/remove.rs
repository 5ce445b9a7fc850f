//! Removing a container.

use std::{fs, path::Path};

use atoll_layer::WritableLayer;

use super::{ContainerRef, Status, lifecycle, volumes};
use crate::{
    engine::{EngineRef, uninterrupted},
    error::{Error, ErrorKind, Result},
    signal,
};

/// How a removal came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// A client asked.
    Asked,
    /// A client asked, also if it runs.
    Forced,
    /// It ended and was to be removed then.
    AfterExit,
}

/// Removes a container that a client wants gone, with or without its anonymous volumes.
///
/// # Errors
/// As [`remove`].
pub(crate) async fn remove_with(
    engine: &EngineRef,
    container: &ContainerRef,
    how: How,
    takes_volumes: bool,
) -> Result<()> {
    let engine = EngineRef::clone(engine);
    let container = ContainerRef::clone(container);
    uninterrupted(async move {
        let _operation = container.operation.lock().await;
        remove_now(&engine, &container, how, takes_volumes).await
    })
    .await
}

/// Removes a container: from disk first (in one rename), then from memory; its files are deleted after that.
///
/// # Errors
/// 409 when it runs and isn't forced; 500 when its directory can't be moved away, and it is then dead.
pub(crate) async fn remove(engine: &EngineRef, container: &ContainerRef, how: How) -> Result<()> {
    let engine = EngineRef::clone(engine);
    let container = ContainerRef::clone(container);
    if how == How::AfterExit {
        // Called by the end of the run, which nothing interrupts.
        return remove_now(&engine, &container, how, false).await;
    }
    remove_with(&engine, &container, how, false).await
}

async fn remove_now(
    engine: &EngineRef,
    container: &ContainerRef,
    how: How,
    takes_volumes: bool,
) -> Result<()> {
    let record = container.record();
    if record.is_removed {
        return match how {
            How::AfterExit => Ok(()),
            _ => Err(Error::not_found(format!(
                "No such container: {}",
                record.id
            ))),
        };
    }
    if record.state.is_running() {
        if how != How::Forced {
            let doing = record.state.status.name();
            return Err(Error::conflict(format!(
                "cannot remove container \"/{}\": container is {doing}: stop the container before removing or force remove",
                record.name
            )));
        }
        container.update(|record| record.stopped_by_user = true);
        lifecycle::signal_and_wait(container, signal::KILL, None).await?;
    }
    // Not written down: the rename below is the removal, and before it nothing has happened.
    container.update(|record| record.state.status = Status::Removing);
    let directory = engine.paths.container(container.id());
    let trash = engine
        .paths
        .tmp()
        .join(format!("removed-{}", container.id()));
    if takes_volumes {
        volumes::mark(&directory);
    }
    match fs::rename(&directory, &trash) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            container.update(|record| record.state.status = Status::Dead);
            let context = format!("cannot remove {}", directory.display());
            return Err(Error::caused(ErrorKind::Internal, context, &error));
        }
    }
    engine.containers.remove(container.id());
    container.attach.dismiss();
    let takes_volumes = takes_volumes || record.host_config.auto_remove;
    volumes::release(engine, container.id(), &record.mounts, takes_volumes);
    engine.container_event(&record, "destroy", &[]);
    container.update(|record| record.is_removed = true);
    tracing::info!(container = record.short_id(), "removed");
    tokio::task::spawn_blocking(move || delete(&trash));
    Ok(())
}

/// Deletes a container's directory that was moved away; its writable layer may lie elsewhere.
pub(crate) fn delete(trash: &Path) {
    if let Err(error) = WritableLayer::of(trash).remove() {
        tracing::warn!(%error, "cannot delete a removed container's writable layer");
    }
    if let Err(error) = fs::remove_dir_all(trash)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %trash.display(), %error, "cannot delete a removed container's files");
    }
}
