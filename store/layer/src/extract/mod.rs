//! Writes the entries of a tar archive beneath a directory.
//!
//! The archive is hostile: names are cleaned by text, parents are opened with `openat2` beneath
//! the root, and the last name is only ever given to `*at` calls that don't follow symlinks.
//! Nothing is made outside the root whatever the archive says, and an archive that tries gives
//! an error. Directories get owner, mode, extended attributes and times at the very end, so that
//! making files in them neither changes their times nor is changed by a setgid bit or an ACL.

mod attributes;
mod path;
mod root;

use std::{
    collections::BTreeMap,
    io::BufRead,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
};

use atoll_tar::{Entry, EntryKind, TarReader};
use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, SeekFrom, Stat, ftruncate, linkat, makedev, mkdirat,
        mknodat, openat, seek, statat, symlinkat,
    },
    io::{Errno, write},
};

pub(crate) use self::attributes::OPAQUE_XATTR;
use self::{
    attributes::Attributes,
    path::{Whiteout, clean, split},
    root::{LayerRoot, escape, printable, write_error},
};
use crate::LayerError;

/// What was written.
#[derive(Debug)]
pub(crate) struct Extracted {
    /// Bytes of all regular files, as docker counts a layer's size.
    pub(crate) size_bytes: u64,
    /// Entries written.
    pub(crate) entries: u64,
    /// Directories the archive has no entry for; the root is the empty path.
    pub(crate) implied: Vec<Vec<u8>>,
}

/// Writes all entries of `input` into `root`, an empty directory only we can reach.
pub(crate) fn extract(input: impl BufRead, root: OwnedFd) -> Result<Extracted, LayerError> {
    let mut tar = TarReader::new(input);
    let mut extractor = Extractor {
        root: LayerRoot::new(root),
        directories: BTreeMap::new(),
        size_bytes: 0,
        entries: 0,
    };
    extractor.root.implied.insert(Vec::new());
    while let Some(entry) = tar.next()? {
        extractor.apply(&entry, &mut tar)?;
    }
    extractor.finish_directories()?;
    tar.drain()?;
    Ok(Extracted {
        size_bytes: extractor.size_bytes,
        entries: extractor.entries,
        implied: extractor.root.implied.into_iter().collect(),
    })
}

struct Extractor {
    root: LayerRoot,
    directories: BTreeMap<Vec<u8>, Attributes>,
    size_bytes: u64,
    entries: u64,
}

/// Where an entry goes.
struct Place<'a> {
    entry: &'a [u8],
    parent: Rc<OwnedFd>,
    name: &'a [u8],
}

impl Place<'_> {
    fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    fn stat(&self) -> Result<Option<Stat>, LayerError> {
        match statat(&self.parent, self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(write_error("look at", self.entry, errno)),
        }
    }
}

impl Extractor {
    fn apply<R: BufRead>(
        &mut self,
        entry: &Entry,
        tar: &mut TarReader<R>,
    ) -> Result<(), LayerError> {
        let path = clean(&entry.path).map_err(|_| escape(&entry.path, b""))?;
        self.entries += 1;
        if path.is_empty() {
            if entry.kind == EntryKind::Directory {
                self.root.implied.remove(&path);
                self.directories.insert(path, Attributes::of(entry)?);
                return Ok(());
            }
            let reason = "only a directory can be the root".to_owned();
            return Err(LayerError::Entry {
                path: printable(&entry.path),
                reason,
            });
        }
        let (parent, name) = split(&path);
        let place = Place {
            entry: &path,
            parent: self.root.directory(parent, &path)?,
            name,
        };
        match Whiteout::of(name) {
            Whiteout::None => {}
            Whiteout::Opaque => return self.make_opaque(parent, &path),
            Whiteout::Name(hidden) => {
                return self.hide(&Place {
                    name: hidden,
                    ..place
                });
            }
            Whiteout::Bookkeeping => return Ok(()),
            Whiteout::Invalid => {
                let reason = "whiteout without a name".to_owned();
                return Err(LayerError::Entry {
                    path: printable(&path),
                    reason,
                });
            }
        }
        let attributes = Attributes::of(entry)?;
        match entry.kind {
            EntryKind::Directory => self.directory(&place, attributes),
            EntryKind::File => self.file(&place, entry, &attributes, tar),
            EntryKind::HardLink => self.hard_link(&place, entry),
            EntryKind::Symlink => self.symlink(&place, entry, &attributes),
            EntryKind::CharDevice => {
                self.node(&place, entry, FileType::CharacterDevice, &attributes)
            }
            EntryKind::BlockDevice => self.node(&place, entry, FileType::BlockDevice, &attributes),
            EntryKind::Fifo => self.node(&place, entry, FileType::Fifo, &attributes),
        }
    }

    fn directory(&mut self, place: &Place<'_>, attributes: Attributes) -> Result<(), LayerError> {
        let make = || mkdirat(&place.parent, place.name, Mode::RWXU);
        let mut hides_lower = false;
        match make() {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let found = place.stat()?.map(|stat| (file_type(&stat), stat.st_rdev));
                if !matches!(found, Some((FileType::Directory, _))) {
                    // A whiteout and then a directory of its name: the new one hides the old.
                    hides_lower = found == Some((FileType::CharacterDevice, 0));
                    self.clear(place)?;
                    make().map_err(|errno| write_error("create", place.entry, errno))?;
                }
            }
            Err(errno) => return Err(write_error("create", place.entry, errno)),
        }
        if hides_lower {
            self.make_opaque(place.entry, place.entry)?;
        }
        self.root.implied.remove(place.entry);
        self.directories.insert(place.entry.to_vec(), attributes);
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        place: &Place<'_>,
        entry: &Entry,
        attributes: &Attributes,
        tar: &mut TarReader<R>,
    ) -> Result<(), LayerError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || openat(&place.parent, place.name, flags, Mode::RUSR | Mode::WUSR);
        let fd = self.create(place, create)?;
        match &entry.segments {
            None => copy(tar, &fd, u64::MAX, place.entry)?,
            Some(segments) => {
                for (offset, length) in segments {
                    seek(&fd, SeekFrom::Start(*offset))
                        .map_err(|errno| write_error("write", place.entry, errno))?;
                    copy(tar, &fd, *length, place.entry)?;
                }
                ftruncate(&fd, entry.size_bytes)
                    .map_err(|errno| write_error("write", place.entry, errno))?;
            }
        }
        self.size_bytes = self.size_bytes.saturating_add(entry.size_bytes);
        attributes.apply_to_fd(fd.as_fd(), place.entry)
    }

    fn hard_link(&mut self, place: &Place<'_>, entry: &Entry) -> Result<(), LayerError> {
        let target = clean(&entry.link).map_err(|_| escape(place.entry, &entry.link))?;
        if target == place.entry {
            return Ok(());
        }
        let (directory, name) = split(&target);
        let missing = || LayerError::HardLink {
            path: printable(place.entry),
            target: printable(&entry.link),
        };
        let directory = match self.root.resolve(directory, OFlags::PATH) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(missing()),
            Err(Errno::XDEV | Errno::LOOP) => return Err(escape(place.entry, &entry.link)),
            Err(errno) => return Err(write_error("link", place.entry, errno)),
        };
        // Without AT_SYMLINK_FOLLOW a symlink is linked itself.
        let link = || {
            linkat(
                &directory,
                name,
                &place.parent,
                place.name,
                AtFlags::empty(),
            )
        };
        match link() {
            Err(Errno::EXIST) => {
                self.clear(place)?;
                link()
            }
            result => result,
        }
        .map_err(|errno| match errno {
            Errno::NOENT => missing(),
            Errno::PERM => LayerError::Entry {
                path: printable(place.entry),
                reason: "hard link to a directory".to_owned(),
            },
            errno => write_error("link", place.entry, errno),
        })
    }

    fn symlink(
        &mut self,
        place: &Place<'_>,
        entry: &Entry,
        attributes: &Attributes,
    ) -> Result<(), LayerError> {
        if entry.link.is_empty() {
            let reason = "symlink without a target".to_owned();
            return Err(LayerError::Entry {
                path: printable(place.entry),
                reason,
            });
        }
        // The target may be anything: it means something only inside the container.
        self.create(place, || {
            symlinkat(&entry.link[..], &place.parent, place.name)
        })?;
        attributes.apply_to_symlink(place.parent(), place.name, place.entry)
    }

    fn node(
        &mut self,
        place: &Place<'_>,
        entry: &Entry,
        file_type: FileType,
        attributes: &Attributes,
    ) -> Result<(), LayerError> {
        let device = makedev(entry.device.0, entry.device.1);
        self.create(place, || {
            mknodat(
                &place.parent,
                place.name,
                file_type,
                Mode::RUSR | Mode::WUSR,
                device,
            )
        })?;
        attributes.apply_to_node(place.parent(), place.name, place.entry)
    }

    /// Runs `make`, after taking away an earlier entry of the same name.
    fn create<T>(
        &mut self,
        place: &Place<'_>,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, LayerError> {
        match make() {
            Err(Errno::EXIST) => {
                self.clear(place)?;
                make()
            }
            result => result,
        }
        .map_err(|errno| write_error("create", place.entry, errno))
    }

    fn clear(&mut self, place: &Place<'_>) -> Result<(), LayerError> {
        self.root
            .remove(place.parent(), place.name)
            .map_err(|errno| write_error("replace", place.entry, errno))
    }

    /// Makes an overlay whiteout: a 0:0 character device.
    fn hide(&mut self, place: &Place<'_>) -> Result<(), LayerError> {
        match mknodat(
            &place.parent,
            place.name,
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        ) {
            Ok(()) => Ok(()),
            // The layer has the name itself, which hides what is below; a directory merges.
            Err(Errno::EXIST) => match place.stat()?.map(|stat| file_type(&stat)) {
                Some(FileType::Directory) => {
                    let (parent, _) = split(place.entry);
                    let path = if parent.is_empty() {
                        place.name.to_vec()
                    } else {
                        [parent, place.name].join(&b'/')
                    };
                    self.make_opaque(&path, place.entry)
                }
                _ => Ok(()),
            },
            Err(errno) => Err(write_error("create", place.entry, errno)),
        }
    }

    fn make_opaque(&mut self, directory: &[u8], entry: &[u8]) -> Result<(), LayerError> {
        let fd = self
            .root
            .resolve(directory, OFlags::RDONLY)
            .map_err(|errno| write_error("open the parent of", entry, errno))?;
        rustix::fs::fsetxattr(&fd, OPAQUE_XATTR, b"y", rustix::fs::XattrFlags::empty())
            .map_err(|errno| write_error("mark as opaque the directory of", entry, errno))
    }

    fn finish_directories(&mut self) -> Result<(), LayerError> {
        // Deepest first, so that a directory without search permission doesn't hide its children.
        for (path, attributes) in std::mem::take(&mut self.directories).into_iter().rev() {
            match self.root.resolve(&path, OFlags::RDONLY) {
                Ok(fd) => attributes.apply_to_fd(fd.as_fd(), &path)?,
                // A later entry took its place.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {}
                Err(errno) => return Err(write_error("open", &path, errno)),
            }
        }
        for path in &self.root.implied {
            if let Ok(fd) = self.root.resolve(path, OFlags::RDONLY) {
                rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o755))
                    .map_err(|errno| write_error("change mode of", path, errno))?;
            }
        }
        Ok(())
    }
}

fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn copy<R: BufRead>(
    tar: &mut TarReader<R>,
    fd: &OwnedFd,
    length: u64,
    entry: &[u8],
) -> Result<(), LayerError> {
    let mut left = length;
    while left > 0 {
        let data = tar.data(left)?;
        if data.is_empty() {
            break;
        }
        let written = match write(fd, data) {
            Ok(written) => written,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(write_error("write", entry, errno)),
        };
        tar.consume(written);
        left -= written as u64;
    }
    Ok(())
}
