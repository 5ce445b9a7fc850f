//! A folder of ours that is gone when it is dropped.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A folder nobody else can look into.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes one in `parent`.
    ///
    /// # Errors
    /// The system's; `AlreadyExists` when something of another's has its name.
    pub(super) fn inside(parent: &Path) -> io::Result<Self> {
        let path = parent.join(format!(".atoll-doctor-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes a folder in it and opens that.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn folder(&self, name: &str) -> io::Result<fs::File> {
        let path = self.0.join(name);
        fs::create_dir(&path)?;
        fs::File::open(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Overlay leaves `work/work` without rights, which do not bind root.
        let _ = fs::remove_dir_all(&self.0);
    }
}
