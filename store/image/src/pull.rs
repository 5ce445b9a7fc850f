//! `docker pull`.

use atoll_layer::Digest;

use crate::{ImageError, ImageStore, Progress, Reference, RegistryErrorKind};

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
        formatter.write_str("Auth(…)")
    }
}

/// What an image must be built for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// Operating system in Go's words.
    pub os: String,
    /// Architecture in Go's words.
    pub architecture: String,
    /// Architecture variant, if any.
    pub variant: Option<String>,
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

impl ImageStore {
    /// Fetches an image and names it.
    ///
    /// # Errors
    /// [`ImageError::Registry`] in docker's words for what the registry refuses.
    #[expect(clippy::unused_async, reason = "lands with its signature first")]
    pub async fn pull(
        &self,
        _reference: &Reference,
        _platform: Option<&Platform>,
        _auth: Option<Auth>,
        _progress: impl FnMut(Progress) + Send,
    ) -> Result<Pulled, ImageError> {
        Err(ImageError::Registry {
            message: "not implemented".to_owned(),
            kind: RegistryErrorKind::Protocol,
        })
    }
}
