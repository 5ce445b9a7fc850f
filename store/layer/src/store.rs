//! The layers on disk. Layout and crash rules: `docs/formats/layer-store.md`.

use std::{
    fs, io,
    io::Read,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{
    CWD, IFlags, Mode, OFlags, RenameFlags, ioctl_getflags, ioctl_setflags, openat, renameat_with,
};
use serde::{Deserialize, Serialize};

use crate::{
    ChainId, Compression, Digest, LayerError, LayerSink, StagedLayer,
    copy::copy_tree,
    durability::{Syncer, UNSYNCED_MARK, boot_id},
    erofs::Busy,
    error::store_error,
    implied,
    staged::StagingDirectory,
    stream::read_chunk,
};

const RECORD_FILE: &str = "layer.json";
const RECORD_VERSION: u32 = 1;

/// A layer in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    version: u32,
    /// Its identity together with all layers below.
    pub chain_id: ChainId,
    /// Digest of its uncompressed tar.
    pub diff_id: Digest,
    /// The layer below, if any.
    pub parent: Option<ChainId>,
    /// Sum of the sizes of its regular files.
    pub size_bytes: u64,
    /// Length of its uncompressed tar.
    pub tar_bytes: u64,
}

/// Layers by chain ID, each unpacked into a directory of its own.
///
/// Cheap to clone. All methods block; any thread may call any of them at the same time.
#[derive(Debug, Clone)]
pub struct LayerStore {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    layers_dir: PathBuf,
    pub(crate) tmp_dir: PathBuf,
    pub(crate) syncer: Syncer,
    pub(crate) busy: Busy,
}

impl LayerStore {
    /// Opens the store, making its directories (mode 0700), and removes what an earlier process
    /// left half-done: everything in `tmp_dir`, and layers that were not on disk when the machine
    /// went down.
    ///
    /// Both directories must be on one file system, and no other process may use them: the
    /// engine's lock on the data root sees to that.
    ///
    /// # Errors
    /// [`LayerError::Store`] when a directory can't be made or read.
    pub fn open(layers_dir: &Path, tmp_dir: &Path) -> Result<Self, LayerError> {
        for directory in [layers_dir, tmp_dir] {
            make_private_directory(directory)?;
        }
        empty_directory(tmp_dir)?;
        spread_children(tmp_dir);
        let inner = Inner {
            layers_dir: layers_dir.to_owned(),
            tmp_dir: tmp_dir.to_owned(),
            syncer: Syncer::new(layers_dir),
            busy: Busy::default(),
        };
        let store = Self {
            inner: Arc::new(inner),
        };
        store.drop_unsynced()?;
        Ok(store)
    }

    /// The place for half-done work; emptied by [`LayerStore::open`].
    pub fn tmp_dir(&self) -> &Path {
        &self.inner.tmp_dir
    }

    /// Starts to unpack a layer whose bytes come piece by piece.
    ///
    /// # Errors
    /// [`LayerError::Store`] when the staging directory can't be made.
    pub fn sink(&self) -> Result<LayerSink, LayerError> {
        let (directory, root) = StagingDirectory::create(&self.inner.tmp_dir)?;
        Ok(LayerSink::new(directory, root))
    }

    /// Unpacks all of `tar` without putting it into the store yet.
    ///
    /// * `progress`: told the number of bytes read from `tar` so far.
    ///
    /// # Errors
    /// What is wrong with the archive, the reader or the disk; nothing stays.
    pub fn stage(
        &self,
        mut tar: impl Read,
        progress: &mut dyn FnMut(u64),
    ) -> Result<StagedLayer, LayerError> {
        let mut sink = self.sink()?;
        loop {
            let chunk = read_chunk(&mut tar).map_err(LayerError::Read)?;
            if chunk.is_empty() || !sink.feed(chunk) {
                break;
            }
            progress(sink.fed_bytes());
        }
        sink.finish().wait()
    }

    /// Puts a staged layer on top of `parent`. The layer appears whole or not at all; when it is
    /// there already, the staged one goes away.
    ///
    /// # Errors
    /// [`LayerError::NotFound`] when `parent` isn't in the store, [`LayerError::Store`] for the
    /// disk.
    pub fn commit(
        &self,
        staged: StagedLayer,
        parent: Option<&ChainId>,
    ) -> Result<Layer, LayerError> {
        let layer = Layer {
            version: RECORD_VERSION,
            chain_id: ChainId::on(parent, &staged.diff_id),
            diff_id: staged.diff_id,
            parent: parent.copied(),
            size_bytes: staged.size_bytes,
            tar_bytes: staged.tar_bytes,
        };
        if let Some(there) = self.find(&layer.chain_id)? {
            return Ok(there);
        }
        let below = match parent {
            Some(parent) => self.stack(parent)?,
            None => Vec::new(),
        };
        implied::inherit(
            &staged.directory.diff(),
            &staged.implied,
            &self.dirs(&below),
        )?;
        self.write_record(staged.directory.path(), &layer)?;
        let target = self.directory(&layer.chain_id);
        let mark = staged.directory.path().join(UNSYNCED_MARK);
        fs::write(&mark, boot_id()).map_err(store_error("write", &mark))?;
        match renameat_with(
            CWD,
            staged.directory.path(),
            CWD,
            &target,
            RenameFlags::NOREPLACE,
        ) {
            Ok(()) => {}
            // Another thread unpacked the same layer and was first.
            Err(rustix::io::Errno::EXIST) => return self.get(&layer.chain_id),
            Err(errno) => return Err(store_error("rename into place", &target)(errno)),
        }
        self.inner.syncer.add(target.join(UNSYNCED_MARK));
        tracing::debug!(layer = %layer.chain_id, bytes = layer.size_bytes, "layer unpacked");
        Ok(layer)
    }

    /// Puts a copy of `original`'s files on top of `parent`, for an image that has the same
    /// layer at several places.
    ///
    /// # Errors
    /// [`LayerError::NotFound`] when `original` or `parent` isn't there, [`LayerError::Store`]
    /// for the disk.
    pub fn commit_copy(
        &self,
        original: &ChainId,
        parent: Option<&ChainId>,
    ) -> Result<Layer, LayerError> {
        let layer = self.get(original)?;
        let source_dir = self.directory(original).join("diff");
        let (directory, target) = StagingDirectory::create(&self.inner.tmp_dir)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, &source_dir, flags, Mode::empty())
            .and_then(|source| copy_tree(source.as_fd(), target.as_fd()))
            .map_err(store_error("copy", &source_dir))?;
        let staged = StagedLayer {
            directory,
            diff_id: layer.diff_id,
            tar_bytes: layer.tar_bytes,
            blob_digest: layer.diff_id,
            blob_bytes: layer.tar_bytes,
            compression: Compression::None,
            size_bytes: layer.size_bytes,
            entries: 0,
            implied: Vec::new(),
        };
        self.commit(staged, parent)
    }

    /// Unpacks `tar` (plain, gzip or zstd) on top of `parent`.
    ///
    /// * `expected_diff`: the diff ID the image's configuration names, if there is one.
    /// * `progress`: told the number of bytes read from `tar` so far.
    ///
    /// # Errors
    /// [`LayerError::DiffId`] when the bytes aren't the expected ones; otherwise as
    /// [`LayerStore::stage`] and [`LayerStore::commit`].
    pub fn unpack(
        &self,
        parent: Option<&ChainId>,
        tar: impl Read,
        expected_diff: Option<&Digest>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Layer, LayerError> {
        let staged = self.stage(tar, progress)?;
        match expected_diff {
            Some(expected) if *expected != staged.diff_id => Err(LayerError::DiffId {
                expected: *expected,
                found: staged.diff_id,
            }),
            _ => self.commit(staged, parent),
        }
    }

    /// Whether the layer is in the store.
    pub fn exists(&self, chain_id: &ChainId) -> bool {
        self.directory(chain_id).join(RECORD_FILE).exists()
    }

    /// The layer's record.
    ///
    /// # Errors
    /// [`LayerError::NotFound`], or [`LayerError::Store`] when the record can't be read.
    pub fn get(&self, chain_id: &ChainId) -> Result<Layer, LayerError> {
        self.find(chain_id)?.ok_or(LayerError::NotFound(*chain_id))
    }

    /// Sum of the sizes of the layer's regular files.
    ///
    /// # Errors
    /// As [`LayerStore::get`].
    pub fn size_bytes(&self, chain_id: &ChainId) -> Result<u64, LayerError> {
        Ok(self.get(chain_id)?.size_bytes)
    }

    /// All layers, in no order.
    ///
    /// # Errors
    /// [`LayerError::Store`] when the directory or a record can't be read.
    pub fn list(&self) -> Result<Vec<Layer>, LayerError> {
        self.chain_ids()?
            .iter()
            .map(|chain_id| self.get(chain_id))
            .collect()
    }

    /// Chain IDs of all layers without reading their records.
    ///
    /// # Errors
    /// [`LayerError::Store`] when the directory can't be read.
    pub fn chain_ids(&self) -> Result<Vec<ChainId>, LayerError> {
        let root = &self.inner.layers_dir;
        let mut found = Vec::new();
        for entry in fs::read_dir(root).map_err(store_error("read", root))? {
            let entry = entry.map_err(store_error("read", root))?;
            let name = entry.file_name();
            if let Some(digest) = name.to_str().and_then(Digest::from_hex) {
                found.push(ChainId::from_digest(digest));
            }
        }
        Ok(found)
    }

    /// The layer and all below it, top first.
    ///
    /// # Errors
    /// [`LayerError::NotFound`] when one of them is missing.
    pub fn stack(&self, top: &ChainId) -> Result<Vec<ChainId>, LayerError> {
        let mut stack = Vec::new();
        let mut next = Some(*top);
        while let Some(chain_id) = next {
            next = self.get(&chain_id)?.parent;
            stack.push(chain_id);
        }
        Ok(stack)
    }

    /// The directories to give to overlay, in the order given.
    ///
    /// * `chain_ids`: top first, as overlay's `lowerdir` wants them.
    pub fn dirs(&self, chain_ids: &[ChainId]) -> Vec<PathBuf> {
        chain_ids
            .iter()
            .map(|chain_id| self.directory(chain_id).join("diff"))
            .collect()
    }

    /// Removes a layer. It disappears at once, then its files go. Waits while its image is made.
    ///
    /// # Errors
    /// [`LayerError::NotFound`], or [`LayerError::Store`] for the disk.
    pub fn remove(&self, chain_id: &ChainId) -> Result<(), LayerError> {
        let _alone = self.inner.busy.enter(*chain_id);
        let path = self.directory(chain_id);
        let grave = self
            .inner
            .tmp_dir
            .join(format!("removed-{}", chain_id.hex()));
        match fs::rename(&path, &grave) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(LayerError::NotFound(*chain_id));
            }
            Err(error) => return Err(store_error("remove", path)(error)),
        }
        fs::remove_dir_all(&grave).map_err(store_error("remove", grave))
    }

    /// Waits until all layers unpacked so far are on disk.
    pub fn wait_synced(&self) {
        self.inner.syncer.wait();
    }

    pub(crate) fn directory(&self, chain_id: &ChainId) -> PathBuf {
        self.inner.layers_dir.join(chain_id.hex())
    }

    fn find(&self, chain_id: &ChainId) -> Result<Option<Layer>, LayerError> {
        let path = self.directory(chain_id).join(RECORD_FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(store_error("read", path)(error)),
        };
        let layer: Layer = serde_json::from_slice(&bytes).map_err(store_error("parse", &path))?;
        if layer.version != RECORD_VERSION || layer.chain_id != *chain_id {
            let text = "written by another version of Atoll";
            return Err(store_error("use", path)(io::Error::other(text)));
        }
        Ok(Some(layer))
    }

    fn write_record(&self, directory: &Path, layer: &Layer) -> Result<(), LayerError> {
        let path = directory.join(RECORD_FILE);
        let bytes = serde_json::to_vec(layer).map_err(store_error("write", &path))?;
        fs::write(&path, bytes).map_err(store_error("write", &path))
    }

    fn drop_unsynced(&self) -> Result<(), LayerError> {
        for chain_id in self.chain_ids()? {
            let directory = self.directory(&chain_id);
            let mark = directory.join(UNSYNCED_MARK);
            match fs::read_to_string(&mark) {
                Ok(boot) if boot == boot_id() => self.inner.syncer.add(mark),
                Ok(_) => {
                    tracing::warn!(layer = %chain_id, "layer was not on disk when the machine stopped; removing it");
                    self.remove(&chain_id)?;
                    continue;
                }
                Err(_) if !directory.join(RECORD_FILE).exists() => {
                    self.remove(&chain_id)?;
                    continue;
                }
                Err(_) => {}
            }
            self.drop_unsynced_image(&directory)?;
        }
        Ok(())
    }
}

fn make_private_directory(path: &Path) -> Result<(), LayerError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(store_error("create", path))
}

/// Tells ext4 that the directories made in `path` have nothing to do with each other, so that it
/// spreads them over the disk.
///
/// Without a journal, ext4 gives no inode again within half a minute of its deletion, and finds
/// that out one inode at a time: a layer put where one was just removed took 5 times as long.
fn spread_children(path: &Path) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let result = openat(CWD, path, flags, Mode::empty()).and_then(|directory| {
        let attributes = ioctl_getflags(&directory)?;
        ioctl_setflags(&directory, attributes | IFlags::TOPDIR)
    });
    if let Err(errno) = result {
        // Other file systems don't know the flag and don't need it.
        tracing::debug!(%errno, path = %path.display(), "cannot set the top directory flag");
    }
}

fn empty_directory(path: &Path) -> Result<(), LayerError> {
    for entry in fs::read_dir(path).map_err(store_error("read", path))? {
        let entry = entry.map_err(store_error("read", path))?;
        let kind = entry
            .file_type()
            .map_err(store_error("read", entry.path()))?;
        let result = if kind.is_dir() {
            fs::remove_dir_all(entry.path())
        } else {
            fs::remove_file(entry.path())
        };
        result.map_err(store_error("remove", entry.path()))?;
    }
    Ok(())
}
