//! Tar archives: a reader for hostile ones, and a writer.
//!
//! ```text
//! bytes ─► [TarReader] ─► [Entry], then its data in pieces
//! [Entry], data in pieces ─► [TarWriter] ─► bytes
//! ```
//!
//! Nothing here touches a file system: names are bytes as they came, and whoever makes files of them cleans them. Memory is
//! bounded whatever an archive says; data is never held. The judge of both directions is GNU tar, in the tests.

#![forbid(unsafe_code)]

mod error;
mod header;
mod pax;
mod read;
mod write;

pub use error::TarError;
pub use read::{Entry, EntryKind, TarReader, is_tar_start};
pub use write::TarWriter;
