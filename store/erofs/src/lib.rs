//! EROFS images of directories: read-only file systems for the disks of machines.
//!
//! ```text
//! directory ─► scan ─► Tree ─► layout (pure: a place for each inode and block) ─► write ─► file
//! ```
//!
//! Uncompressed: a file's whole blocks lie in the data area, what is left of it beside its inode when it is short. The same
//! tree gives the same bytes: entries are sorted, inodes numbered in their order, and nothing depends on when or where the
//! image is made. Names, attributes, extended attributes (overlay's own, too), devices and hard links are kept; sockets and
//! pipes as well.
//!
//! Source: Linux Documentation/filesystems/erofs.rst and the on-disk format it names. Judged by `fsck.erofs` and by
//! mounting.

#![forbid(unsafe_code)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "on-disk fields are narrower than what they are cut from, and checked where that could lose something"
)]

mod directory;
mod error;
mod format;
mod layout;
mod scan;
mod tree;
mod write;

use std::fs::File;
use std::os::fd::BorrowedFd;

pub use error::ErofsError;

/// Bytes of a block.
pub const BLOCK: u64 = 4096;

/// Writes an image of everything below `folder` into `image`, which is empty.
///
/// The directory must not change meanwhile: a file that gets shorter is an error, other changes may go into the image.
/// Nothing is synced.
///
/// * `uuid`: the file system's name for itself.
///
/// Returns the image's length in bytes, a multiple of [`BLOCK`].
///
/// # Errors
/// [`ErofsError`]; the image is then worth nothing.
pub fn write_image(
    folder: BorrowedFd<'_>,
    image: &File,
    uuid: [u8; 16],
) -> Result<u64, ErofsError> {
    let tree = scan::scan(folder)?;
    let layout = layout::layout(&tree)?;
    write::write(folder, &tree, &layout, image, uuid)?;
    Ok(layout.blocks * BLOCK)
}

#[cfg(test)]
mod tests;
