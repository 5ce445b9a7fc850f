//! Directories beneath a layer's root, opened so that no symlink leads out of it.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2,
        statat, unlinkat,
    },
    io::Errno,
};

use super::path::split;
use crate::LayerError;

/// Directories kept open; tar archives come directory by directory.
const CACHED_DIRECTORIES: usize = 16;

/// A layer's root directory while it is being filled.
pub(super) struct LayerRoot {
    fd: OwnedFd,
    cache: Vec<(Vec<u8>, Rc<OwnedFd>)>,
    /// Directories made because an entry below them came without one for themselves.
    pub(super) implied: BTreeSet<Vec<u8>>,
}

impl LayerRoot {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            cache: Vec::new(),
            implied: BTreeSet::new(),
        }
    }

    /// Opens the directory an entry goes into, making it if it isn't there.
    ///
    /// * `path`: a cleaned path; empty for the root.
    pub(super) fn directory(
        &mut self,
        path: &[u8],
        entry: &[u8],
    ) -> Result<Rc<OwnedFd>, LayerError> {
        if let Some((_, fd)) = self.cache.iter().rev().find(|(cached, _)| cached == path) {
            return Ok(Rc::clone(fd));
        }
        let fd = match self.resolve(path, OFlags::PATH) {
            Ok(fd) => fd,
            Err(Errno::NOENT) if !path.is_empty() => {
                let (parent, name) = split(path);
                let parent = self.directory(parent, entry)?;
                match mkdirat(&parent, name, Mode::RWXU) {
                    Ok(()) => {
                        self.implied.insert(path.to_vec());
                    }
                    // A symlink whose target isn't in the layer.
                    Err(Errno::EXIST) => return Err(escape(entry, path)),
                    Err(source) => return Err(write_error("create the parent of", entry, source)),
                }
                self.resolve(path, OFlags::PATH)
                    .map_err(|errno| parent_error(entry, path, errno))?
            }
            Err(errno) => return Err(parent_error(entry, path, errno)),
        };
        let fd = Rc::new(fd);
        if self.cache.len() == CACHED_DIRECTORIES {
            self.cache.remove(0);
        }
        self.cache.push((path.to_vec(), Rc::clone(&fd)));
        Ok(fd)
    }

    /// Opens a directory that is there.
    ///
    /// Relative symlinks that stay beneath the root are followed; an absolute one, or one with
    /// too many `..`, is read as inside a chroot, and only leads somewhere when the layer has
    /// that directory itself.
    pub(super) fn resolve(&self, path: &[u8], access: OFlags) -> Result<OwnedFd, Errno> {
        let flags = access | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = if path.is_empty() { b"." } else { path };
        let open = |resolve| loop {
            // EAGAIN: something on the way was renamed meanwhile (openat2(2)).
            match openat2(&self.fd, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        };
        let beneath = open(ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS);
        if !matches!(beneath, Err(Errno::XDEV)) {
            return beneath;
        }
        match open(ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS) {
            // As many `..` as it takes: stopped at the root here, leading anywhere elsewhere.
            Ok(fd) if self.is_root(&fd)? => Err(Errno::XDEV),
            Err(Errno::NOENT) => Err(Errno::XDEV),
            result => result,
        }
    }

    fn is_root(&self, fd: &OwnedFd) -> Result<bool, Errno> {
        let (found, root) = (fstat(fd)?, fstat(&self.fd)?);
        Ok((found.st_dev, found.st_ino) == (root.st_dev, root.st_ino))
    }

    /// Takes away whatever has the name, with all below it.
    pub(super) fn remove(&mut self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        match unlinkat(parent, name, AtFlags::empty()) {
            // A symlink may have been on the way to a cached directory.
            Ok(()) => {
                self.cache.clear();
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {
                self.cache.clear();
                remove_tree(parent, name)
            }
            Err(errno) => Err(errno),
        }
    }
}

fn remove_tree(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(parent, name, flags, Mode::empty())?;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let child = entry.file_name();
        if child == c"." || child == c".." {
            continue;
        }
        let is_directory = match entry.file_type() {
            FileType::Unknown => {
                let stat = statat(&directory, child, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            }
            kind => kind == FileType::Directory,
        };
        if is_directory {
            remove_tree(directory.as_fd(), child.to_bytes())?;
        } else {
            unlinkat(&directory, child, AtFlags::empty())?;
        }
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn parent_error(entry: &[u8], path: &[u8], errno: Errno) -> LayerError {
    match errno {
        Errno::XDEV => escape(entry, path),
        Errno::NOTDIR => LayerError::Entry {
            path: printable(entry),
            reason: "its parent is not a directory".to_owned(),
        },
        Errno::LOOP => LayerError::Entry {
            path: printable(entry),
            reason: "its parent is a loop of symlinks".to_owned(),
        },
        source => write_error("open the parent of", entry, source),
    }
}

pub(super) fn escape(entry: &[u8], link: &[u8]) -> LayerError {
    LayerError::Escape {
        path: printable(entry),
        link: printable(link),
    }
}

pub(super) fn write_error(action: &'static str, entry: &[u8], source: Errno) -> LayerError {
    LayerError::Write {
        action,
        path: printable(entry),
        source,
    }
}

/// An entry's name for a message: cut, with control characters escaped.
pub(super) fn printable(path: &[u8]) -> String {
    const MAX_CHARS: usize = 256;
    let text = String::from_utf8_lossy(path);
    let mut out = String::new();
    for (index, letter) in text.chars().enumerate() {
        if index == MAX_CHARS {
            out.push('…');
            break;
        }
        if letter.is_control() {
            out.extend(letter.escape_default());
        } else {
            out.push(letter);
        }
    }
    out
}
