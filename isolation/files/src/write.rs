//! An archive as a tree.

use std::io::BufRead;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use atoll_sys::{Errno, inside};
use atoll_tar::{Entry, EntryKind, TarReader};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, StatxFlags, fstat, ftruncate, futimens, linkat,
    mkdirat, mknodat, openat, seek, statx, symlinkat, unlinkat,
};

use crate::attributes::{Attributes, times};
use crate::error::{FilesError, kernel, printable};
use crate::place::{self, Place, stat_at};
use crate::{Ids, Options};

/// The deepest tree that is removed to make room: each level holds a descriptor.
const MOST_LEVELS: usize = 400;

/// Unpacks an archive into the directory at `place`, all symlinks on the way followed inside the root.
pub(crate) fn extract(
    root: BorrowedFd<'_>,
    place: &Place,
    options: &Options,
    ids: Ids,
    input: &mut dyn BufRead,
) -> Result<(), FilesError> {
    let top = match place::open(root, &place.names, OFlags::PATH) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Err(FilesError::NotFound(printable(&place.text()))),
        Err(Errno::NOTDIR) => return Err(FilesError::NotADirectory),
        Err(errno) => return Err(kernel("open", &place.text(), errno)),
    };
    let stat = fstat(&top).map_err(|errno| kernel("look at", &place.text(), errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(FilesError::NotADirectory);
    }
    let flags =
        rustix::fs::fstatvfs(&top).map_err(|errno| kernel("look at", &place.text(), errno))?;
    if flags.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Err(read_only(root, top.as_fd()));
    }
    let mut writer = Writer {
        root,
        base: &place.names,
        options,
        ids,
        parent: None,
        directories: Vec::new(),
    };
    let mut tar = TarReader::new(input);
    while let Some(entry) = tar.next()? {
        writer.entry(&entry, &mut tar)?;
    }
    writer.finish()
}

/// Which mount it is that cannot be written to.
fn read_only(root: BorrowedFd<'_>, top: BorrowedFd<'_>) -> FilesError {
    let mount = |file: BorrowedFd<'_>| {
        let found = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID);
        found.ok().map(|found| found.stx_mnt_id)
    };
    FilesError::ReadOnly {
        is_root: mount(root) == mount(top),
    }
}

/// Names of a path.
type Names = Vec<Vec<u8>>;

struct Writer<'a> {
    root: BorrowedFd<'a>,
    base: &'a [Vec<u8>],
    options: &'a Options,
    ids: Ids,
    /// The directory of the entry before, which is mostly that of the next.
    parent: Option<(Names, Rc<OwnedFd>)>,
    /// Names and times of directories, whose times change while they are filled.
    directories: Vec<(Names, (i64, u32))>,
}

impl Writer<'_> {
    fn entry<R: BufRead>(
        &mut self,
        entry: &Entry,
        tar: &mut TarReader<R>,
    ) -> Result<(), FilesError> {
        let names = self.names(&entry.path)?;
        let attributes = Attributes::of(entry, self.options, self.ids)?;
        let Some((name, parents)) = names.split_last() else {
            // The directory itself.
            if entry.kind == EntryKind::Directory {
                let top = self.open_directory(&[], &entry.path)?;
                attributes.apply(top.as_fd())?;
                self.directories.push((Vec::new(), entry.mtime));
            }
            return Ok(());
        };
        let parent = self.parent(parents, &entry.path)?;
        let parent = parent.as_fd();
        let failed = |errno: Errno| match errno {
            Errno::ROFS => read_only(self.root, parent),
            errno => kernel("create", &entry.path, errno),
        };
        let is_there = self.make_room(parent, name, entry)?;
        match entry.kind {
            EntryKind::Directory => {
                if !is_there {
                    mkdirat(parent, &name[..], Mode::RWXU).map_err(failed)?;
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let directory = openat(parent, &name[..], flags, Mode::empty()).map_err(failed)?;
                attributes.apply(directory.as_fd())?;
                self.directories.push((names, entry.mtime));
            }
            EntryKind::File => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let file =
                    openat(parent, &name[..], flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
                let written = fill(&file, entry, tar).and_then(|()| attributes.apply(file.as_fd()));
                if written.is_err() {
                    // Half a file is worse than none.
                    let _ = unlinkat(parent, &name[..], AtFlags::empty());
                }
                written?;
            }
            EntryKind::HardLink => {
                let target = self.names(&entry.link)?;
                let (target, folders) = target.split_last().ok_or_else(|| FilesError::Path {
                    path: printable(&entry.path),
                    reason: "is a hard link to a directory",
                })?;
                let folder = self.open_directory(folders, &entry.path)?;
                linkat(&folder, &target[..], parent, &name[..], AtFlags::empty())
                    .map_err(failed)?;
            }
            EntryKind::Symlink => {
                symlinkat(&entry.link[..], parent, &name[..]).map_err(failed)?;
                attributes.apply_at(parent, name)?;
            }
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                let kind = match entry.kind {
                    EntryKind::CharDevice => FileType::CharacterDevice,
                    EntryKind::BlockDevice => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                mknodat(parent, &name[..], kind, Mode::RUSR, attributes.device())
                    .map_err(failed)?;
                attributes.apply_at(parent, name)?;
            }
        }
        Ok(())
    }

    /// An entry's names, as it is to be called here.
    fn names(&self, path: &[u8]) -> Result<Names, FilesError> {
        let mut names = cleaned(path)?;
        if let Some(name) = &self.options.name {
            let name = name.as_bytes().to_vec();
            let is_below = path == b"." || path.starts_with(b"./") || path.starts_with(b"/");
            match names.first_mut() {
                Some(first) if !is_below => *first = name,
                _ => names.insert(0, name),
            }
        }
        Ok(names)
    }

    /// Opens a directory below the base, making it when it is missing.
    fn parent(&mut self, names: &[Vec<u8>], entry: &[u8]) -> Result<Rc<OwnedFd>, FilesError> {
        if let Some((held, parent)) = &self.parent
            && held == names
        {
            return Ok(Rc::clone(parent));
        }
        let parent = match self.open_directory(names, entry) {
            Err(FilesError::NotFound(_)) => {
                let path = place::c_path(&self.full(names));
                let made = path.and_then(|path| {
                    inside::open_or_make(self.root, &path, inside::Missing::Folder)
                });
                made.map_err(|errno| kernel("create the folder of", entry, errno))?;
                self.open_directory(names, entry)?
            }
            outcome => outcome?,
        };
        let parent = Rc::new(parent);
        self.parent = Some((names.to_vec(), Rc::clone(&parent)));
        Ok(parent)
    }

    fn open_directory(&self, names: &[Vec<u8>], entry: &[u8]) -> Result<OwnedFd, FilesError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        place::open(self.root, &self.full(names), flags).map_err(|errno| match errno {
            Errno::NOENT => FilesError::NotFound(printable(entry)),
            errno => kernel("open the folder of", entry, errno),
        })
    }

    fn full(&self, names: &[Vec<u8>]) -> Vec<Vec<u8>> {
        self.base.iter().chain(names).cloned().collect()
    }

    /// Removes what an entry takes the place of; answers whether a directory is there that stays.
    fn make_room(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
    ) -> Result<bool, FilesError> {
        let stat = match stat_at(parent, name) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(kernel("look at", &entry.path, errno)),
        };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let becomes_directory = entry.kind == EntryKind::Directory;
        if is_directory && becomes_directory {
            return Ok(true);
        }
        if self.options.keeps_kinds && is_directory != becomes_directory {
            let mut existing = self.full(&self.names(&entry.path)?).join(&b'/');
            existing.insert(0, b'/');
            return Err(FilesError::Overwrite {
                existing: printable(&existing),
                entry: printable(&entry.path),
                is_directory,
            });
        }
        let removed = match is_directory {
            true => remove_tree(parent, name, stat.st_dev),
            false => unlinkat(parent, name, AtFlags::empty()),
        };
        removed.map_err(|errno| match errno {
            Errno::ROFS => read_only(self.root, parent),
            errno => kernel("replace", &entry.path, errno),
        })?;
        Ok(false)
    }

    fn finish(self) -> Result<(), FilesError> {
        for (names, mtime) in self.directories.iter().rev() {
            let path = names.join(&b'/');
            let directory = match self.open_directory(names, &path) {
                Ok(directory) => directory,
                // Replaced by a later entry, or gone.
                Err(FilesError::NotFound(_)) => continue,
                Err(error) => return Err(error),
            };
            futimens(&directory, &times(*mtime, None))
                .map_err(|errno| kernel("set the times of", &path, errno))?;
        }
        Ok(())
    }
}

/// An entry's names, none of which leads up out of where it is unpacked.
fn cleaned(path: &[u8]) -> Result<Vec<Vec<u8>>, FilesError> {
    let wrong = |reason| FilesError::Path {
        path: printable(path),
        reason,
    };
    let mut names: Vec<Vec<u8>> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names
                    .pop()
                    .ok_or_else(|| wrong("is outside of where the archive is unpacked"))?;
            }
            name if name.contains(&0) => return Err(wrong("contains a zero byte")),
            name => names.push(name.to_vec()),
        }
    }
    Ok(names)
}

fn fill<R: BufRead>(
    file: &OwnedFd,
    entry: &Entry,
    tar: &mut TarReader<R>,
) -> Result<(), FilesError> {
    let failed = |errno| kernel("write", &entry.path, errno);
    let Some(segments) = &entry.segments else {
        return copy(file, entry, tar, u64::MAX);
    };
    for (offset, length) in segments {
        seek(file, SeekFrom::Start(*offset)).map_err(failed)?;
        copy(file, entry, tar, *length)?;
    }
    ftruncate(file, entry.size_bytes).map_err(failed)
}

fn copy<R: BufRead>(
    file: &OwnedFd,
    entry: &Entry,
    tar: &mut TarReader<R>,
    mut left: u64,
) -> Result<(), FilesError> {
    while left > 0 {
        let data = tar.data(left)?;
        if data.is_empty() {
            return Ok(());
        }
        let length = match rustix::io::write(file, data) {
            Ok(length) => length,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(kernel("write", &entry.path, errno)),
        };
        tar.consume(length);
        left -= length as u64;
    }
    Ok(())
}

/// Removes a directory and what is in it, but nothing of another file system.
fn remove_tree(parent: BorrowedFd<'_>, name: &[u8], device: u64) -> Result<(), Errno> {
    let open = |at: BorrowedFd<'_>, name: &[u8]| -> Result<Dir, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(at, name, flags, Mode::empty())?;
        if fstat(&directory)?.st_dev != device {
            return Err(Errno::BUSY);
        }
        Dir::new(directory)
    };
    let mut levels = vec![(open(parent, name)?, name.to_vec())];
    while let Some((directory, _)) = levels.last_mut() {
        let Some(entry) = directory.read() else {
            let (_, name) = levels.pop().ok_or(Errno::INVAL)?;
            match levels.last() {
                Some((above, _)) => unlinkat(above.fd()?, &name[..], AtFlags::REMOVEDIR)?,
                None => unlinkat(parent, &name[..], AtFlags::REMOVEDIR)?,
            }
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let at = directory.fd()?;
        match unlinkat(at, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => {
                let below = open(at, name.to_bytes())?;
                let name = name.to_bytes().to_vec();
                if levels.len() >= MOST_LEVELS {
                    return Err(Errno::NAMETOOLONG);
                }
                levels.push((below, name));
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
