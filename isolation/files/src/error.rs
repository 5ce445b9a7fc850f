//! What goes wrong, as data that crosses a machine's border too.

use std::io;

use atoll_sys::Errno;
use atoll_tar::TarError;
use serde::{Deserialize, Serialize};

/// Why files could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// There is nothing at the path.
    #[error("no such file or directory: {0}")]
    NotFound(String),
    /// The path of an archive's place is no directory.
    #[error("extraction point is not a directory")]
    NotADirectory,
    /// What is written to is mounted read-only.
    #[error("{}", if *.is_root { "container rootfs is marked read-only" } else { "mounted volume is marked read-only" })]
    ReadOnly {
        /// The root file system is, not a mount in it.
        is_root: bool,
    },
    /// A folder and something else would take each other's place.
    #[error("cannot overwrite {} {existing:?} with {} {entry:?}", kind(*.is_directory), kind(!*.is_directory))]
    Overwrite {
        /// What is there.
        existing: String,
        /// What was to take its place.
        entry: String,
        /// Whether the folder is there.
        is_directory: bool,
    },
    /// A path, or an entry's, that cannot be.
    #[error("{path:?} {reason}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] TarError),
    /// Whoever wants the archive has gone.
    #[error("cannot write the archive")]
    Output(#[source] io::Error),
    /// The kernel refused something.
    #[error("cannot {action} {path}")]
    Kernel {
        /// Verb: open, create …
        action: &'static str,
        /// In the container.
        path: String,
        /// Why.
        source: io::Error,
    },
}

fn kind(is_directory: bool) -> &'static str {
    if is_directory {
        "directory"
    } else {
        "non-directory"
    }
}

/// The errno's error about a path.
pub(crate) fn kernel(
    action: &'static str,
    path: &(impl AsRef<[u8]> + ?Sized),
    errno: Errno,
) -> FilesError {
    FilesError::Kernel {
        action,
        path: printable(path.as_ref()),
        source: errno.into(),
    }
}

/// A path for people.
pub(crate) fn printable(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// A [`FilesError`] for another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What callers distinguish.
    pub kind: FaultKind,
    /// Its words and those of its causes.
    pub message: String,
}

/// Kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// There is nothing at the path.
    NotFound,
    /// The request or its archive is wrong.
    Invalid,
    /// There is no room.
    NoSpace,
    /// Everything else.
    Other,
}

impl From<&FilesError> for Fault {
    fn from(error: &FilesError) -> Self {
        let kind = match error {
            FilesError::NotFound(_) => FaultKind::NotFound,
            FilesError::Output(_) => FaultKind::Other,
            FilesError::Kernel { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FaultKind::NoSpace,
                _ => FaultKind::Other,
            },
            _ => FaultKind::Invalid,
        };
        Self {
            kind,
            message: atoll_sys::with_causes(error),
        }
    }
}
