//! The images on disk. Layout and crash rules: `docs/formats/image-store.md`.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use atoll_layer::{ChainId, Digest, LayerStore};

use crate::{
    Image, ImageConfig, ImageError, Reference,
    blobs::Blobs,
    error::file_error,
    host::{host_image, is_host, is_reserved},
    metadata::{Change, ImageRecord, Metadata},
};

/// Largest configuration or manifest taken.
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// Images, their names and their layers. Cheap to clone, usable from any thread.
///
/// Reading never waits for the disk or for a change going on.
#[derive(Clone)]
pub struct ImageStore {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) layers: LayerStore,
    pub(crate) blobs: Blobs,
    metadata: Metadata,
    state: RwLock<Arc<State>>,
    /// Held by whoever changes names, images or removes layers.
    writer: Mutex<()>,
    /// Layers that a pull or load going on counts on.
    pub(crate) pins: Mutex<BTreeMap<ChainId, usize>>,
    data_root: PathBuf,
}

impl fmt::Debug for ImageStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ImageStore")
            .field("data_root", &self.inner.data_root)
            .finish()
    }
}

/// Everything there is, as one immutable snapshot.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) images: BTreeMap<Digest, Stored>,
    pub(crate) names: BTreeMap<String, Digest>,
}

#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) record: ImageRecord,
    pub(crate) config: Arc<ImageConfig>,
    pub(crate) raw_config: Arc<[u8]>,
    pub(crate) chain_ids: Arc<[ChainId]>,
}

impl State {
    pub(crate) fn image(&self, id: &Digest) -> Option<Image> {
        let stored = self.images.get(id)?;
        let mut repo_tags = Vec::new();
        let mut repo_digests = Vec::new();
        for (name, _) in self.names.iter().filter(|(_, named)| *named == id) {
            // Names were printed from references.
            if let Ok(reference) = name.parse::<Reference>() {
                let list = if reference.digest().is_some() {
                    &mut repo_digests
                } else {
                    &mut repo_tags
                };
                list.push(reference.familiar());
            }
        }
        Some(Image {
            id: *id,
            config: Arc::clone(&stored.config),
            raw_config: Arc::clone(&stored.raw_config),
            chain_ids: stored.chain_ids.to_vec(),
            size_bytes: stored.record.size_bytes,
            repo_tags,
            repo_digests,
            created: stored.config.created.clone(),
            tagged_at: stored.record.tagged_at.clone(),
            manifest_digest: stored.record.manifest,
            is_host: false,
        })
    }

    pub(crate) fn uses_layer(&self, chain_id: &ChainId) -> bool {
        self.images
            .values()
            .any(|stored| stored.chain_ids.contains(chain_id))
    }

    pub(crate) fn uses_blob(&self, digest: &Digest) -> bool {
        self.images.contains_key(digest)
            || self
                .images
                .values()
                .any(|stored| stored.record.manifest == Some(*digest))
    }
}

impl ImageStore {
    /// Opens the store below `data_root`, making what isn't there, and removes what an earlier
    /// process left half-done.
    ///
    /// # Errors
    /// [`ImageError::InUse`] when another process has it open; otherwise what is wrong with the
    /// files.
    pub fn open(data_root: &Path) -> Result<Self, ImageError> {
        let image_dir = data_root.join("image");
        fs::create_dir_all(&image_dir).map_err(file_error("create", &image_dir))?;
        // First, as it locks out others before anything is cleaned up.
        let metadata = Metadata::open(&image_dir.join("metadata.redb"))?;
        let layers = LayerStore::open(&data_root.join("layers"), &data_root.join("tmp"))?;
        let blobs = Blobs::open(&image_dir, layers.tmp_dir())?;
        let store = Self {
            inner: Arc::new(Inner {
                layers,
                blobs,
                metadata,
                state: RwLock::default(),
                writer: Mutex::new(()),
                pins: Mutex::default(),
                data_root: data_root.to_owned(),
            }),
        };
        store.load_state()?;
        Ok(store)
    }

    /// The layers of the images.
    pub fn layers(&self) -> &LayerStore {
        &self.inner.layers
    }

    /// The directory given to [`ImageStore::open`].
    pub fn data_root(&self) -> &Path {
        &self.inner.data_root
    }

    /// All images, by ID; the host image isn't among them.
    ///
    /// # Errors
    /// None today; kept for stores that read from disk.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let state = self.state();
        Ok(state
            .images
            .keys()
            .filter_map(|id| state.image(id))
            .collect())
    }

    /// Finds an image by name, name with tag or digest, ID, or the beginning of an ID.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::Ambiguous`], or [`ImageError::Reference`] when
    /// `name` is neither a name nor an ID.
    pub fn resolve(&self, name: &str) -> Result<Image, ImageError> {
        if is_host(name) {
            return Ok(host_image());
        }
        let state = self.state();
        let id = state.find(name)?.0;
        state
            .image(&id)
            .ok_or_else(|| ImageError::NotFound(name.to_owned()))
    }

    /// The image with this ID.
    pub fn get(&self, id: &Digest) -> Option<Image> {
        let host = host_image();
        if *id == host.id {
            Some(host)
        } else {
            self.state().image(id)
        }
    }

    /// Directories for overlay's `lowerdir`, top first; `/` for the host image.
    pub fn lower_dirs(&self, image: &Image) -> Vec<PathBuf> {
        if image.is_host {
            return vec![PathBuf::from("/")];
        }
        let top_first: Vec<ChainId> = image.chain_ids.iter().rev().copied().collect();
        self.inner.layers.dirs(&top_first)
    }

    /// Gives an image one more name, taking it from the image that had it.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] for the image, [`ImageError::HostReserved`] for the name or the
    /// image, [`ImageError::Document`] for a name with a digest.
    pub fn tag(&self, id: &Digest, reference: &Reference) -> Result<(), ImageError> {
        if *id == host_image().id || is_reserved(reference) {
            return Err(ImageError::HostReserved { action: "tag" });
        }
        if reference.digest().is_some() {
            let reason = "refusing to create a tag with a digest reference".to_owned();
            return Err(ImageError::Document {
                what: "tag",
                reason,
            });
        }
        let _writer = self.writer();
        let state = self.state();
        let stored = state
            .images
            .get(id)
            .ok_or_else(|| ImageError::NotFound(id.to_string()))?;
        let record = ImageRecord {
            tagged_at: Some(now()),
            ..stored.record.clone()
        };
        self.apply(Change {
            put: vec![(*id, record)],
            name: vec![(reference.to_string(), *id)],
            ..Change::default()
        })
    }

    /// Adds an image whose layers are all in the store, and names it.
    ///
    /// The caller has pinned the layers.
    pub(crate) fn register(
        &self,
        raw_config: &[u8],
        manifest: Option<&[u8]>,
        names: &[Reference],
    ) -> Result<Digest, ImageError> {
        let config = parse_config(raw_config)?;
        let chain_ids = ChainId::stack(&config.rootfs.diff_ids);
        let mut size_bytes = 0u64;
        for chain_id in &chain_ids {
            size_bytes = size_bytes.saturating_add(self.inner.layers.size_bytes(chain_id)?);
        }
        let _writer = self.writer();
        let state = self.state();
        let id = self.inner.blobs.put(raw_config)?;
        let manifest = manifest
            .map(|bytes| self.inner.blobs.put(bytes))
            .transpose()?;
        let known = state.images.get(&id).map(|stored| &stored.record);
        let record = ImageRecord {
            size_bytes,
            manifest: manifest.or_else(|| known.and_then(|record| record.manifest)),
            tagged_at: Some(now()),
        };
        let change = Change {
            put: vec![(id, record)],
            name: names.iter().map(|name| (name.to_string(), id)).collect(),
            ..Change::default()
        };
        self.apply_with(change, |state, (id, record)| {
            let stored = Stored {
                record,
                config: Arc::new(config),
                raw_config: raw_config.into(),
                chain_ids: chain_ids.into(),
            };
            state.images.insert(id, stored);
        })?;
        tracing::info!(image = %id, bytes = size_bytes, "image stored");
        Ok(id)
    }

    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(
            &self
                .inner
                .state
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    pub(crate) fn writer(&self) -> MutexGuard<'_, ()> {
        self.inner
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a change of names and records of known images; the caller holds the writer lock.
    pub(crate) fn apply(&self, change: Change) -> Result<(), ImageError> {
        self.apply_with(change, |state, (id, record)| {
            if let Some(stored) = state.images.get_mut(&id) {
                stored.record = record;
            }
        })
    }

    fn apply_with(
        &self,
        change: Change,
        put: impl FnOnce(&mut State, (Digest, ImageRecord)),
    ) -> Result<(), ImageError> {
        self.inner.metadata.write(&change)?;
        let mut state = State::clone(&self.state());
        if let Some(image) = change.put.into_iter().next() {
            put(&mut state, image);
        }
        for name in &change.unname {
            state.names.remove(name);
        }
        state.names.extend(change.name);
        for id in &change.delete {
            state.images.remove(id);
        }
        *self
            .inner
            .state
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
        Ok(())
    }

    /// Fills the snapshot from disk, dropping images that are no longer whole, then layers and
    /// blobs that belong to none.
    fn load_state(&self) -> Result<(), ImageError> {
        let (records, names) = self.inner.metadata.load()?;
        let mut state = State {
            images: BTreeMap::new(),
            names,
        };
        let mut broken = Change::default();
        for (id, record) in records {
            match self.load_image(&id, record) {
                Ok(stored) => {
                    state.images.insert(id, stored);
                }
                Err(error) => {
                    tracing::warn!(image = %id, %error, "image is damaged; removing it");
                    broken.delete.push(id);
                }
            }
        }
        let lost = state
            .names
            .iter()
            .filter(|(_, id)| !state.images.contains_key(id));
        broken.unname = lost.map(|(name, _)| name.clone()).collect();
        if !broken.delete.is_empty() || !broken.unname.is_empty() {
            self.inner.metadata.write(&broken)?;
            state.names.retain(|_, id| state.images.contains_key(id));
        }
        for chain_id in self.inner.layers.chain_ids()? {
            if !state.uses_layer(&chain_id) {
                self.inner.layers.remove(&chain_id)?;
            }
        }
        self.inner.blobs.sweep(|digest| state.uses_blob(digest))?;
        *self
            .inner
            .state
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
        Ok(())
    }

    fn load_image(&self, id: &Digest, record: ImageRecord) -> Result<Stored, ImageError> {
        let raw_config = self.inner.blobs.get(id)?;
        let config = parse_config(&raw_config)?;
        let chain_ids = ChainId::stack(&config.rootfs.diff_ids);
        for chain_id in &chain_ids {
            self.inner.layers.get(chain_id)?;
        }
        Ok(Stored {
            record,
            config: Arc::new(config),
            raw_config: raw_config.into(),
            chain_ids: chain_ids.into(),
        })
    }
}

impl State {
    /// The image a name means, and the reference that named it unless it was an ID.
    pub(crate) fn find(&self, name: &str) -> Result<(Digest, Option<Reference>), ImageError> {
        let not_found = || ImageError::NotFound(name.to_owned());
        if let Ok(id) = name.parse::<Digest>() {
            return self
                .images
                .contains_key(&id)
                .then_some((id, None))
                .ok_or_else(not_found);
        }
        let reference = name.parse::<Reference>();
        if let Ok(reference) = &reference
            && let Some(id) = self.named(reference)
        {
            return Ok((id, Some(reference.clone())));
        }
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if !prefix.is_empty() && prefix.bytes().all(is_hex) {
            let mut found = self.images.keys().filter(|id| id.hex().starts_with(prefix));
            match (found.next(), found.next()) {
                (Some(id), None) => return Ok((*id, None)),
                (Some(_), Some(_)) => return Err(ImageError::Ambiguous(name.to_owned())),
                _ => {}
            }
        }
        match reference {
            Ok(reference) => Err(ImageError::NotFound(reference.familiar())),
            Err(_) if prefix.len() == 64 => Err(not_found()),
            Err(error) => Err(error),
        }
    }

    fn named(&self, reference: &Reference) -> Option<Digest> {
        let Some(digest) = reference.digest() else {
            return self.names.get(&reference.to_string()).copied();
        };
        let by_digest = self
            .names
            .get(&reference.with_digest(*digest).to_string())
            .copied()?;
        match reference.tag() {
            None => Some(by_digest),
            // Both given: docker pulls by digest and only checks that the two agree.
            Some(_) => self
                .names
                .get(&reference.without_digest().to_string())
                .is_none_or(|by_tag| *by_tag == by_digest)
                .then_some(by_digest),
        }
    }
}

/// Parses a configuration and checks what the store relies on.
pub(crate) fn parse_config(raw: &[u8]) -> Result<ImageConfig, ImageError> {
    let what = "image configuration";
    let config: ImageConfig =
        serde_json::from_slice(raw).map_err(|source| ImageError::Json { what, source })?;
    if config.rootfs.diff_ids.is_empty() {
        let reason = "it names no layers".to_owned();
        return Err(ImageError::Document { what, reason });
    }
    Ok(config)
}

/// The time in RFC 3339 with nanoseconds, as docker writes it.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().to_string()
}
