//! A tree as an archive.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use atoll_sys::{Errno, inside};
use atoll_tar::{EntryKind, TarWriter};
use rustix::fs::{Dir, FileType, Mode, OFlags, Stat, fstat, fstatfs, openat, readlinkat};
use rustix::io::read;

use crate::Ids;
use crate::attributes;
use crate::error::{FilesError, kernel, printable};
use crate::place::{Found, Place};

/// The deepest tree: each level holds a descriptor.
const MOST_LEVELS: usize = 400;
/// Bytes of a file that are held at once.
const PIECE: usize = 128 << 10;

/// statfs(2) magic numbers of the kernel's own file systems: not files of the container, and some without an end.
const KERNELS: [i64; 13] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x27_e0eb,   // cgroup
    0x6367_7270, // cgroup2
    0x1cd1,      // devpts
    0x1980_0202, // mqueue
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x6165_676c, // pstore
    0x4249_4e4d, // binfmt_misc
    0xde5e_81e4, // efivarfs
];

/// Writes what was found as an archive. Its names begin with the last name of the place.
pub(crate) fn archive(
    root: BorrowedFd<'_>,
    place: &Place,
    found: &Found,
    ids: Ids,
    output: &mut dyn Write,
) -> Result<(), FilesError> {
    let root = fstat(root).map_err(|errno| kernel("look at", "/", errno))?;
    let mut reader = Reader {
        writer: TarWriter::new(output),
        ids,
        root_device: root.st_dev,
        is_whole: place.names.is_empty(),
        links: HashMap::new(),
        buffer: vec![0; PIECE],
    };
    // Clients put another name in front of those below the root.
    let name = match &place.shown[..] {
        b"/" => Vec::new(),
        name => name.to_vec(),
    };
    match found.kind() {
        FileType::Directory => reader.tree(found.file.as_fd(), name)?,
        _ => reader.node(found.file.as_fd(), &found.stat, name)?,
    }
    reader.writer.finish().map_err(FilesError::Output)?;
    Ok(())
}

struct Reader<'a> {
    writer: TarWriter<&'a mut dyn Write>,
    ids: Ids,
    root_device: u64,
    is_whole: bool,
    /// Device and inode of files with several names → the first name in the archive.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

/// A directory that is being read.
struct Level {
    entries: Dir,
    device: u64,
    /// Length of its name in the archive.
    path_len: usize,
}

impl Reader<'_> {
    fn tree(&mut self, top: BorrowedFd<'_>, mut path: Vec<u8>) -> Result<(), FilesError> {
        let first = self.open(top, c".", &path)?;
        let mut levels = vec![self.directory(first, &path)?];
        while let Some(level) = levels.last_mut() {
            path.truncate(level.path_len);
            let Some(entry) = level.entries.read() else {
                levels.pop();
                continue;
            };
            let entry = entry.map_err(|errno| kernel("read", &path, errno))?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            path.push(b'/');
            path.extend_from_slice(name.to_bytes());
            let parent = level
                .entries
                .fd()
                .map_err(|errno| kernel("read", &path, errno))?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = match openat(parent, name, flags, Mode::empty()) {
                Ok(file) => file,
                // Removed meanwhile.
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(kernel("open", &path, errno)),
            };
            let stat = fstat(&file).map_err(|errno| kernel("look at", &path, errno))?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                self.node(file.as_fd(), &stat, path.clone())?;
                continue;
            }
            if self.is_kernels(&file, &stat, level.device, &path) {
                self.header(&stat, EntryKind::Directory, &path, file.as_fd())?;
                continue;
            }
            if levels.len() >= MOST_LEVELS {
                return Err(FilesError::Path {
                    path: printable(&path),
                    reason: "is deeper than 400 folders",
                });
            }
            let opened = self.open(file.as_fd(), c".", &path)?;
            let level = self.directory(opened, &path)?;
            levels.push(level);
        }
        Ok(())
    }

    fn open(
        &self,
        at: BorrowedFd<'_>,
        name: &std::ffi::CStr,
        path: &[u8],
    ) -> Result<OwnedFd, FilesError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(at, name, flags, Mode::empty()).map_err(|errno| kernel("open", path, errno))
    }

    fn directory(&mut self, directory: OwnedFd, path: &[u8]) -> Result<Level, FilesError> {
        let stat = fstat(&directory).map_err(|errno| kernel("look at", path, errno))?;
        self.header(&stat, EntryKind::Directory, path, directory.as_fd())?;
        Ok(Level {
            entries: Dir::new(directory).map_err(|errno| kernel("read", path, errno))?,
            device: stat.st_dev,
            path_len: path.len(),
        })
    }

    /// Whether what is mounted here is the kernel's, or the container's `/dev` in an archive of everything.
    fn is_kernels(&self, file: &OwnedFd, stat: &Stat, parent: u64, path: &[u8]) -> bool {
        if stat.st_dev == parent {
            return false;
        }
        let is_devices = self.is_whole
            && parent == self.root_device
            && path.strip_prefix(b".").unwrap_or(path) == b"/dev";
        is_devices || fstatfs(file).is_ok_and(|found| KERNELS.contains(&found.f_type))
    }

    /// Anything but a directory.
    fn node(&mut self, file: BorrowedFd<'_>, stat: &Stat, path: Vec<u8>) -> Result<(), FilesError> {
        let Some(kind) = attributes::kind(stat) else {
            return Ok(());
        };
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key) {
                let mut entry = attributes::entry(stat, EntryKind::HardLink, self.ids);
                entry.link.clone_from(first);
                entry.path = path;
                return self.writer.entry(&entry).map_err(FilesError::Output);
            }
            self.links.insert(key, path.clone());
        }
        match kind {
            EntryKind::File => self.file(file, &path),
            kind => self.header(stat, kind, &path, file),
        }
    }

    fn header(
        &mut self,
        stat: &Stat,
        kind: EntryKind,
        path: &[u8],
        file: BorrowedFd<'_>,
    ) -> Result<(), FilesError> {
        let mut entry = attributes::entry(stat, kind, self.ids);
        entry.path = path.to_vec();
        match kind {
            EntryKind::Directory => {
                entry.path.push(b'/');
                entry.xattrs = attributes::xattrs(file);
            }
            EntryKind::Symlink => {
                let target = readlinkat(file, "", Vec::new());
                let target = target.map_err(|errno| kernel("read", path, errno))?;
                entry.link = target.into_bytes();
            }
            EntryKind::File => entry.xattrs = attributes::xattrs(file),
            _ => {}
        }
        self.writer.entry(&entry).map_err(FilesError::Output)
    }

    /// A file as it is while it is read: one that shrinks meanwhile is filled up with zeros, one that grows is cut off.
    fn file(&mut self, file: BorrowedFd<'_>, path: &[u8]) -> Result<(), FilesError> {
        let failed = |errno| kernel("read", path, errno);
        // What was looked at is a file, and stays this one.
        let file = inside::reopen(file, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
            .map_err(failed)?;
        let stat = fstat(&file).map_err(failed)?;
        self.header(&stat, EntryKind::File, path, file.as_fd())?;
        while self.writer.data_left() > 0 {
            let left = usize::try_from(self.writer.data_left()).unwrap_or(PIECE);
            let room = &mut self.buffer[..left.min(PIECE)];
            let length = match read(&file, &mut *room) {
                Ok(0) => {
                    room.fill(0);
                    room.len()
                }
                Ok(length) => length,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(failed(errno)),
            };
            self.writer
                .data(&self.buffer[..length])
                .map_err(FilesError::Output)?;
        }
        Ok(())
    }
}
