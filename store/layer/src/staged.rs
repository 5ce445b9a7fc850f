//! Layers between "all bytes are here" and "part of the store".

use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::fs::{CWD, Mode, OFlags};

use crate::{Compression, Digest, LayerError, error::store_error};

/// A directory in the store's temporary place that goes away unless it is moved into the store.
#[derive(Debug)]
pub(crate) struct StagingDirectory {
    path: PathBuf,
}

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A path in `tmp` that no other thread gets: `<tmp>/<kind>-<pid>-<n>`.
pub(crate) fn next_path(tmp: &Path, kind: &str) -> PathBuf {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    tmp.join(format!("{kind}-{}-{number}", std::process::id()))
}

impl StagingDirectory {
    /// Makes `<tmp>/layer-<pid>-<n>/diff` and opens the latter.
    pub(crate) fn create(tmp: &Path) -> Result<(Self, OwnedFd), LayerError> {
        let path = next_path(tmp, "layer");
        rustix::fs::mkdir(&path, Mode::RWXU).map_err(store_error("create", &path))?;
        let staging = Self { path };
        let diff = staging.diff();
        rustix::fs::mkdir(&diff, Mode::RWXU).map_err(store_error("create", &diff))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, &diff, flags, Mode::empty())
            .map_err(store_error("open", &diff))?;
        Ok((staging, fd))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn diff(&self) -> PathBuf {
        self.path.join("diff")
    }
}

impl Drop for StagingDirectory {
    fn drop(&mut self) {
        // Gone when the layer was moved into the store; what can't be removed now is removed
        // when the store is opened next.
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a staged layer");
        }
    }
}

/// A whole unpacked layer that isn't in the store yet; dropped, it leaves nothing.
#[derive(Debug)]
pub struct StagedLayer {
    pub(crate) directory: StagingDirectory,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Length of the uncompressed tar.
    pub tar_bytes: u64,
    /// Digest of the bytes as they came; equal to the diff ID for a plain tar.
    pub blob_digest: Digest,
    /// Length of the bytes as they came.
    pub blob_bytes: u64,
    /// How they came.
    pub compression: Compression,
    /// Sum of the sizes of the layer's regular files.
    pub size_bytes: u64,
    /// Entries in the archive.
    pub entries: u64,
    pub(crate) implied: Vec<Vec<u8>>,
}
