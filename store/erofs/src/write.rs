//! Writing the image.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::BLOCK;
use crate::directory::{self, Name};
use crate::error::{ErofsError, shown};
use crate::format::{self, SUPERBLOCK_AT};
use crate::layout::{Layout, Place};
use crate::tree::{Entry, Kind, Node, Tree};

pub(crate) fn write(
    folder: BorrowedFd<'_>,
    tree: &Tree,
    layout: &Layout,
    image: &File,
    uuid: [u8; 16],
) -> Result<(), ErofsError> {
    image
        .set_len(layout.blocks * BLOCK)
        .map_err(ErofsError::Write)?;
    let root = layout.places.first().map_or(0, Place::nid) as u16;
    let superblock = format::superblock(layout.blocks as u32, tree.nodes.len() as u64, root, uuid);
    let mut inodes = Inodes::new(image);
    inodes.put(SUPERBLOCK_AT, &superblock)?;
    for (index, node) in tree.nodes.iter().enumerate() {
        let place = layout.places[index];
        let inode = format::inode(node, index as u32 + 1, place.contents);
        inodes.put(place.inode, &inode)?;
        let (blocks, rest) = match &node.kind {
            Kind::Directory { entries } => {
                let names = names(tree, layout, entries);
                in_memory(place, image, directory::encode(&names))?
            }
            Kind::Symlink { target } => in_memory(place, image, target.clone())?,
            Kind::Regular { bytes: 0 } | Kind::Device { .. } | Kind::Other => continue,
            Kind::Regular { .. } => copy_file(folder, node, place, image)?,
        };
        debug_assert_eq!(blocks + rest.len() as u64, place.contents.size);
        inodes.put(place.inode + inode.len() as u64, &rest)?;
    }
    inodes.finish()
}

/// A directory's names and what they name.
fn names<'a>(tree: &Tree, layout: &Layout, entries: &'a [Entry]) -> Vec<Name<'a>> {
    let name = |entry: &'a Entry| Name {
        name: &entry.name,
        nid: layout.places[entry.node].nid(),
        file_type: format::file_type(&tree.nodes[entry.node]),
    };
    entries.iter().map(name).collect()
}

/// Writes the blocks of what is in memory; gives how many bytes that were, and the rest for behind the inode.
fn in_memory(place: Place, image: &File, bytes: Vec<u8>) -> Result<(u64, Vec<u8>), ErofsError> {
    let blocks = blocks_of(place);
    let mut bytes = bytes;
    let rest = bytes.split_off(blocks as usize);
    if let Some(block) = place.contents.block {
        image
            .write_all_at(&bytes, u64::from(block) * BLOCK)
            .map_err(ErofsError::Write)?;
    }
    Ok((blocks, rest))
}

/// Bytes that are in blocks.
fn blocks_of(place: Place) -> u64 {
    let size = place.contents.size;
    if place.contents.inline {
        size - size % BLOCK
    } else {
        size
    }
}

fn copy_file(
    folder: BorrowedFd<'_>,
    node: &Node,
    place: Place,
    image: &File,
) -> Result<(u64, Vec<u8>), ErofsError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let file: File = openat2(folder, &node.path[..], flags, Mode::empty(), resolve)
        .map_err(ErofsError::read(&node.path))?
        .into();
    let blocks = blocks_of(place);
    if let Some(block) = place.contents.block {
        copy(&file, image, u64::from(block) * BLOCK, blocks, &node.path)?;
    }
    let mut rest = vec![0; (place.contents.size - blocks) as usize];
    file.read_exact_at(&mut rest, blocks)
        .map_err(|_| ErofsError::Changed(shown(&node.path)))?;
    Ok((blocks, rest))
}

/// Copies the first `bytes` of `file`; its holes stay holes.
fn copy(file: &File, image: &File, to: u64, bytes: u64, path: &[u8]) -> Result<(), ErofsError> {
    let seek = |to| match rustix::fs::seek(file, to) {
        Ok(offset) => Ok(offset.min(bytes)),
        Err(Errno::NXIO) => Ok(bytes),
        // A file system that does not know: all is data.
        Err(Errno::INVAL) => Ok(match to {
            rustix::fs::SeekFrom::Data(at) => at,
            _ => bytes,
        }),
        Err(errno) => Err(ErofsError::read(path)(errno)),
    };
    let length = file
        .metadata()
        .map_err(|_| ErofsError::Changed(shown(path)))?
        .len();
    if length < bytes {
        return Err(ErofsError::Changed(shown(path)));
    }
    let mut end = 0;
    while end < bytes {
        let start = seek(rustix::fs::SeekFrom::Data(end))?;
        end = seek(rustix::fs::SeekFrom::Hole(start))?;
        copy_stretch(file, image, start, to + start, end - start, path)?;
    }
    Ok(())
}

/// Copies inside the kernel where it can, which shares blocks where the file system can.
fn copy_stretch(
    file: &File,
    image: &File,
    mut from: u64,
    mut to: u64,
    mut left: u64,
    path: &[u8],
) -> Result<(), ErofsError> {
    while left > 0 {
        let at_once = usize::try_from(left).unwrap_or(usize::MAX).min(1 << 30);
        let (mut read, mut written) = (from, to);
        match rustix::fs::copy_file_range(file, Some(&mut read), image, Some(&mut written), at_once)
        {
            Ok(0) => return Err(ErofsError::Changed(shown(path))),
            Ok(count) => {
                from += count as u64;
                to += count as u64;
                left -= count as u64;
            }
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_by_hand(file, image, from, to, left, path);
            }
            Err(errno) => return Err(ErofsError::Write(errno.into())),
        }
    }
    Ok(())
}

fn copy_by_hand(
    file: &File,
    image: &File,
    from: u64,
    to: u64,
    bytes: u64,
    path: &[u8],
) -> Result<(), ErofsError> {
    let mut buffer = vec![0; 1 << 18];
    let mut done = 0;
    while done < bytes {
        let count = usize::try_from(bytes - done).unwrap_or(usize::MAX);
        let part = &mut buffer[..count.min(1 << 18)];
        file.read_exact_at(part, from + done)
            .map_err(|_| ErofsError::Changed(shown(path)))?;
        image
            .write_all_at(part, to + done)
            .map_err(ErofsError::Write)?;
        done += part.len() as u64;
    }
    Ok(())
}

/// The area of inodes, written in order.
struct Inodes<'a> {
    file: BufWriter<&'a File>,
    at: u64,
}

impl<'a> Inodes<'a> {
    fn new(image: &'a File) -> Self {
        Self {
            file: BufWriter::with_capacity(1 << 18, image),
            at: 0,
        }
    }

    /// Writes `bytes` at `at`, which is not before what was written last.
    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<(), ErofsError> {
        const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
        let failed = ErofsError::Write;
        if self.at == 0 {
            self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        }
        while self.at < at {
            let gap = ZEROS.len().min((at - self.at) as usize);
            self.file.write_all(&ZEROS[..gap]).map_err(failed)?;
            self.at += gap as u64;
        }
        self.file.write_all(bytes).map_err(failed)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn finish(mut self) -> Result<(), ErofsError> {
        self.file.flush().map_err(ErofsError::Write)
    }
}
