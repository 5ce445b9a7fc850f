//! One container: its record, its lock, its shim, its waiting attachers.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::record::Record;
use crate::{
    error::{Error, ErrorKind, Result},
    shim::{attach::AttachHub, client::Shim},
};

/// A shared container.
pub(crate) type ContainerRef = Arc<Container>;

/// One container.
pub(crate) struct Container {
    id: String,
    record: watch::Sender<Arc<Record>>,
    record_path: PathBuf,
    /// Held while the record's file is written, so that the newest is last.
    file: Mutex<()>,
    /// Held by an operation that changes what the container does.
    pub(crate) operation: tokio::sync::Mutex<()>,
    /// Clients that attached before the start.
    pub(crate) attach: AttachHub,
    shim: Mutex<Option<Arc<Shim>>>,
}

/// How hard a record is pressed onto the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Survives a killed engine.
    Process,
    /// Survives a power cut too.
    Disk,
}

impl Container {
    /// Takes a record into memory.
    pub(crate) fn new(record: Record, record_path: PathBuf) -> Self {
        Self {
            id: record.id.clone(),
            record: watch::channel(Arc::new(record)).0,
            record_path,
            file: Mutex::new(()),
            operation: tokio::sync::Mutex::new(()),
            attach: AttachHub::default(),
            shim: Mutex::new(None),
        }
    }

    /// The full id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The record as it is now.
    pub(crate) fn record(&self) -> Arc<Record> {
        Arc::clone(&self.record.borrow())
    }

    /// All records from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Record>> {
        self.record.subscribe()
    }

    /// Changes the record in memory and tells who watches.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Record)) {
        self.record
            .send_modify(|record| change(Arc::make_mut(record)));
    }

    /// Writes the record to disk.
    ///
    /// # Errors
    /// 500 when the disk is full or broken.
    pub(crate) fn save(&self, durability: Durability) -> Result<()> {
        let _file = lock(&self.file);
        let record = self.record();
        if record.is_removed {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&*record)
            .map_err(|error| Error::internal(format!("cannot write the record: {error}")))?;
        write(&self.record_path, &bytes, durability).map_err(|error| {
            let context = format!("cannot write {}", self.record_path.display());
            Error::caused(ErrorKind::Internal, context, &error)
        })
    }

    /// Changes the record, writes it, and tells who watches.
    ///
    /// # Errors
    /// As [`Container::save`]; the change stays in memory.
    pub(crate) fn update_and_save(&self, change: impl FnOnce(&mut Record)) -> Result<()> {
        self.update(change);
        self.save(Durability::Process)
    }

    /// The shim of the current run.
    pub(crate) fn shim(&self) -> Option<Arc<Shim>> {
        lock(&self.shim).clone()
    }

    /// The shim of the current run.
    ///
    /// # Errors
    /// 409 when nothing runs.
    pub(crate) fn running_shim(&self) -> Result<Arc<Shim>> {
        let record = self.record();
        match self.shim() {
            Some(shim) if record.state.is_running() => Ok(shim),
            _ => Err(Error::conflict(format!(
                "container {} is not running",
                self.id
            ))),
        }
    }

    /// Sets or clears the shim of the current run.
    pub(crate) fn set_shim(&self, shim: Option<Arc<Shim>>) {
        *lock(&self.shim) = shim;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes `path` by a temporary file and a rename: readers see the old or the new content, whole.
///
/// # Errors
/// As write(2) and rename(2); the old content then stays.
pub(crate) fn write(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    use std::io::Write as _;

    let temporary = path.with_extension("tmp");
    let mut file = fs::File::create(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| match durability {
        Durability::Disk => file.sync_all(),
        Durability::Process => Ok(()),
    });
    let renamed = written.and_then(|()| fs::rename(&temporary, path));
    if renamed.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    renamed?;
    if durability == Durability::Disk
        && let Some(parent) = path.parent()
    {
        fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}
