//! Layers as EROFS images, for the disks of machines.
//!
//! ```text
//! <layers>/<chain ID>/diff ─▶ tmp/image-<pid>-<n> ─▶ mark, rename ─▶ layer.erofs ─▶ syncfs ─▶ mark goes
//! ```

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, openat, renameat_with};

use crate::{
    ChainId, LayerError, LayerStore, durability::boot_id, error::store_error, staged::next_path,
};

/// The image's name in the layer's directory.
pub(crate) const IMAGE_FILE: &str = "layer.erofs";
/// Beside the image until it is on disk: the boot it was written in.
pub(crate) const IMAGE_MARK: &str = "layer.erofs.unsynced";

impl LayerStore {
    /// The layer as an EROFS image: everything in it with all attributes, overlay's whiteouts and
    /// opaque directories too. Made when it is asked for first, kept with the layer.
    ///
    /// The file never changes. When the layer is removed the file loses its name; who has it open
    /// goes on reading. Its UUID is made of the chain ID.
    ///
    /// Blocks while the image is made; threads that ask for the same layer wait for one of them.
    ///
    /// # Errors
    /// [`LayerError::NotFound`]; [`LayerError::Image`] when the layer can't be read, or doesn't fit
    /// into an image, or the disk is full; [`LayerError::Store`] for the disk.
    pub fn erofs_image(&self, chain_id: &ChainId) -> Result<PathBuf, LayerError> {
        let directory = self.directory(chain_id);
        let image = directory.join(IMAGE_FILE);
        let _alone = self.inner.busy.enter(*chain_id);
        if !self.exists(chain_id) {
            return Err(LayerError::NotFound(*chain_id));
        }
        if image.exists() {
            return Ok(image);
        }
        let half_done = HalfDone(next_path(&self.inner.tmp_dir, "image"));
        let bytes = write_image(&directory.join("diff"), &half_done.0, chain_id)?;
        let mark = directory.join(IMAGE_MARK);
        fs::write(&mark, boot_id()).map_err(store_error("write", &mark))?;
        renameat_with(CWD, &half_done.0, CWD, &image, RenameFlags::NOREPLACE)
            .map_err(store_error("rename into place", &image))?;
        self.inner.syncer.add(mark);
        tracing::debug!(layer = %chain_id, bytes, "layer's image made");
        Ok(image)
    }

    /// Takes an image away that was not on disk when the machine went down; it is made again when
    /// it is needed.
    pub(crate) fn drop_unsynced_image(&self, directory: &Path) -> Result<(), LayerError> {
        let mark = directory.join(IMAGE_MARK);
        match fs::read_to_string(&mark) {
            Ok(boot) if boot == boot_id() => self.inner.syncer.add(mark),
            Ok(_) => {
                remove_if_there(&directory.join(IMAGE_FILE))?;
                remove_if_there(&mark)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(store_error("read", mark)(error)),
        }
        Ok(())
    }
}

fn write_image(diff: &Path, path: &Path, chain_id: &ChainId) -> Result<u64, LayerError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(CWD, diff, flags, Mode::empty()).map_err(store_error("open", diff))?;
    let image: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(store_error("create", path))?;
    atoll_erofs::write_image(folder.as_fd(), &image, uuid_of(chain_id)).map_err(|source| {
        LayerError::Image {
            chain_id: *chain_id,
            source,
        }
    })
}

/// A UUID of version 8, whose bytes are of one's own making (RFC 9562 §5.8).
fn uuid_of(chain_id: &ChainId) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&chain_id.digest().as_bytes()[..16]);
    uuid[6] = uuid[6] & 0x0F | 0x80;
    uuid[8] = uuid[8] & 0x3F | 0x80;
    uuid
}

fn remove_if_there(path: &Path) -> Result<(), LayerError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(store_error("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// A file that goes away unless it is moved.
struct HalfDone(PathBuf);

impl Drop for HalfDone {
    fn drop(&mut self) {
        if let Err(error) = remove_if_there(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove a layer's half image");
        }
    }
}

/// Layers that a thread works at alone.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    layers: Mutex<HashSet<ChainId>>,
    is_free: Condvar,
}

impl Busy {
    /// Waits until no other thread works at the layer.
    pub(crate) fn enter(&self, chain_id: ChainId) -> Alone<'_> {
        let mut layers = self.lock();
        while !layers.insert(chain_id) {
            layers = self
                .is_free
                .wait(layers)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Alone {
            busy: self,
            chain_id,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<ChainId>> {
        // No code panics while holding it, and a set has no invariant to break.
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As long as it lives, no other thread works at the layer.
pub(crate) struct Alone<'a> {
    busy: &'a Busy,
    chain_id: ChainId,
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.busy.lock().remove(&self.chain_id);
        self.busy.is_free.notify_all();
    }
}
