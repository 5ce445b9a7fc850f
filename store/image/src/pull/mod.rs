//! `docker pull`: manifest, configuration, then the layers that aren't there.
//!
//! Three layers come at a time, each unpacked while it comes; what is half there when the pull
//! fails or is dropped goes away. Layers enter the store in order, bottom first.

mod download;
mod report;

use std::sync::Arc;

use atoll_layer::{ChainId, Digest, LayerError};
use bytes::Bytes;
use tokio::sync::mpsc;

use self::{
    download::{Downloads, download_all},
    report::Reports,
};
use crate::{
    ImageError, ImageStore, LayerStatus, Platform, Progress, Reference,
    host::is_reserved,
    manifest::{self, Document, Manifest},
    registry::Repository,
    store::parse_config,
};

/// An index that leads to an index.
const MAX_DEPTH: usize = 4;
/// More layers than overlay mounts.
const MAX_LAYERS: usize = 500;

/// What a registry is told to prove who asks.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// User and password.
    Basic {
        /// User.
        username: String,
        /// Password.
        password: String,
    },
    /// An identity token, to be changed for a registry token.
    IdentityToken(String),
    /// A registry token.
    RegistryToken(String),
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Secrets don't belong in logs.
        formatter.write_str("Auth(…)")
    }
}

/// What a pull did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Digest of the manifest or index the name stands for.
    pub digest: Digest,
    /// The image.
    pub image_id: Digest,
    /// Whether it was there before under this name.
    pub is_up_to_date: bool,
}

/// What a name stands for in the registry.
struct Resolved {
    digest: Digest,
    manifest_bytes: Bytes,
    manifest: Manifest,
}

impl ImageStore {
    /// Fetches an image and names it. Dropping the future stops it and leaves nothing.
    ///
    /// * `platform`: this machine's when none.
    /// * `progress`: called in between, never at the same time.
    ///
    /// # Errors
    /// [`ImageError::Registry`] in docker's words for what the registry refuses,
    /// [`ImageError::BlobDigest`] and [`ImageError::Layer`] for wrong or bad content. Nothing
    /// stays then.
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        auth: Option<Auth>,
        mut progress: impl FnMut(Progress) + Send,
    ) -> Result<Pulled, ImageError> {
        if is_reserved(reference) {
            return Err(ImageError::HostReserved { action: "pull" });
        }
        let platform = platform.cloned().unwrap_or_default();
        let repository = Arc::new(Repository::new(reference, auth)?);
        let resolved = resolve(&repository, reference, &platform, &mut progress).await?;
        let manifest = &resolved.manifest;
        check_manifest(manifest)?;
        let raw_config = repository
            .document(&manifest.config.digest, manifest.config.size)
            .await?;
        let config = parse_config(&raw_config)?;
        let diff_ids = config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            let reason = format!(
                "the configuration names {} layers, the manifest {}",
                diff_ids.len(),
                manifest.layers.len()
            );
            return Err(ImageError::Document {
                what: "image",
                reason,
            });
        }
        let chain_ids = ChainId::stack(&diff_ids);
        let _pinned = self.pin(&chain_ids);
        self.fetch_layers(&repository, manifest, &diff_ids, &chain_ids, &mut progress)
            .await?;

        let names = names(reference, &resolved.digest);
        let before = self.state();
        let is_known =
            |name: &Reference| before.names.get(&name.to_string()) == Some(&manifest.config.digest);
        let is_up_to_date = names.iter().all(is_known);
        let store = self.clone();
        let manifest_bytes = resolved.manifest_bytes.clone();
        let image_id =
            blocking(move || store.register(&raw_config, Some(&manifest_bytes), &names)).await?;
        progress(Progress::Digest(resolved.digest));
        let familiar = reference.familiar();
        progress(Progress::Status(match is_up_to_date {
            true => format!("Image is up to date for {familiar}"),
            false => format!("Downloaded newer image for {familiar}"),
        }));
        Ok(Pulled {
            digest: resolved.digest,
            image_id,
            is_up_to_date,
        })
    }

    /// Brings the layers that aren't in the store into it.
    async fn fetch_layers(
        &self,
        repository: &Arc<Repository>,
        manifest: &Manifest,
        diff_ids: &[Digest],
        chain_ids: &[ChainId],
        progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<(), ImageError> {
        let layers = &self.inner.layers;
        // A chain in the store has all below it in the store.
        let present = chain_ids
            .iter()
            .take_while(|chain_id| layers.exists(chain_id))
            .count();
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut reports = Reports::new(receiver);
        for (index, layer) in manifest.layers.iter().enumerate() {
            let status = match index {
                index if index < present => LayerStatus::AlreadyExists,
                _ => LayerStatus::PullingFsLayer,
            };
            progress(Progress::Layer {
                id: layer.digest.short(),
                status,
            });
        }
        let wanted = &manifest.layers[present..];
        for layer in wanted.iter().skip(download::PARALLEL) {
            let status = LayerStatus::Waiting;
            progress(Progress::Layer {
                id: layer.digest.short(),
                status,
            });
        }
        let mut downloads: Downloads = download_all(layers, repository, wanted, present, &sender);
        drop(sender);
        let mut parent = present.checked_sub(1).map(|below| chain_ids[below]);
        for (index, diff_id) in diff_ids.iter().copied().enumerate().skip(present) {
            let descriptor = &manifest.layers[index];
            let id = descriptor.digest.short();
            let failed = move |source| ImageError::Layer {
                index: index + 1,
                source,
            };
            let place = index - present;
            // The same layer twice in one image comes once.
            let first = wanted
                .iter()
                .position(|other| other.digest == descriptor.digest);
            let store = layers.clone();
            let committed = if let Some(first) = first.filter(|first| *first != place) {
                let original = chain_ids[present + first];
                blocking(move || {
                    let found = store.get(&original).map_err(failed)?.diff_id;
                    if found != diff_id {
                        return Err(failed(LayerError::DiffId {
                            expected: diff_id,
                            found,
                        }));
                    }
                    store
                        .commit_copy(&original, parent.as_ref())
                        .map_err(failed)
                })
                .await?
            } else {
                let staged = reports.until(downloads.next(place), progress).await?;
                let total_bytes = descriptor.size;
                let status = LayerStatus::Extracting {
                    current_bytes: total_bytes,
                    total_bytes,
                };
                progress(Progress::Layer {
                    id: id.clone(),
                    status,
                });
                blocking(move || {
                    if staged.diff_id != diff_id {
                        let found = staged.diff_id;
                        return Err(failed(LayerError::DiffId {
                            expected: diff_id,
                            found,
                        }));
                    }
                    store.commit(staged, parent.as_ref()).map_err(failed)
                })
                .await?
            };
            parent = Some(committed.chain_id);
            progress(Progress::Layer {
                id,
                status: LayerStatus::PullComplete,
            });
        }
        Ok(())
    }
}

/// Asks the registry what a name stands for, and chooses the platform.
async fn resolve(
    repository: &Repository,
    reference: &Reference,
    platform: &Platform,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<Resolved, ImageError> {
    let selector = reference.selector();
    let mut manifest_bytes = repository.manifest(&selector).await?;
    progress(Progress::Pulling {
        repository: reference.path().to_owned(),
        selector,
    });
    let digest = Digest::of(&manifest_bytes);
    for _ in 0..MAX_DEPTH {
        match manifest::parse(&manifest_bytes)? {
            Document::Manifest(manifest) => {
                return Ok(Resolved {
                    digest,
                    manifest_bytes,
                    manifest,
                });
            }
            Document::Index(entries) => {
                let chosen = manifest::choose(&entries, platform)?;
                manifest_bytes = repository.manifest(&chosen.digest.to_string()).await?;
            }
        }
    }
    Err(ImageError::Document {
        what: "index",
        reason: "it is nested too deep".to_owned(),
    })
}

fn check_manifest(manifest: &Manifest) -> Result<(), ImageError> {
    let bad = |reason: String| ImageError::Document {
        what: "manifest",
        reason,
    };
    let media_type = &manifest.config.media_type;
    // Charts, policies and other artifacts are stored in the same way.
    if !media_type.is_empty() && !media_type.contains(".image.") {
        return Err(bad(format!(
            "`{media_type}` is not an image's configuration"
        )));
    }
    if manifest.layers.len() > MAX_LAYERS {
        return Err(bad(format!("it has more than {MAX_LAYERS} layers")));
    }
    Ok(())
}

/// The names an image gets: the tag if it was asked for by tag, and always the digest.
fn names(reference: &Reference, digest: &Digest) -> Vec<Reference> {
    let by_digest = reference.with_digest(*digest);
    if reference.digest().is_some() {
        return vec![by_digest];
    }
    vec![reference.clone(), by_digest]
}

/// Runs something that waits for the disk where it delays nobody.
async fn blocking<T: Send + 'static>(
    body: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(body).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down.
            Err(_) => Err(ImageError::Store(LayerError::Interrupted)),
        },
    }
}
