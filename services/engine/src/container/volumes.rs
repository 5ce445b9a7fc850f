//! A container's volumes through its life: made with it, mounted while it runs, let go of with it.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    sync::Arc,
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::{
    Record,
    mounts::{self, Planned},
    record::MountPoint,
    rootfs::Rootfs,
};
use crate::{
    engine::EngineRef,
    error::{Error, ErrorKind, Result},
    types::{ContainerConfig, HostConfig},
    volume::{self, DRIVER, Volume},
};

/// In a container's directory while it is being removed: its anonymous volumes are to go too.
const TAKES_VOLUMES: &str = "takes-volumes";

/// Reads what mounts a container is to have.
///
/// # Errors
/// As [`mounts::collect`]; 400 for an unknown container of `--volumes-from`.
pub(crate) fn plan(
    engine: &EngineRef,
    host: &HostConfig,
    config: &ContainerConfig,
) -> Result<Vec<Planned>> {
    let mut others = Vec::new();
    for text in host.volumes_from.iter().flatten() {
        let (name, mode) = mounts::parse_volumes_from(text)?;
        // Not a 404, on which clients pull the image.
        let other = engine.containers.find(name);
        let other = other.map_err(|error| Error::invalid(error.to_string()))?;
        others.push((other.record().mounts.clone(), mode.to_owned()));
    }
    mounts::collect(host, config, &others)
}

/// Finds or makes the volumes for a container that is being made.
///
/// # Errors
/// As [`crate::volume::Volumes::obtain`]; what was made for it is gone then, what it got let go of.
pub(crate) fn obtain(
    engine: &EngineRef,
    id: &str,
    planned: Vec<Planned>,
) -> Result<Vec<MountPoint>> {
    let mut points: Vec<MountPoint> = Vec::new();
    for Planned { mut point, asked } in planned {
        if let Some(asked) = asked {
            match engine.volumes.obtain(&asked, Some(id)) {
                Ok((volume, is_new)) => {
                    point.name.clone_from(&volume.record().name);
                    point.source = volume.data().to_string_lossy().into_owned();
                    if is_new {
                        event(engine, &volume, "create", &[]);
                    }
                }
                Err(error) => {
                    release(engine, id, &points, true);
                    return Err(error);
                }
            }
        }
        points.push(point);
    }
    Ok(points)
}

/// Copies what the image has at their places into volumes that are empty.
///
/// * `mounted`: those that have to be mounted for it, which they are then; else those that haven't.
///
/// # Errors
/// As [`volume::populate`].
pub(crate) fn fill(
    engine: &EngineRef,
    record: &Record,
    root: impl Fn() -> Rootfs,
    mounted: bool,
) -> Result<()> {
    let mut opened = None;
    for (point, volume) in of(engine, &record.mounts) {
        let copies = point.volume.as_ref().is_some_and(|volume| volume.copies);
        if copies && volume.needs_mount() == mounted {
            let root = opened.get_or_insert_with(&root);
            let place = &point.destination;
            volume::populate(&engine.volumes, &volume, &record.id, root, place)?;
        }
    }
    Ok(())
}

/// Mounts those that are no plain folders, for a start.
///
/// # Errors
/// 500 when the kernel refuses one; none is mounted for this container then.
pub(crate) fn mount(engine: &EngineRef, record: &Record) -> Result<()> {
    for (point, volume) in of(engine, &record.mounts) {
        if let Err(error) = volume.mount(&record.id) {
            for (_, volume) in of(engine, &record.mounts) {
                volume.unmount(&record.id);
            }
            return Err(error);
        }
        let more = [
            ("container", record.id.clone()),
            ("destination", point.destination.clone()),
            ("propagation", point.propagation.clone()),
            ("read/write", point.rw.to_string()),
        ];
        event(engine, &volume, "mount", &more);
    }
    for point in record.mounts.iter().filter(|point| point.kind == "volume") {
        if engine.volumes.get(&point.name).is_err() {
            unmount(engine, record);
            return Err(Error::not_found(format!(
                "get {}: no such volume",
                point.name
            )));
        }
    }
    Ok(())
}

/// Mounts them for something else than a run, without telling; [`let_go`] undoes it.
///
/// # Errors
/// As [`mount`].
pub(crate) fn borrow(engine: &EngineRef, record: &Record) -> Result<()> {
    for (_, volume) in of(engine, &record.mounts) {
        volume
            .mount(&record.id)
            .inspect_err(|_| let_go(engine, record))?;
    }
    Ok(())
}

/// Undoes [`borrow`].
pub(crate) fn let_go(engine: &EngineRef, record: &Record) {
    for (_, volume) in of(engine, &record.mounts) {
        volume.unmount(&record.id);
    }
}

/// Unmounts them after a run.
pub(crate) fn unmount(engine: &EngineRef, record: &Record) {
    for (_, volume) in of(engine, &record.mounts) {
        volume.unmount(&record.id);
        let more = [("container", record.id.clone())];
        event(engine, &volume, "unmount", &more);
    }
}

/// Notes what a container of an earlier engine has.
pub(crate) fn note(engine: &EngineRef, record: &Record) {
    for point in record.mounts.iter().filter(|point| point.kind == "volume") {
        let Some(volume) = engine.volumes.note(&point.name, &record.id) else {
            tracing::warn!(
                container = record.short_id(),
                volume = point.name,
                "its volume is missing"
            );
            continue;
        };
        if record.state.is_running() || record.state.is_starting {
            volume.is_mounted_for(&record.id);
        }
    }
}

/// Lets go of a container's volumes when it is removed.
///
/// * `takes_anonymous`: those that nobody gave a name and nobody else has are removed.
pub(crate) fn release(engine: &EngineRef, id: &str, points: &[MountPoint], takes_anonymous: bool) {
    let volumes = points.iter().filter(|point| point.kind == "volume");
    for point in volumes.clone() {
        engine.volumes.release(&point.name, id);
    }
    for point in volumes {
        let is_anonymous = point
            .volume
            .as_ref()
            .is_some_and(|volume| volume.is_anonymous);
        if takes_anonymous && is_anonymous {
            remove(engine, &point.name);
        }
    }
}

/// Removes an anonymous volume, unless another container has it.
fn remove(engine: &EngineRef, name: &str) {
    match engine.volumes.remove(name) {
        Ok(volume) => event(engine, &volume, "destroy", &[]),
        Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {}
        Err(error) => tracing::warn!(volume = name, %error, "cannot remove an anonymous volume"),
    }
}

/// Notes in a container's directory that its anonymous volumes go with it, for an engine that is killed on the way.
pub(crate) fn mark(directory: &Path) {
    let _ = fs::write(directory.join(TAKES_VOLUMES), "");
}

/// The anonymous volumes of containers whose removal a killed engine had begun; call before `tmp` is emptied.
pub(crate) fn of_removed(tmp: &Path) -> Vec<String> {
    let entries = fs::read_dir(tmp).into_iter().flatten().flatten();
    let records = entries.filter_map(|entry| {
        let bytes = fs::read(entry.path().join("config.json")).ok()?;
        let record: Record = serde_json::from_slice(&bytes).ok()?;
        let takes = record.host_config.auto_remove || entry.path().join(TAKES_VOLUMES).exists();
        takes.then_some(record.mounts)
    });
    let anonymous = |point: &MountPoint| {
        point
            .volume
            .as_ref()
            .is_some_and(|volume| volume.is_anonymous)
    };
    records
        .flatten()
        .filter(anonymous)
        .map(|point| point.name)
        .collect()
}

/// Removes what [`of_removed`] found, once it is known who has what.
pub(crate) fn remove_left(engine: &EngineRef, names: &[String]) {
    for name in names {
        remove(engine, name);
    }
}

/// The folders of volumes that are mounted instead of the whole, held open until the mounts are made: a container that has the
/// volume already may exchange a name in it at any time, but not what is open.
#[derive(Debug, Default)]
pub(crate) struct Subpaths(BTreeMap<String, OwnedFd>);

impl Subpaths {
    /// Opens them.
    ///
    /// # Errors
    /// 400 when one does not exist in its volume.
    pub(crate) fn open(record: &Record) -> Result<Self> {
        let mut opened = BTreeMap::new();
        for point in &record.mounts {
            let subpath = point.volume.as_ref().map_or("", |volume| &volume.subpath);
            if subpath.is_empty() {
                continue;
            }
            let failed = |errno: rustix::io::Errno| {
                let context = format!(
                    "failed to access volume subpath {subpath} of {}",
                    point.name
                );
                Error::caused(
                    ErrorKind::InvalidParameter,
                    context,
                    &std::io::Error::from(errno),
                )
            };
            let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let data = rustix::fs::openat(CWD, point.source.as_str(), directory, Mode::empty());
            let data = data.map_err(failed)?;
            let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let place = rustix::fs::openat2(&data, subpath, flags, Mode::empty(), inside);
            opened.insert(point.destination.clone(), place.map_err(failed)?);
        }
        Ok(Self(opened))
    }

    /// The folder to mount at a mount's destination, if it is not the whole volume.
    pub(crate) fn get(&self, point: &MountPoint) -> Option<&OwnedFd> {
        self.0.get(&point.destination)
    }

    /// The record whose mounts have what is open as their sources: for the bundle only.
    pub(crate) fn applied_to(&self, record: &Arc<Record>) -> Arc<Record> {
        let mut applied = Arc::clone(record);
        if self.0.is_empty() {
            return applied;
        }
        for point in &mut Arc::make_mut(&mut applied).mounts {
            if let Some(place) = self.0.get(&point.destination) {
                point.source = format!("/proc/{}/fd/{}", std::process::id(), place.as_raw_fd());
            }
        }
        applied
    }
}

/// Publishes a volume's event.
pub(crate) fn event(engine: &EngineRef, volume: &Volume, action: &str, more: &[(&str, String)]) {
    let mut attributes = BTreeMap::from([("driver".to_owned(), DRIVER.to_owned())]);
    attributes.extend(
        more.iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone())),
    );
    engine
        .events
        .publish("volume", action, &volume.record().name, attributes);
}

/// A container's volumes, those that are there.
fn of<'a>(
    engine: &'a EngineRef,
    points: &'a [MountPoint],
) -> impl Iterator<Item = (&'a MountPoint, crate::volume::VolumeRef)> {
    points
        .iter()
        .filter(|point| point.kind == "volume")
        .filter_map(|point| Some((point, engine.volumes.get(&point.name).ok()?)))
}
