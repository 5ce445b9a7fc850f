//! `docker load`.

use std::io::Read;

use atoll_layer::Digest;

use crate::{ImageError, ImageStore, Progress};

/// An image that a load has added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its name in docker's short form, if the archive gave one.
    pub reference: Option<String>,
    /// Its ID.
    pub id: Digest,
}

impl ImageStore {
    /// Adds all images of an archive made by `docker save` or of an OCI layout in a tar.
    ///
    /// # Errors
    /// [`ImageError::Archive`] for an archive without images.
    pub fn load(
        &self,
        _tar: impl Read,
        _progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Loaded>, ImageError> {
        Err(ImageError::Archive("not implemented".to_owned()))
    }
}
