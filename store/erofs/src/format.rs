//! Superblock, inodes and extended attributes as bytes.

use crate::tree::{Kind, Node, Xattr};

/// Where the superblock is.
pub(crate) const SUPERBLOCK_AT: u64 = 1024;
/// Bytes of the superblock.
pub(crate) const SUPERBLOCK: u64 = 128;
/// Bytes of an inode (the extended form).
pub(crate) const INODE: u64 = 64;
/// What inodes are aligned to; an inode's number is its offset divided by this.
pub(crate) const SLOT: u64 = 32;
/// Where an inode's blocks begin when it has none.
const NOWHERE: u32 = u32::MAX;

const MAGIC: u32 = 0xE0F5_E1E2;
/// Data layouts: all in blocks; the last, partial block behind the inode.
const FLAT_PLAIN: u16 = 0;
const FLAT_INLINE: u16 = 2;
/// Header of an inode's attributes.
const XATTR_HEADER: u64 = 12;

/// The superblock of an image of `blocks` blocks and `inodes` inodes.
pub(crate) fn superblock(blocks: u32, inodes: u64, root: u16, uuid: [u8; 16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SUPERBLOCK as usize);
    bytes.extend(MAGIC.to_le_bytes());
    bytes.extend([0; 8]); // checksum and compatible features: none
    bytes.extend([12, 0]); // log2 of the block's size; no extension
    bytes.extend(root.to_le_bytes());
    bytes.extend(inodes.to_le_bytes());
    bytes.extend([0; 12]); // time it was made: each inode has its own
    bytes.extend(blocks.to_le_bytes());
    bytes.extend([0; 8]); // first blocks of inodes and of shared attributes
    bytes.extend(uuid);
    bytes.resize(SUPERBLOCK as usize, 0); // no label, no incompatible feature, no further device
    bytes
}

/// Where an inode's contents are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Bytes.
    pub(crate) size: u64,
    /// First block, when it has any.
    pub(crate) block: Option<u32>,
    /// Whether what does not fill a block lies behind the inode.
    pub(crate) inline: bool,
}

/// An inode of number `number`, and its attributes behind it.
pub(crate) fn inode(node: &Node, number: u32, contents: Contents) -> Vec<u8> {
    let layout = if contents.inline {
        FLAT_INLINE
    } else {
        FLAT_PLAIN
    };
    let xattrs = xattr_bytes(&node.xattrs);
    let count = match xattrs {
        0 => 0,
        bytes => (bytes - XATTR_HEADER) / 4 + 1,
    };
    let place = match node.kind {
        // The kernel's 32-bit form of a device number.
        Kind::Device { major, minor } => minor & 0xFF | major << 8 | (minor & !0xFF) << 12,
        _ => contents.block.unwrap_or(NOWHERE),
    };
    let mut bytes = Vec::with_capacity((INODE + xattrs) as usize);
    bytes.extend((1 | layout << 1).to_le_bytes());
    bytes.extend((count as u16).to_le_bytes());
    bytes.extend(node.mode.to_le_bytes());
    bytes.extend([0; 2]);
    bytes.extend(contents.size.to_le_bytes());
    bytes.extend(place.to_le_bytes());
    bytes.extend(number.to_le_bytes());
    bytes.extend(node.uid.to_le_bytes());
    bytes.extend(node.gid.to_le_bytes());
    bytes.extend(node.modified.0.to_le_bytes());
    bytes.extend(node.modified.1.to_le_bytes());
    bytes.extend(node.links.to_le_bytes());
    bytes.resize(INODE as usize, 0);
    if xattrs > 0 {
        bytes.extend([0; XATTR_HEADER as usize]); // no shared ones
        for xattr in &node.xattrs {
            bytes.extend([xattr.name.len() as u8, xattr.prefix]);
            bytes.extend((xattr.value.len() as u16).to_le_bytes());
            bytes.extend(&xattr.name);
            bytes.extend(&xattr.value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
    }
    bytes
}

/// Bytes that attributes take behind their inode.
pub(crate) fn xattr_bytes(xattrs: &[Xattr]) -> u64 {
    if xattrs.is_empty() {
        return 0;
    }
    let each =
        |xattr: &Xattr| (4 + xattr.name.len() + xattr.value.len()).next_multiple_of(4) as u64;
    XATTR_HEADER + xattrs.iter().map(each).sum::<u64>()
}

/// The type of a directory entry.
pub(crate) fn file_type(node: &Node) -> u8 {
    match node.mode & 0o170_000 {
        0o100_000 => 1,
        0o040_000 => 2,
        0o020_000 => 3,
        0o060_000 => 4,
        0o010_000 => 5,
        0o140_000 => 6,
        0o120_000 => 7,
        _ => 0,
    }
}
