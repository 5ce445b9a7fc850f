//! Layers kept while a pull or load counts on them.

use std::{
    collections::BTreeMap,
    sync::{MutexGuard, PoisonError},
};

use atoll_layer::{ChainId, LayerError};

use crate::{ImageStore, store::Inner};

/// Keeps layers from being removed; when dropped, those that no image uses go.
///
/// So a failed pull or load leaves nothing, and removing an image never takes a layer that
/// another thread has just found to be there.
#[derive(Debug)]
pub(crate) struct Pinned<'a> {
    store: &'a ImageStore,
    chain_ids: Vec<ChainId>,
}

impl ImageStore {
    pub(crate) fn pin(&self, chain_ids: &[ChainId]) -> Pinned<'_> {
        let mut pins = self.inner.lock_pins();
        for chain_id in chain_ids {
            *pins.entry(*chain_id).or_insert(0) += 1;
        }
        Pinned {
            store: self,
            chain_ids: chain_ids.to_vec(),
        }
    }

    /// Removes those of `chain_ids` that nobody uses; the caller holds the writer lock.
    ///
    /// * `chain_ids`: top first, so that nothing is ever left without its parent.
    pub(crate) fn remove_unused_layers(&self, chain_ids: &[ChainId]) -> Vec<ChainId> {
        let state = self.state();
        let mut removed = Vec::new();
        for chain_id in chain_ids {
            // Held across the removal: who pins afterwards finds the layer gone.
            let pins = self.inner.lock_pins();
            if pins.contains_key(chain_id) || state.uses_layer(chain_id) {
                continue;
            }
            match self.inner.layers.remove(chain_id) {
                Ok(()) => removed.push(*chain_id),
                Err(LayerError::NotFound(_)) => {}
                Err(error) => tracing::warn!(layer = %chain_id, %error, "cannot remove a layer"),
            }
        }
        removed
    }
}

impl Inner {
    pub(crate) fn lock_pins(&self) -> MutexGuard<'_, BTreeMap<ChainId, usize>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        {
            let mut pins = self.store.inner.lock_pins();
            for chain_id in &self.chain_ids {
                if let Some(count) = pins.get_mut(chain_id) {
                    *count -= 1;
                    if *count == 0 {
                        pins.remove(chain_id);
                    }
                }
            }
        }
        let _writer = self.store.writer();
        let top_first: Vec<ChainId> = self.chain_ids.iter().rev().copied().collect();
        self.store.remove_unused_layers(&top_first);
    }
}
