//! Where everything lies below the engine's two roots (docs/formats/engine-roots.md).

use std::path::{Path, PathBuf};

/// The two roots and the places below them.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    data_root: PathBuf,
    exec_root: PathBuf,
}

impl Paths {
    /// Takes absolute roots.
    pub(crate) fn new(data_root: &Path, exec_root: &Path) -> Self {
        Self {
            data_root: data_root.to_owned(),
            exec_root: exec_root.to_owned(),
        }
    }

    /// The data root.
    pub(crate) fn data_root(&self) -> &Path {
        &self.data_root
    }

    /// The exec root.
    pub(crate) fn exec_root(&self) -> &Path {
        &self.exec_root
    }

    /// All containers' directories.
    pub(crate) fn containers(&self) -> PathBuf {
        self.data_root.join("containers")
    }

    /// All local volumes' directories.
    pub(crate) fn volumes(&self) -> PathBuf {
        self.data_root.join("volumes")
    }

    /// Half-made things; emptied when the engine starts.
    pub(crate) fn tmp(&self) -> PathBuf {
        self.data_root.join("tmp")
    }

    /// The engine's process id.
    pub(crate) fn pid(&self) -> PathBuf {
        self.exec_root.join("atolld.pid")
    }

    /// All bundles.
    pub(crate) fn bundles(&self) -> PathBuf {
        self.exec_root.join("bundles")
    }

    /// State directory of isolation/container.
    pub(crate) fn runtime(&self) -> PathBuf {
        self.exec_root.join("runtime")
    }

    /// One container's directory.
    pub(crate) fn container(&self, id: &str) -> PathBuf {
        self.data_root.join("containers").join(id)
    }

    /// One container's record.
    pub(crate) fn record(&self, id: &str) -> PathBuf {
        self.container(id).join("config.json")
    }

    /// One container's log.
    pub(crate) fn log(&self, id: &str) -> PathBuf {
        self.container(id).join("container-json.log")
    }

    /// One container's bundle.
    pub(crate) fn bundle(&self, id: &str) -> PathBuf {
        self.exec_root.join("bundles").join(id)
    }
}
