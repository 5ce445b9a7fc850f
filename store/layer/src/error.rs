//! What can go wrong with a layer, as data.

use std::{io, path::PathBuf};

use atoll_erofs::ErofsError;
use atoll_tar::TarError;
use rustix::io::Errno;

use crate::digest::{ChainId, Digest};

impl From<TarError> for LayerError {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Tar { reason, offset } => Self::Tar { reason, offset },
            TarError::Truncated { offset } => Self::Truncated { offset },
            TarError::Read(error) => Self::Read(error),
        }
    }
}

/// Why a layer couldn't be unpacked, found or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The bytes aren't a tar archive, or one damaged at `offset` (bytes of uncompressed tar).
    #[error("not a valid tar archive: {reason} at byte {offset}")]
    Tar {
        /// What is wrong.
        reason: String,
        /// Where, counted in uncompressed bytes from the archive's start.
        offset: u64,
    },
    /// The archive ends before its last entry does.
    #[error("the archive ends too early, at byte {offset}")]
    Truncated {
        /// Uncompressed bytes there were.
        offset: u64,
    },
    /// The compressed stream is damaged or cut short.
    #[error("cannot decompress {format} data")]
    Decompress {
        /// `gzip` or `zstd`.
        format: &'static str,
        /// What the decoder said.
        source: io::Error,
    },
    /// A compression Atoll doesn't read.
    #[error("{0} compression is not supported")]
    Compression(&'static str),
    /// An entry's path, link target or parent leads outside the layer.
    #[error("entry `{path}` leads outside the layer{}", through(.link))]
    Escape {
        /// The entry.
        path: String,
        /// The hard-link target or symlink that leads outside, empty when the path itself does.
        link: String,
    },
    /// A hard link to a file the layer doesn't have.
    #[error("entry `{path}` is a hard link to `{target}`, which the layer does not have")]
    HardLink {
        /// The entry.
        path: String,
        /// What it links to.
        target: String,
    },
    /// An entry that can't exist on a file system.
    #[error("entry `{path}` is invalid: {reason}")]
    Entry {
        /// The entry.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The file system refused an entry.
    #[error("cannot {action} entry `{path}`")]
    Write {
        /// Verb: create, write, change owner of …
        action: &'static str,
        /// The entry.
        path: String,
        /// The errno.
        source: Errno,
    },
    /// The store's own files can't be read or written.
    #[error("cannot {action} {}", .path.display())]
    Store {
        /// Verb: create, rename, read …
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The uncompressed bytes aren't those the image's configuration names.
    #[error("layer has diff ID {found}, but its image names {expected}")]
    DiffId {
        /// From the image configuration.
        expected: Digest,
        /// Of the bytes that came.
        found: Digest,
    },
    /// No such layer.
    #[error("layer {0} does not exist")]
    NotFound(ChainId),
    /// The source of the bytes stopped half-way.
    #[error("the stream was interrupted")]
    Interrupted,
    /// The caller's reader failed.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// The layer can't be made a machine's disk.
    #[error("cannot make the disk image of layer {chain_id}")]
    Image {
        /// The layer.
        chain_id: ChainId,
        /// Why.
        source: ErofsError,
    },
    /// Neither this file system nor a tmpfs can hold a writable layer.
    #[error("the file system of {} cannot hold a container's writable layer", .path.display())]
    NoUpper {
        /// A directory on it.
        path: PathBuf,
    },
    /// Overlay can't be mounted from these directories.
    #[error("cannot mount the root file system")]
    Mount(#[source] io::Error),
}

fn through(link: &str) -> String {
    if link.is_empty() {
        String::new()
    } else {
        format!(" through `{link}`")
    }
}

impl LayerError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        if self.is_disk_full() {
            return Some(
                "the disk of the data root is full: remove unused images and containers, or move \
                 the data root with --data-root"
                    .to_owned(),
            );
        }
        let text = match self {
            Self::Tar { offset: 0, .. } => {
                "the file must be a tar archive, plain or compressed with gzip or zstd"
            }
            Self::Tar { .. } => "the archive is damaged: make or download it again",
            Self::Truncated { .. } | Self::Decompress { .. } => {
                "the file is damaged or incomplete: make or download it again"
            }
            Self::Compression(_) => "recompress it with gzip or zstd",
            Self::Escape { .. } => {
                "such an archive writes outside its own directory: don't use it, or rebuild it \
                 with paths that stay inside"
            }
            Self::HardLink { .. } => "put the link's target before it in the same archive",
            Self::Entry { .. } => "rebuild the archive without this entry",
            Self::DiffId { .. } => "the image is damaged or was tampered with: fetch it again",
            Self::NoUpper { .. } => {
                "put the data root on ext4, xfs, btrfs or tmpfs with --data-root"
            }
            Self::Mount(_) => "the kernel needs the overlay file system: try `modprobe overlay`",
            Self::Write { source, .. } if *source == Errno::PERM => {
                "making device nodes and setting owners or capabilities needs root in the \
                 initial user namespace"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }

    /// Whether the cause is a full disk or quota.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Write { source, .. } => matches!(*source, Errno::NOSPC | Errno::DQUOT),
            Self::Store { source, .. }
            | Self::Image {
                source: ErofsError::Write(source),
                ..
            } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }
}

/// Names the action and the path an [`io::Error`] belongs to.
pub(crate) fn store_error<E: Into<io::Error>>(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(E) -> LayerError {
    let path = path.into();
    move |source| LayerError::Store {
        action,
        path,
        source: source.into(),
    }
}
