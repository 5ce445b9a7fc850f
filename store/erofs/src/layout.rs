//! A place for each inode and each block.
//!
//! ```text
//! 1024 superblock · 1152 inodes, attributes and short ends of files, in the tree's order · blocks of data
//! ```

use crate::error::{ErofsError, shown};
use crate::format::{Contents, INODE, SLOT, SUPERBLOCK, SUPERBLOCK_AT, xattr_bytes};
use crate::tree::{Kind, Node, Tree};
use crate::{BLOCK, directory};

/// The longest end of a file that goes behind its inode: longer ones would leave too much of blocks empty.
const SHORT: u64 = BLOCK / 2;
/// The most an inode's count of attribute words can say.
const XATTR_LIMIT: u64 = 4 * (u16::MAX as u64 - 1);

/// Where everything goes.
#[derive(Debug)]
pub(crate) struct Layout {
    /// For each node, where its inode is and its contents are.
    pub(crate) places: Vec<Place>,
    /// Blocks of the image.
    pub(crate) blocks: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Bytes from the image's start, a multiple of [`SLOT`].
    pub(crate) inode: u64,
    pub(crate) contents: Contents,
}

impl Place {
    /// The inode's number on disk.
    pub(crate) fn nid(&self) -> u64 {
        self.inode / SLOT
    }
}

pub(crate) fn layout(tree: &Tree) -> Result<Layout, ErofsError> {
    let mut at = SUPERBLOCK_AT + SUPERBLOCK;
    let mut places = Vec::with_capacity(tree.nodes.len());
    for node in &tree.nodes {
        let size = size_of(node);
        let attributes = check(node)?;
        let rest = size % BLOCK;
        // A link is read from behind its inode, as long as it fits there.
        let short = match node.kind {
            Kind::Symlink { .. } => BLOCK - INODE,
            _ => SHORT,
        };
        let whole = INODE + attributes + rest;
        let inline = rest > 0 && INODE + attributes <= BLOCK && whole <= BLOCK && rest <= short;
        if inline && at % BLOCK + whole > BLOCK {
            // Inode and data behind it are in one block.
            at = at.next_multiple_of(BLOCK);
        }
        places.push(Place {
            inode: at,
            contents: Contents {
                size,
                block: None,
                inline,
            },
        });
        at += INODE + attributes + if inline { rest } else { 0 };
        at = at.next_multiple_of(SLOT);
    }
    let mut block = at.div_ceil(BLOCK);
    for place in &mut places {
        let contents = &mut place.contents;
        let count = if contents.inline {
            contents.size / BLOCK
        } else {
            contents.size.div_ceil(BLOCK)
        };
        if count > 0 {
            contents.block = u32::try_from(block).ok();
            block += count;
        }
    }
    if block >= u64::from(u32::MAX) {
        return Err(ErofsError::Unfit {
            path: shown(b""),
            reason: "there are more than 2^32 blocks of data",
        });
    }
    Ok(Layout {
        places,
        blocks: block,
    })
}

fn size_of(node: &Node) -> u64 {
    match &node.kind {
        Kind::Directory { entries } => {
            directory::size(entries.iter().map(|entry| entry.name.len()))
        }
        Kind::Regular { bytes } => *bytes,
        Kind::Symlink { target } => target.len() as u64,
        Kind::Device { .. } | Kind::Other => 0,
    }
}

/// Bytes of the node's attributes, when the format can hold them.
fn check(node: &Node) -> Result<u64, ErofsError> {
    let unfit = |reason| ErofsError::Unfit {
        path: shown(&node.path),
        reason,
    };
    let is_long = |xattr: &crate::tree::Xattr| xattr.name.len() > 255 || xattr.value.len() > 65_535;
    let bytes = xattr_bytes(&node.xattrs);
    if bytes > XATTR_LIMIT || node.xattrs.iter().any(is_long) {
        return Err(unfit("its extended attributes are too large"));
    }
    if let Kind::Device { major, minor } = node.kind
        && (major >= 1 << 12 || minor >= 1 << 20)
    {
        return Err(unfit("its device number is too large"));
    }
    Ok(bytes)
}
