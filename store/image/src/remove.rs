//! Taking names away from images, and images away.

use std::collections::BTreeSet;

use atoll_layer::{ChainId, Digest};

use crate::{ImageError, ImageStore, Reference, host::is_host, metadata::Change, store::State};

/// A container that uses an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUse {
    /// Its ID, shortened as messages show it.
    pub container: String,
    /// Whether it runs.
    pub is_running: bool,
}

/// What removing did, in order, as docker tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoveItem {
    /// A name was taken away.
    Untagged(String),
    /// An image or a layer was deleted: `sha256:…`.
    Deleted(String),
}

impl ImageStore {
    /// Removes a name, and the image with its layers when that was its last one; or an image by
    /// its ID.
    ///
    /// Rules as docker's: a name of several is only untagged; an image with names in several
    /// repositories, or used by a stopped container, needs `force`; one used by a running
    /// container can't be removed by ID. With `force`, an image that a container still uses only
    /// loses its names: its layers are never taken from below a container.
    ///
    /// * `in_use`: a container using the image, a running one first.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::Conflict`] in docker's words, or
    /// [`ImageError::HostReserved`].
    pub fn remove(
        &self,
        name: &str,
        force: bool,
        in_use: &dyn Fn(&Digest) -> Option<ImageUse>,
    ) -> Result<Vec<RemoveItem>, ImageError> {
        if is_host(name) {
            return Err(ImageError::HostReserved { action: "remove" });
        }
        let _writer = self.writer();
        let state = self.state();
        let (id, reference) = state.find(name)?;
        let names = Names::of(&state, &id);
        let container = in_use(&id);
        let plan = match &reference {
            Some(reference) => by_name(reference, &names, container.as_ref(), force)?,
            None => by_id(&id, &names, container.as_ref(), force)?,
        };
        self.carry_out(&state, &id, &plan)
    }

    /// Removes images without a name that no container uses.
    ///
    /// # Errors
    /// [`ImageError::Database`] when the change can't be written.
    pub fn prune(
        &self,
        in_use: &dyn Fn(&Digest) -> Option<ImageUse>,
    ) -> Result<Vec<RemoveItem>, ImageError> {
        let _writer = self.writer();
        let mut items = Vec::new();
        let snapshot = self.state();
        for id in snapshot.images.keys() {
            let names = Names::of(&snapshot, id);
            if names.tags.is_empty() && in_use(id).is_none() {
                let plan = Plan {
                    untag: names.all(),
                    is_deleted: true,
                };
                items.extend(self.carry_out(&self.state(), id, &plan)?);
            }
        }
        Ok(items)
    }

    fn carry_out(
        &self,
        state: &State,
        id: &Digest,
        plan: &Plan,
    ) -> Result<Vec<RemoveItem>, ImageError> {
        let mut items: Vec<RemoveItem> = plan
            .untag
            .iter()
            .map(|name| RemoveItem::Untagged(name.familiar()))
            .collect();
        self.apply(Change {
            unname: plan.untag.iter().map(ToString::to_string).collect(),
            delete: if plan.is_deleted {
                vec![*id]
            } else {
                Vec::new()
            },
            ..Change::default()
        })?;
        let Some(stored) = state.images.get(id).filter(|_| plan.is_deleted) else {
            return Ok(items);
        };
        items.push(RemoveItem::Deleted(id.to_string()));
        self.inner.blobs.remove(id);
        if let Some(manifest) = stored.record.manifest
            && !self.state().uses_blob(&manifest)
        {
            self.inner.blobs.remove(&manifest);
        }
        let top_first: Vec<ChainId> = stored.chain_ids.iter().rev().copied().collect();
        let removed = self.remove_unused_layers(&top_first);
        items.extend(
            removed
                .iter()
                .map(|chain_id| RemoveItem::Deleted(chain_id.to_string())),
        );
        tracing::info!(image = %id, layers = removed.len(), "image removed");
        Ok(items)
    }
}

/// What is going to be done to one image.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    untag: Vec<Reference>,
    is_deleted: bool,
}

/// The names of one image.
struct Names {
    tags: Vec<Reference>,
    digests: Vec<Reference>,
}

impl Names {
    fn of(state: &State, id: &Digest) -> Self {
        let all = state.names.iter().filter(|(_, named)| *named == id);
        let (digests, tags) = all
            .filter_map(|(name, _)| name.parse::<Reference>().ok())
            .partition(|reference| reference.digest().is_some());
        Self { tags, digests }
    }

    fn all(&self) -> Vec<Reference> {
        self.tags.iter().chain(&self.digests).cloned().collect()
    }
}

fn by_name(
    reference: &Reference,
    names: &Names,
    container: Option<&ImageUse>,
    force: bool,
) -> Result<Plan, ImageError> {
    let is_same_repository = |other: &&Reference| other.name() == reference.name();
    let mut untag = vec![match reference.digest() {
        Some(digest) => reference.with_digest(*digest),
        None => reference.clone(),
    }];
    let remaining = |untag: &[Reference]| -> Vec<Reference> {
        names
            .all()
            .into_iter()
            .filter(|name| !untag.contains(name))
            .collect()
    };
    let tags_left = names.tags.iter().filter(|tag| !untag.contains(tag)).count();
    if reference.digest().is_none() {
        let has_sibling = names
            .tags
            .iter()
            .filter(is_same_repository)
            .any(|tag| !untag.contains(tag));
        // The last tag of a repository takes the repository's digests along.
        if !has_sibling {
            untag.extend(names.digests.iter().filter(is_same_repository).cloned());
        }
    }
    if tags_left > 0 || !remaining(&untag).is_empty() {
        return Ok(Plan {
            untag,
            is_deleted: false,
        });
    }
    match container {
        None => Ok(Plan {
            untag,
            is_deleted: true,
        }),
        Some(_) if force => Ok(Plan {
            untag,
            is_deleted: false,
        }),
        Some(container) => Err(ImageError::Conflict(format!(
            "unable to remove repository reference \"{}\" (must force) - container {} is using \
             its referenced image",
            reference.familiar(),
            container.container
        ))),
    }
}

fn by_id(
    id: &Digest,
    names: &Names,
    container: Option<&ImageUse>,
    force: bool,
) -> Result<Plan, ImageError> {
    let short = id.short();
    let conflict = |text: String| Err(ImageError::Conflict(text));
    match container {
        Some(ImageUse {
            container,
            is_running: true,
        }) => {
            return conflict(format!(
                "unable to delete {short} (cannot be forced) - image is being used by running \
                 container {container}"
            ));
        }
        Some(ImageUse {
            container,
            is_running: false,
        }) if !force => {
            return conflict(format!(
                "unable to delete {short} (must be forced) - image is being used by stopped \
                 container {container}"
            ));
        }
        _ => {}
    }
    let repositories: BTreeSet<String> = names.tags.iter().map(Reference::name).collect();
    if !force && (repositories.len() > 1 || names.tags.len() > 1) {
        return conflict(format!(
            "unable to delete {short} (must be forced) - image is referenced in multiple \
             repositories"
        ));
    }
    Ok(Plan {
        untag: names.all(),
        is_deleted: container.is_none(),
    })
}
