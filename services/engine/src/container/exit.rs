//! The end of a run: seen by the shim's answer or by its death, recorded once, cleaned up, told.

use std::{path::Path, sync::Arc, time::Duration};

use atoll_shim_protocol::{ExitRecord, spawn};
use tokio::sync::OwnedRwLockReadGuard;

use super::{ContainerRef, Record, Status, ends, handle::Durability, remove, start, volumes};
use crate::{
    engine::{EngineRef, blocking},
    error::{Error, Result},
    shim::client::Shim,
    time,
};

/// First pause before a restart; doubled each time, up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// A run this long resets the pause.
const STABLE_SECONDS: i64 = 10;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Status, or 128 + signal.
    pub(crate) code: i64,
    /// The kernel killed it for lack of memory.
    pub(crate) oom_killed: bool,
    /// RFC 3339.
    pub(crate) at: String,
    /// Why it isn't known better.
    pub(crate) error: String,
}

/// Waits for the end of a run and handles it.
pub(crate) async fn monitor(engine: EngineRef, container: ContainerRef, shim: Arc<Shim>) {
    let waited = shim.wait("").await;
    let recorded = read_exit(shim.bundle());
    let exit = match (recorded, waited) {
        (Some(exit), _) => exit,
        (None, Ok(status)) => Exit {
            code: i64::from(status.code),
            oom_killed: false,
            at: time::now(),
            error: String::new(),
        },
        (None, Err(error)) => {
            tracing::error!(container = container.id(), %error, "shim lost");
            lost(&engine, &container).await
        }
    };
    let under_way = Arc::clone(&engine.put_aways).read_owned().await;
    if container.record().host_config.auto_remove {
        // Its id is never used again, so nobody needs to wait until the shim has put away what it had.
        tokio::spawn(put_away(
            EngineRef::clone(&engine),
            container.id().to_owned(),
            shim,
            under_way,
        ));
    } else {
        let id = container.id().to_owned();
        put_away(EngineRef::clone(&engine), id, shim, under_way).await;
    }
    ended(&engine, &container, exit).await;
}

/// Has the shim free what it held, ends it, and removes the bundle.
async fn put_away(
    engine: EngineRef,
    id: String,
    shim: Arc<Shim>,
    _under_way: OwnedRwLockReadGuard<()>,
) {
    if shim.delete("").await.is_err() {
        // The shim died after the process: what it held is freed here.
        free(&engine, &id).await;
    }
    remove_bundle(&engine, &id);
    tokio::spawn(async move { shim.shutdown().await });
}

/// Records the end of a run, frees what it had, tells, then restarts or removes as configured.
pub(crate) async fn ended(engine: &EngineRef, container: &ContainerRef, exit: Exit) {
    let before = container.record();
    let (released, of) = (EngineRef::clone(engine), Arc::clone(&before));
    let _ = blocking(move || {
        ends::release(&released, &of);
        Ok(())
    })
    .await;
    container.set_shim(None);
    volumes::unmount(engine, &before);
    engine.execs.forget_container(container.id());
    let restart = should_restart(&before, &exit);
    container.update(|record| {
        let state = &mut record.state;
        state.status = if restart {
            Status::Restarting
        } else {
            Status::Exited
        };
        state.is_starting = false;
        state.pid = 0;
        state.exit_code = exit.code;
        state.oom_killed = exit.oom_killed;
        state.error.clone_from(&exit.error);
        state.finished_at.clone_from(&exit.at);
        record.exits += 1;
        for end in record.networks.values_mut() {
            end.endpoint_id.clear();
        }
        record.published = None;
    });
    let record = container.record();
    let ran = time::unix_seconds(&exit.at) - time::unix_seconds(&record.state.started_at);
    engine.container_event(
        &record,
        "die",
        &[
            ("exitCode", exit.code.to_string()),
            ("execDuration", ran.max(0).to_string()),
        ],
    );
    if exit.oom_killed {
        engine.container_event(&record, "oom", &[]);
    }
    tracing::info!(
        container = record.short_id(),
        code = exit.code,
        error = exit.error,
        "exited"
    );
    if record.host_config.auto_remove {
        if let Err(error) = remove::remove(engine, container, remove::How::AfterExit).await {
            tracing::error!(container = record.short_id(), %error, "cannot remove");
        }
        return;
    }
    if let Err(error) = container.save(Durability::Process) {
        tracing::error!(container = record.short_id(), %error, "cannot record an exit");
    }
    if restart {
        schedule_restart(engine, container, ran >= STABLE_SECONDS);
    }
}

/// Whether the restart policy wants another run.
fn should_restart(record: &Record, exit: &Exit) -> bool {
    let policy = &record.host_config.restart_policy;
    if record.stopped_by_user {
        return false;
    }
    match policy.name.as_str() {
        "always" | "unless-stopped" => true,
        "on-failure" => {
            exit.code != 0
                && (policy.maximum_retry_count == 0
                    || record.restart_count < policy.maximum_retry_count)
        }
        _ => false,
    }
}

fn schedule_restart(engine: &EngineRef, container: &ContainerRef, was_stable: bool) {
    let engine = EngineRef::clone(engine);
    let container = ContainerRef::clone(container);
    let count = if was_stable {
        0
    } else {
        container.record().restart_count.clamp(0, 16)
    };
    let pause = MIN_BACKOFF.saturating_mul(1 << count).min(MAX_BACKOFF);
    // Boxed, since a start spawns a monitor, whose end schedules a start.
    let restart: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
        tokio::time::sleep(pause).await;
        let _operation = container.operation.lock().await;
        if container.record().state.status != Status::Restarting {
            return;
        }
        container.update(|record| record.restart_count += 1);
        if let Err(error) = start::start_locked(&engine, &container).await {
            tracing::warn!(container = container.record().short_id(), %error, "restart failed");
        }
    });
    tokio::spawn(restart);
}

/// What the shim wrote when the process ended.
pub(crate) fn read_exit(bundle: &Path) -> Option<Exit> {
    let bytes = std::fs::read(bundle.join(spawn::EXIT_FILE)).ok()?;
    let record = ExitRecord::parse(&bytes).ok()?;
    Some(Exit {
        code: i64::from(record.exit_code),
        oom_killed: record.oom_killed,
        at: record.exited_at,
        error: record.error.unwrap_or_default(),
    })
}

/// A shim is gone and left no exit: kills what is left of its container.
pub(crate) async fn lost(engine: &EngineRef, container: &ContainerRef) -> Exit {
    free(engine, container.id()).await;
    Exit {
        code: 137,
        oom_killed: false,
        at: time::now(),
        error: "shim died: the container was killed, since nobody was left to watch it".to_owned(),
    }
}

/// Kills the processes and removes the cgroups and state of a container without a shim.
pub(crate) async fn free(engine: &EngineRef, id: &str) {
    let state_root = engine.paths.runtime();
    let owned_id = id.to_owned();
    let freed: Result<()> = blocking(move || {
        let failed = |error: &dyn std::error::Error| Error::internal(crate::error::chain(error));
        if !state_root.join(&owned_id).exists() {
            return Ok(());
        }
        let id: atoll_container::ContainerId = owned_id
            .parse()
            .map_err(|_| Error::internal("not a container id"))?;
        let container =
            atoll_container::Container::load(&state_root, &id).map_err(|error| failed(&error))?;
        container.delete(true).map_err(|error| failed(&error))
    })
    .await;
    if let Err(error) = freed {
        tracing::warn!(container = id, %error, "cannot free what a lost shim left");
    }
}

/// Removes the bundle of a run that is over.
pub(crate) fn remove_bundle(engine: &EngineRef, id: &str) {
    if let Err(error) = std::fs::remove_dir_all(engine.paths.bundle(id))
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(container = id, %error, "cannot remove the bundle");
    }
}
