//! Why there is no image.

use rustix::io::Errno;
use thiserror::Error;

/// Why no image could be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ErofsError {
    /// Something in the directory cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which, beneath the directory.
        path: String,
        /// The kernel's reason.
        #[source]
        source: Errno,
    },
    /// The image cannot be written.
    #[error("cannot write the image")]
    Write(#[source] std::io::Error),
    /// A file became shorter while it was copied.
    #[error("{0} changed while it was read")]
    Changed(String),
    /// The file system cannot hold it.
    #[error("{path} does not fit into an EROFS image: {reason}")]
    Unfit {
        /// Which.
        path: String,
        /// What there is too much of.
        reason: &'static str,
    },
}

impl ErofsError {
    pub(crate) fn read(path: &[u8]) -> impl FnOnce(Errno) -> Self {
        let path = shown(path);
        move |source| Self::Read { path, source }
    }
}

/// A path as people read it.
pub(crate) fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}
