//! What a pull or load tells while it works; the engine turns it into docker's JSON.

use atoll_layer::Digest;

/// One step of a pull or load.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// A pull has found its repository (docker: `Pulling from library/bb`, id = tag).
    Pulling {
        /// Repository within its registry, as docker shows it.
        repository: String,
        /// Tag or digest asked for.
        selector: String,
    },
    /// A layer went on.
    Layer {
        /// First 12 digits of its digest.
        id: String,
        /// How far it is.
        status: LayerStatus,
    },
    /// A pull's manifest digest (docker: `Digest: sha256:…`).
    Digest(Digest),
    /// The last line (docker: `Status: …`).
    Status(String),
}

/// How far a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerStatus {
    /// `docker load` is reading it.
    Loading {
        /// Bytes read so far.
        current_bytes: u64,
        /// In all.
        total_bytes: u64,
    },
    /// It is going to be fetched.
    PullingFsLayer,
    /// Other layers come first.
    Waiting,
    /// Bytes are coming.
    Downloading {
        /// So far.
        current_bytes: u64,
        /// In all.
        total_bytes: u64,
    },
    /// All bytes came; their digest is being compared.
    VerifyingChecksum,
    /// All bytes came and are right.
    DownloadComplete,
    /// Files are being written.
    Extracting {
        /// Compressed bytes done.
        current_bytes: u64,
        /// In all.
        total_bytes: u64,
    },
    /// The layer is in the store.
    PullComplete,
    /// The layer was in the store before.
    AlreadyExists,
}
