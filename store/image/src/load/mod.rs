//! `docker load`: all images of one archive, in one pass over it.
//!
//! `docker save` writes the layers before the documents that say what they are. So every file
//! that looks like a layer is unpacked at once, while the next is being read, and becomes part
//! of an image at the end; nothing is written twice. What no image names goes away again.

mod content;
mod docker;
mod oci;

use std::{collections::BTreeMap, io::Read};

use atoll_layer::{ChainId, Digest, LayerError, StagedLayer};
use bytes::Bytes;

use self::content::Content;
use crate::{
    ImageError, ImageStore, Progress, Reference, host::is_reserved, manifest::Platform,
    store::parse_config,
};

/// An image that a load has added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its name in docker's short form, if the archive gave one.
    pub reference: Option<String>,
    /// Its ID.
    pub id: Digest,
    /// The other image that had this name before and may have none now.
    pub replaced: Option<Digest>,
}

/// What an archive's documents say about one image.
#[derive(Debug, PartialEq, Eq)]
struct ImagePlan {
    config: Bytes,
    manifest: Option<Bytes>,
    /// Paths of its layers in the archive, bottom first.
    layers: Vec<String>,
    names: Vec<Reference>,
}

impl ImageStore {
    /// Adds all images of an archive made by `docker save`, or of an OCI layout in a tar; layers
    /// and the archive itself may be plain, gzip or zstd.
    ///
    /// All or nothing: when one of several images is bad, none is added.
    ///
    /// * `progress`: told how far each layer is, by its digest or path in the archive.
    ///
    /// # Errors
    /// [`ImageError::Archive`] or [`ImageError::Unreadable`] for an archive that isn't one of
    /// images, [`ImageError::Layer`], [`ImageError::BlobDigest`], [`ImageError::Json`],
    /// [`ImageError::Document`] for a bad part of it. Nothing stays then.
    pub fn load(
        &self,
        tar: impl Read,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Loaded>, ImageError> {
        let mut content = Content::read(&self.inner.layers, tar, progress)?;
        let plans = plan(&content)?;
        let mut pinned = Vec::new();
        for plan in &plans {
            if plan.names.iter().any(is_reserved) {
                return Err(ImageError::HostReserved { action: "load" });
            }
            let config = parse_config(&plan.config)?;
            let diff_ids = &config.rootfs.diff_ids;
            if diff_ids.len() != plan.layers.len() {
                let reason = format!(
                    "the configuration names {} layers, the manifest {}",
                    diff_ids.len(),
                    plan.layers.len()
                );
                return Err(ImageError::Document {
                    what: "image",
                    reason,
                });
            }
            pinned.push(self.pin(&ChainId::stack(diff_ids)));
            self.commit_layers(&mut content, &plan.layers, diff_ids)?;
        }
        let mut loaded = Vec::new();
        for plan in plans {
            let before = self.state();
            let id = self.register(&plan.config, plan.manifest.as_deref(), &plan.names)?;
            let replaced = |name: &Reference| {
                before
                    .names
                    .get(&name.to_string())
                    .copied()
                    .filter(|old| *old != id)
            };
            if plan.names.is_empty() {
                loaded.push(Loaded {
                    reference: None,
                    id,
                    replaced: None,
                });
            }
            for name in &plan.names {
                let reference = Some(name.familiar());
                loaded.push(Loaded {
                    reference,
                    id,
                    replaced: replaced(name),
                });
            }
        }
        drop(pinned);
        Ok(loaded)
    }

    /// Puts an image's layers into the store, bottom first.
    fn commit_layers(
        &self,
        content: &mut Content,
        paths: &[String],
        diff_ids: &[Digest],
    ) -> Result<(), ImageError> {
        let layers = &self.inner.layers;
        let mut parent: Option<ChainId> = None;
        for (index, (path, diff_id)) in paths.iter().zip(diff_ids).enumerate() {
            let failed = |source| ImageError::Layer {
                index: index + 1,
                source,
            };
            let chain_id = ChainId::on(parent.as_ref(), diff_id);
            let layer = match content.take_layer(path, index + 1)? {
                Taken::Staged(staged) => {
                    if staged.diff_id != *diff_id {
                        let found = staged.diff_id;
                        return Err(failed(LayerError::DiffId {
                            expected: *diff_id,
                            found,
                        }));
                    }
                    layers.commit(*staged, parent.as_ref()).map_err(failed)?
                }
                // The same file again, in this image or an earlier one of the archive.
                Taken::Committed(original) => {
                    let found = layers.get(&original).map_err(failed)?.diff_id;
                    if found != *diff_id {
                        return Err(failed(LayerError::DiffId {
                            expected: *diff_id,
                            found,
                        }));
                    }
                    if layers.exists(&chain_id) {
                        layers.get(&chain_id).map_err(failed)?
                    } else {
                        layers
                            .commit_copy(&original, parent.as_ref())
                            .map_err(failed)?
                    }
                }
            };
            content.committed(path, layer.chain_id);
            parent = Some(layer.chain_id);
        }
        Ok(())
    }
}

/// A layer of the archive, at the moment an image needs it.
enum Taken {
    Staged(Box<StagedLayer>),
    Committed(ChainId),
}

/// Reads the archive's own table of contents, docker's first as it has the names.
fn plan(content: &Content) -> Result<Vec<ImagePlan>, ImageError> {
    let plans = if let Some(manifest) = content.document("manifest.json") {
        docker::plan(content, &manifest)?
    } else if let Some(index) = content.document("index.json") {
        oci::plan(content, &index, &Platform::default())?
    } else {
        return Err(ImageError::Archive(
            "it has no manifest.json and no index.json".to_owned(),
        ));
    };
    if plans.is_empty() {
        return Err(ImageError::Archive("it has no images".to_owned()));
    }
    Ok(merged(plans))
}

/// Joins the names of plans for the same image.
fn merged(plans: Vec<ImagePlan>) -> Vec<ImagePlan> {
    let mut by_config: BTreeMap<Bytes, usize> = BTreeMap::new();
    let mut merged: Vec<ImagePlan> = Vec::new();
    for plan in plans {
        match by_config.get(&plan.config) {
            Some(index) if merged[*index].layers == plan.layers => {
                merged[*index].names.extend(plan.names);
            }
            _ => {
                by_config.insert(plan.config.clone(), merged.len());
                merged.push(plan);
            }
        }
    }
    merged
}
