//! What can be wrong with an archive.

use std::io;

/// Why an archive can't be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The bytes aren't a tar archive, or one damaged at `offset`.
    #[error("not a valid tar archive: {reason} at byte {offset}")]
    Tar {
        /// What is wrong.
        reason: String,
        /// Where, counted from the archive's start.
        offset: u64,
    },
    /// The archive ends before its last entry does.
    #[error("the archive ends too early, at byte {offset}")]
    Truncated {
        /// Bytes there were.
        offset: u64,
    },
    /// The input failed.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
}
