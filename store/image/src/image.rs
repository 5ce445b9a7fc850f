//! An image as the engine sees it.

use std::sync::Arc;

use atoll_layer::{ChainId, Digest};

use crate::ImageConfig;

/// An image in the store, or the host image.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Digest of the configuration's bytes.
    pub id: Digest,
    /// The configuration.
    pub config: Arc<ImageConfig>,
    /// Its bytes as they came.
    pub raw_config: Arc<[u8]>,
    /// Its layers, bottom first; empty for the host image.
    pub chain_ids: Vec<ChainId>,
    /// Sum of its layers' sizes.
    pub size_bytes: u64,
    /// Names with tags, in docker's short form, sorted.
    pub repo_tags: Vec<String>,
    /// Names with manifest digests, in docker's short form, sorted.
    pub repo_digests: Vec<String>,
    /// When it was made, RFC 3339, as its configuration says.
    pub created: Option<String>,
    /// When a name was last given to it here, RFC 3339.
    pub tagged_at: Option<String>,
    /// The manifest it came with, if it came with one.
    pub manifest_digest: Option<Digest>,
    /// Whether it is the running system's own root.
    pub is_host: bool,
}
