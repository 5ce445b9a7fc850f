//! Stop, kill, restart, pause, rename, update, and waiting for any of it.

use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

use super::{ContainerRef, Status, handle::Durability, spec, start};
use crate::{
    engine::{EngineRef, uninterrupted},
    error::{Error, ErrorKind, Result},
    names, signal,
    types::HostConfig,
};

/// Seconds between the stop signal and SIGKILL when nobody says.
const STOP_TIMEOUT_SECONDS: i64 = 10;

/// Asks a container to stop and kills it when it doesn't.
///
/// * `grace_seconds`: negative waits for ever.
///
/// # Errors
/// 304 when it doesn't run.
pub(crate) async fn stop(
    engine: &EngineRef,
    container: &ContainerRef,
    signal: Option<u32>,
    grace_seconds: Option<i64>,
) -> Result<()> {
    let engine = EngineRef::clone(engine);
    let container = ContainerRef::clone(container);
    uninterrupted(async move {
        let _operation = container.operation.lock().await;
        if container.record().state.status == Status::Restarting {
            return container.update_and_save(|record| {
                record.stopped_by_user = true;
                record.state.status = Status::Exited;
            });
        }
        if !container.record().state.is_running() {
            return Err(Error::not_modified());
        }
        stop_locked(&engine, &container, signal, grace_seconds).await
    })
    .await
}

async fn stop_locked(
    engine: &EngineRef,
    container: &ContainerRef,
    signal: Option<u32>,
    grace_seconds: Option<i64>,
) -> Result<()> {
    let record = container.record();
    let signal = match signal {
        Some(signal) => signal,
        None if record.config.stop_signal.is_empty() => signal::TERM,
        None => signal::parse(&record.config.stop_signal)?,
    };
    let grace = grace_seconds
        .or(record.config.stop_timeout)
        .unwrap_or(STOP_TIMEOUT_SECONDS);
    let grace = u64::try_from(grace).ok().map(Duration::from_secs);
    container.update(|record| record.stopped_by_user = true);
    if record.state.status == Status::Paused {
        // A frozen process never gets the signal.
        container.running_shim()?.resume().await?;
    }
    engine.container_event(&record, "kill", &[("signal", signal.to_string())]);
    if signal_and_wait(container, signal, grace).await.is_err() {
        engine.container_event(&record, "kill", &[("signal", signal::KILL.to_string())]);
        signal_and_wait(container, signal::KILL, None).await?;
    }
    engine.container_event(&container.record(), "stop", &[]);
    Ok(())
}

/// Sends `signal` and waits until the container doesn't run, at most for `limit`.
///
/// # Errors
/// 500 when it still runs at the end of the limit, or can't be signalled.
pub(crate) async fn signal_and_wait(
    container: &ContainerRef,
    signal: u32,
    limit: Option<Duration>,
) -> Result<()> {
    let mut records = container.watch();
    if let Some(shim) = container.shim() {
        match shim.kill("", signal, false).await {
            Ok(()) => {}
            // Ended meanwhile, or the shim has died: the monitor sees to it.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unavailable) => {}
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) => return Err(error),
        }
    }
    let ended = records.wait_for(|record| !record.state.is_running());
    let outcome = match limit {
        None => ended.await.map(drop).map_err(|_| ()),
        Some(limit) => match timeout(limit, ended).await {
            Ok(ended) => ended.map(drop).map_err(|_| ()),
            Err(_) => Err(()),
        },
    };
    outcome.map_err(|()| Error::internal(format!("container {} still runs", container.id())))
}

/// Sends a signal.
///
/// # Errors
/// 409 when it doesn't run.
pub(crate) async fn kill(engine: &EngineRef, container: &ContainerRef, signal: u32) -> Result<()> {
    let record = container.record();
    let not_running = || {
        Error::conflict(format!(
            "cannot kill container: {}: container {} is not running",
            record.name, record.id
        ))
    };
    if !record.state.is_running() {
        return Err(not_running());
    }
    let shim = container.running_shim()?;
    if signal == signal::KILL || signal == signal::TERM {
        container.update(|record| record.stopped_by_user = true);
    }
    shim.kill("", signal, false)
        .await
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::Conflict => not_running(),
            _ => error,
        })?;
    engine.container_event(&record, "kill", &[("signal", signal.to_string())]);
    if signal == signal::KILL {
        if record.state.status == Status::Paused {
            shim.resume().await?;
        }
        // As dockerd: the answer comes when the process is gone.
        let mut records = container.watch();
        let _ = timeout(
            Duration::from_secs(10),
            records.wait_for(|record| !record.state.is_running()),
        )
        .await;
    }
    Ok(())
}

/// Stops a container if it runs, and starts it.
///
/// # Errors
/// As [`stop`] and [`start::start`].
pub(crate) async fn restart(
    engine: &EngineRef,
    container: &ContainerRef,
    signal: Option<u32>,
    grace_seconds: Option<i64>,
) -> Result<()> {
    let engine = EngineRef::clone(engine);
    let container = ContainerRef::clone(container);
    uninterrupted(async move {
        let _operation = container.operation.lock().await;
        let auto_remove = container.record().host_config.auto_remove;
        if container.record().state.is_running() {
            // The end of this run isn't the end of the container.
            container.update(|record| record.host_config.auto_remove = false);
            let stopped = stop_locked(&engine, &container, signal, grace_seconds).await;
            container.update(|record| record.host_config.auto_remove = auto_remove);
            stopped?;
        }
        start::start_locked(&engine, &container).await?;
        engine.container_event(&container.record(), "restart", &[]);
        Ok(())
    })
    .await
}

/// Freezes or thaws a container.
///
/// # Errors
/// 409 when it is in no state for it.
pub(crate) async fn pause(
    engine: &EngineRef,
    container: &ContainerRef,
    freeze: bool,
) -> Result<()> {
    let engine = EngineRef::clone(engine);
    let container = ContainerRef::clone(container);
    uninterrupted(async move {
        let _operation = container.operation.lock().await;
        let record = container.record();
        let (wanted, status, action) = match freeze {
            true => (Status::Running, Status::Paused, "pause"),
            false => (Status::Paused, Status::Running, "unpause"),
        };
        if record.state.status != wanted {
            let is = if freeze && record.state.status == Status::Paused {
                "already paused"
            } else if freeze {
                "not running"
            } else {
                "not paused"
            };
            return Err(Error::conflict(format!("Container {} is {is}", record.id)));
        }
        let shim = container.running_shim()?;
        if freeze {
            shim.pause().await?;
        } else {
            shim.resume().await?;
        }
        container.update_and_save(|record| {
            if record.state.is_running() {
                record.state.status = status;
            }
        })?;
        engine.container_event(&record, action, &[]);
        Ok(())
    })
    .await
}

/// Renames a container.
///
/// # Errors
/// 400 for a bad name, 409 for a taken one.
pub(crate) fn rename(engine: &EngineRef, container: &ContainerRef, name: &str) -> Result<()> {
    let name = name.strip_prefix('/').unwrap_or(name);
    if !names::is_valid(name) {
        return Err(Error::invalid(format!(
            "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )));
    }
    let old = container.record().name.clone();
    if old == name {
        return Err(Error::invalid(
            "Renaming a container with the same name as its current name",
        ));
    }
    engine.containers.reserve(name, container.id())?;
    container.update(|record| name.clone_into(&mut record.name));
    if let Err(error) = container.save(Durability::Disk) {
        container.update(|record| record.name.clone_from(&old));
        engine.containers.release(name, container.id());
        return Err(error);
    }
    engine.containers.release(&old, container.id());
    engine.container_event(
        &container.record(),
        "rename",
        &[("oldName", format!("/{old}"))],
    );
    Ok(())
}

/// Changes limits and the restart policy; zero and empty members stay as they are.
///
/// # Errors
/// 400 for contradictory limits; the kernel's refusal otherwise, and nothing is recorded then.
pub(crate) async fn update(
    engine: &EngineRef,
    container: &ContainerRef,
    change: HostConfig,
) -> Result<()> {
    let engine = EngineRef::clone(engine);
    let container = ContainerRef::clone(container);
    uninterrupted(async move {
        let _operation = container.operation.lock().await;
        let record = container.record();
        let mut wanted = record.host_config.clone();
        apply(&mut wanted, &change);
        super::defaults::check(&record.config, &wanted, &engine.host.capabilities)?;
        if record.state.is_running() {
            let resources: Value = spec::resources(&wanted, &[], engine.host.is_cgroup_v2)?;
            let mut resources = resources;
            if let Some(members) = resources.as_object_mut() {
                members.remove("devices");
            }
            container
                .running_shim()?
                .update(resources.to_string().into_bytes())
                .await?;
        }
        container.update(|record| record.host_config = wanted);
        container.save(Durability::Disk)?;
        engine.container_event(&container.record(), "update", &[]);
        Ok(())
    })
    .await
}

fn apply(wanted: &mut HostConfig, change: &HostConfig) {
    let (to, from) = (&mut wanted.resources, &change.resources);
    let number = |to: &mut i64, from: i64| {
        if from != 0 {
            *to = from;
        }
    };
    number(&mut to.cpu_shares, from.cpu_shares);
    number(&mut to.memory, from.memory);
    number(&mut to.memory_swap, from.memory_swap);
    number(&mut to.memory_reservation, from.memory_reservation);
    number(&mut to.nano_cpus, from.nano_cpus);
    number(&mut to.cpu_period, from.cpu_period);
    number(&mut to.cpu_quota, from.cpu_quota);
    if from.nano_cpus != 0 {
        (to.cpu_period, to.cpu_quota) = (0, 0);
    } else if from.cpu_quota != 0 || from.cpu_period != 0 {
        to.nano_cpus = 0;
    }
    if !from.cpuset_cpus.is_empty() {
        to.cpuset_cpus.clone_from(&from.cpuset_cpus);
    }
    if !from.cpuset_mems.is_empty() {
        to.cpuset_mems.clone_from(&from.cpuset_mems);
    }
    if from.pids_limit.is_some() {
        to.pids_limit = from.pids_limit;
    }
    if from.blkio_weight != 0 {
        to.blkio_weight = from.blkio_weight;
    }
    if !change.restart_policy.name.is_empty() {
        wanted.restart_policy = change.restart_policy.clone();
    }
}
