//! A container's own layer, the one it writes to.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags};

use crate::{
    LayerError, RootfsMountSpec, error::store_error, implied::copy_attributes, overlay_mount,
};

/// What a new writable layer starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WritableKind {
    /// Nothing: the container sees its image.
    Empty,
    /// The running system as image: these directories appear empty, whatever they hold.
    Host {
        /// Absolute paths, such as `/home`; those that aren't directories are left out.
        hidden: Vec<PathBuf>,
    },
}

/// `<container directory>/upper/{diff,work}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WritableLayer {
    directory: PathBuf,
}

impl WritableLayer {
    /// Makes the layer for a container.
    ///
    /// * `container_dir`: exists, belongs to the container.
    /// * `lowers`: the image's directories, top first; the new root takes its attributes from
    ///   the first.
    ///
    /// # Errors
    /// [`LayerError::Store`] when a directory can't be made; what was made is removed.
    pub fn create(
        container_dir: &Path,
        lowers: &[PathBuf],
        kind: &WritableKind,
    ) -> Result<Self, LayerError> {
        let layer = Self::of(container_dir);
        let result = layer.fill(lowers, kind);
        if result.is_err() {
            // The first error is the one to tell.
            let _removed = layer.remove();
        }
        result.map(|()| layer)
    }

    /// The layer of a container made earlier.
    pub fn of(container_dir: &Path) -> Self {
        Self {
            directory: container_dir.join("upper"),
        }
    }

    /// What the container has changed; overlay's `upperdir`.
    pub fn diff(&self) -> PathBuf {
        self.directory.join("diff")
    }

    /// The kernel's own; overlay's `workdir`.
    pub fn work(&self) -> PathBuf {
        self.directory.join("work")
    }

    /// The root file system mount of a container with this layer on top of `lowers`.
    pub fn mount(&self, lowers: &[PathBuf]) -> RootfsMountSpec {
        overlay_mount(lowers, &self.diff(), &self.work())
    }

    /// Removes the layer and all in it; gone already is fine.
    ///
    /// # Errors
    /// [`LayerError::Store`] when something can't be removed.
    pub fn remove(&self) -> Result<(), LayerError> {
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(store_error("remove", &self.directory)(error))
            }
            _ => Ok(()),
        }
    }

    fn fill(&self, lowers: &[PathBuf], kind: &WritableKind) -> Result<(), LayerError> {
        for path in [&self.directory, &self.diff(), &self.work()] {
            rustix::fs::mkdir(path, Mode::RWXU).map_err(store_error("create", path))?;
        }
        if let Some(top) = lowers.first() {
            self.copy_root(top)?;
        }
        if let WritableKind::Host { hidden } = kind {
            for path in hidden {
                self.hide(path)?;
            }
        }
        Ok(())
    }

    fn copy_root(&self, lower: &Path) -> Result<(), LayerError> {
        let target = self.diff();
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(store_error("open", path))
        };
        copy_attributes(&open(lower)?, &open(&target)?).map_err(store_error("prepare", &target))
    }

    fn hide(&self, _path: &Path) -> Result<(), LayerError> {
        Ok(())
    }
}
