//! What can go wrong with images, as data; the words are docker's where its clients know them.

use std::{io, path::PathBuf};

use atoll_layer::{Digest, LayerError};

/// Why an image operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The text isn't an image name.
    #[error("{}", reference_text(.text, .reason))]
    Reference {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No image has this name or ID.
    #[error("No such image: {0}")]
    NotFound(String),
    /// More than one image's ID starts so.
    #[error("ambiguous image ID prefix `{0}`")]
    Ambiguous(String),
    /// The reserved name.
    #[error("cannot {action} `host`: the name is reserved for the running system's root")]
    HostReserved {
        /// tag, remove, load …
        action: &'static str,
    },
    /// Removing would break something.
    #[error("conflict: {0}")]
    Conflict(String),
    /// A layer couldn't be unpacked or found.
    #[error("cannot unpack layer {index} of the image")]
    Layer {
        /// Position in the image, from 1, bottom first.
        index: usize,
        /// Why.
        source: LayerError,
    },
    /// The layer store failed.
    #[error(transparent)]
    Store(#[from] LayerError),
    /// An archive given to load or import isn't an image.
    #[error("invalid image archive: {0}")]
    Archive(String),
    /// An archive given to load can't be read to its end.
    #[error("cannot read the image archive")]
    Unreadable(#[source] LayerError),
    /// A blob's bytes aren't those its name promises.
    #[error("digest mismatch: `{name}` has digest {found}")]
    BlobDigest {
        /// The blob's name or the digest that was asked for.
        name: String,
        /// The digest of its bytes.
        found: Digest,
    },
    /// A JSON document is malformed.
    #[error("invalid {what}")]
    Json {
        /// image configuration, manifest, index …
        what: &'static str,
        /// Line and column.
        source: serde_json::Error,
    },
    /// A document is well-formed but means nothing.
    #[error("invalid {what}: {reason}")]
    Document {
        /// image configuration, manifest, index …
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// No image for this machine in a multi-platform index.
    #[error("no matching manifest for {platform} in the manifest list entries")]
    Platform {
        /// What was looked for, such as `linux/amd64`.
        platform: String,
    },
    /// An instruction of `import --change`.
    #[error("invalid change `{change}`: {reason}")]
    Change {
        /// The instruction as given.
        change: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process uses the store.
    #[error("image store {} is in use by another process", .path.display())]
    InUse {
        /// Its database.
        path: PathBuf,
    },
    /// The store's database failed.
    #[error("cannot use the image database {}", .path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// One of the store's files failed.
    #[error("cannot {action} {}", .path.display())]
    File {
        /// Verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The caller's reader failed.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// A registry refused, failed or can't be reached; the text is docker's.
    #[error("{message}")]
    Registry {
        /// For users.
        message: String,
        /// What kind of failure, for status codes.
        kind: RegistryErrorKind,
    },
}

/// What kind of failure a registry's is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistryErrorKind {
    /// No such repository, tag or digest.
    NotFound,
    /// Login is needed, or not enough.
    Denied,
    /// Not reachable, or the connection broke.
    Network,
    /// It can't answer now.
    Unavailable,
    /// It answers, but wrongly.
    Protocol,
}

fn reference_text(text: &str, reason: &str) -> String {
    match reason {
        "repository name must be lowercase" => {
            format!("invalid reference format: repository name ({text}) must be lowercase")
        }
        "invalid reference format" => "invalid reference format".to_owned(),
        reason => format!("invalid reference format: {reason}"),
    }
}

impl ImageError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Reference { text, .. } => {
                return Some(format!(
                    "`{text}` should look like name, name:tag or registry:port/name:tag, in lower \
                     case"
                ));
            }
            Self::Layer { source, .. } | Self::Store(source) | Self::Unreadable(source) => {
                return source.hint();
            }
            Self::File { source, .. }
                if matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                "the disk of the data root is full: remove unused images and containers, or move \
                 the data root with --data-root"
            }
            Self::Ambiguous(_) => "give more digits of the ID",
            Self::HostReserved { .. } => "choose another name",
            Self::Archive(_) => {
                "give an archive made by `docker save` or an OCI layout in a tar; for a plain \
                 root file system use `docker import`"
            }
            Self::BlobDigest { .. } => "the image is damaged or was tampered with: fetch it again",
            Self::Platform { .. } => "choose an image built for this machine",
            Self::InUse { .. } => {
                "an engine is running on this data root: stop it, or give another --data-root"
            }
            Self::Registry {
                kind: RegistryErrorKind::Network,
                ..
            } => "check the registry's address and that it is running",
            _ => return None,
        };
        Some(text.to_owned())
    }

    /// Whether the cause is a name that doesn't exist, for a 404.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self,
            Self::NotFound(_)
                | Self::Registry {
                    kind: RegistryErrorKind::NotFound,
                    ..
                }
        )
    }

    /// Whether removing was refused, for a 409.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }

    /// Whether the request itself is wrong, for a 400.
    pub fn is_bad_request(&self) -> bool {
        matches!(
            self,
            Self::Reference { .. }
                | Self::Ambiguous(_)
                | Self::HostReserved { .. }
                | Self::Change { .. }
        )
    }
}

/// Names the action and the path an [`io::Error`] belongs to.
pub(crate) fn file_error<E: Into<io::Error>>(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(E) -> ImageError {
    let path = path.into();
    move |source| ImageError::File {
        action,
        path,
        source: source.into(),
    }
}
