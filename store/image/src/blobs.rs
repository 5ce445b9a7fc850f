//! Configurations and manifests by digest: `D/image/blobs/sha256/<hex>`.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use atoll_layer::Digest;

use crate::{ImageError, error::file_error};

#[derive(Debug)]
pub(crate) struct Blobs {
    directory: PathBuf,
    tmp_dir: PathBuf,
}

static NEXT: AtomicU64 = AtomicU64::new(0);

impl Blobs {
    pub(crate) fn open(image_dir: &Path, tmp_dir: &Path) -> Result<Self, ImageError> {
        let directory = image_dir.join("blobs/sha256");
        fs::create_dir_all(&directory).map_err(file_error("create", &directory))?;
        Ok(Self {
            directory,
            tmp_dir: tmp_dir.to_owned(),
        })
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.hex())
    }

    /// Stores `bytes`; there already is fine.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest, ImageError> {
        let digest = Digest::of(bytes);
        let target = self.path(&digest);
        if target.exists() {
            return Ok(digest);
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let tmp = self
            .tmp_dir
            .join(format!("blob-{}-{number}", std::process::id()));
        let write = || {
            // Not synced: it is checked when the store is opened, as the image's layers are.
            File::create_new(&tmp)?.write_all(bytes)?;
            fs::rename(&tmp, &target)
        };
        write().map_err(|error| {
            let _removed = fs::remove_file(&tmp);
            file_error("write", &target)(error)
        })?;
        Ok(digest)
    }

    /// Reads a blob and checks its digest.
    pub(crate) fn get(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let path = self.path(digest);
        let bytes = fs::read(&path).map_err(file_error("read", &path))?;
        let found = Digest::of(&bytes);
        if found == *digest {
            return Ok(bytes);
        }
        Err(ImageError::BlobDigest {
            name: path.display().to_string(),
            found,
        })
    }

    pub(crate) fn remove(&self, digest: &Digest) {
        let path = self.path(digest);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove a blob");
        }
    }

    /// Removes blobs that `is_wanted` doesn't know.
    pub(crate) fn sweep(&self, is_wanted: impl Fn(&Digest) -> bool) -> Result<(), ImageError> {
        let read = |error| file_error("read", &self.directory)(error);
        for entry in fs::read_dir(&self.directory).map_err(read)? {
            let entry = entry.map_err(read)?;
            let digest = entry.file_name().to_str().and_then(Digest::from_hex);
            match digest {
                Some(digest) if is_wanted(&digest) => {}
                Some(digest) => self.remove(&digest),
                None => {}
            }
        }
        Ok(())
    }
}
