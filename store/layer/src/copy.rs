//! Copying a layer that is in the store already, to have it on top of another parent.
//!
//! Images repeat layers (an empty one most of all), and an archive has the bytes only once. The same fills a volume with what
//! an image has at its place.

use std::{
    collections::HashMap,
    ffi::CStr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
        chmodat, chownat, linkat, mkdirat, mknodat, openat, readlinkat, statat, symlinkat,
        utimensat,
    },
    io::Errno,
};

const MAX_XATTR_BYTES: usize = 64 * 1024;

/// Which extended attributes go along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Xattrs {
    /// All: the copy hides what the original hides.
    All,
    /// All but overlay's own.
    NotOverlay,
}

/// Copies everything below `source`, and its attributes, into the empty directory `target`.
pub(crate) fn copy_tree(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut copier = Copier {
        root: target,
        path: Vec::new(),
        links: HashMap::new(),
    };
    copier.directory(source, target)
}

/// Copies everything below `source`, and its attributes, into the empty directory `target`: contents, owners, modes, extended
/// attributes, times, hard links within it, symlinks as they are.
///
/// Recursion takes about 1 KiB of stack a level and three descriptors.
///
/// * `source`, `target`: opened for reading, not `O_PATH`.
///
/// # Errors
/// The kernel's: `EEXIST` for names that are there already, `ENOSPC`; `EMFILE` for a tree as deep as there are descriptors.
/// What was copied stays.
pub fn copy_directory(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    copy_tree(source, target)
}

struct Copier<'a> {
    root: BorrowedFd<'a>,
    /// The directory being copied, beneath the root, with a slash at its end.
    path: Vec<u8>,
    /// Inode → where its copy is, for files with several names.
    links: HashMap<u64, Vec<u8>>,
}

impl Copier<'_> {
    fn directory(&mut self, source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
        for entry in Dir::read_from(source)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if let Some(old) = self.links.get(&stat.st_ino) {
                linkat(self.root, &old[..], target, name, AtFlags::empty())?;
                continue;
            }
            let parent_len = self.path.len();
            self.path.extend_from_slice(name.to_bytes());
            let kind = FileType::from_raw_mode(stat.st_mode);
            if stat.st_nlink > 1 && kind != FileType::Directory {
                self.links.insert(stat.st_ino, self.path.clone());
            }
            self.path.push(b'/');
            self.entry(source, target, name, kind, &stat)?;
            self.path.truncate(parent_len);
        }
        copy_attributes(source, target, Xattrs::All)
    }

    fn entry(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        name: &CStr,
        kind: FileType,
        stat: &Stat,
    ) -> Result<(), Errno> {
        let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match kind {
            FileType::Directory => {
                mkdirat(target, name, Mode::RWXU)?;
                let from = openat(source, name, read | OFlags::DIRECTORY, Mode::empty())?;
                let into = openat(target, name, read | OFlags::DIRECTORY, Mode::empty())?;
                self.directory(from.as_fd(), into.as_fd())
            }
            FileType::RegularFile => {
                let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let from = openat(source, name, read, Mode::empty())?;
                let into = openat(target, name, write, Mode::RUSR | Mode::WUSR)?;
                copy_data(&from, &into)?;
                copy_attributes(from.as_fd(), into.as_fd(), Xattrs::All)
            }
            FileType::Symlink => {
                symlinkat(&*readlinkat(source, name, Vec::new())?, target, name)?;
                copy_attributes_by_name(source, target, name, stat)
            }
            kind => {
                mknodat(target, name, kind, Mode::empty(), stat.st_rdev)?;
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                chmodat(target, name, mode, AtFlags::empty())?;
                copy_attributes_by_name(source, target, name, stat)
            }
        }
    }
}

fn copy_data(source: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    if rustix::fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(());
    }
    loop {
        match rustix::fs::copy_file_range(source, None, target, None, 1 << 30) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // Between file systems of different kinds.
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => break,
            Err(errno) => return Err(errno),
        }
    }
    while rustix::fs::sendfile(target, source, None, 1 << 30)? > 0 {}
    Ok(())
}

/// Copies owner, extended attributes, mode and times of an open file or directory.
pub(crate) fn copy_attributes(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    xattrs: Xattrs,
) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(source)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(target, Some(uid), Some(gid))?;
    let mut names = vec![0; MAX_XATTR_BYTES];
    let length = match rustix::fs::flistxattr(source, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        result => result?,
    };
    for name in xattr_names(&names[..length], xattrs) {
        let mut value = vec![0; MAX_XATTR_BYTES];
        let length = rustix::fs::fgetxattr(source, name, &mut value[..])?;
        tolerate(rustix::fs::fsetxattr(
            target,
            name,
            &value[..length],
            XattrFlags::empty(),
        ))?;
    }
    rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    rustix::fs::futimens(target, &times(&stat))
}

fn copy_attributes_by_name(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(
        target,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    let from = path_of(source, name);
    let into = path_of(target, name);
    let mut names = vec![0; MAX_XATTR_BYTES];
    let length = match rustix::fs::llistxattr(&from[..], &mut names[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        result => result?,
    };
    for name in xattr_names(&names[..length], Xattrs::All) {
        let mut value = vec![0; MAX_XATTR_BYTES];
        let length = rustix::fs::lgetxattr(&from[..], name, &mut value[..])?;
        let value = &value[..length];
        tolerate(rustix::fs::lsetxattr(
            &into[..],
            name,
            value,
            XattrFlags::empty(),
        ))?;
    }
    utimensat(target, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

fn xattr_names(list: &[u8], wanted: Xattrs) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == 0).filter(move |name| {
        !name.is_empty() && (wanted == Xattrs::All || !name.starts_with(b"trusted.overlay."))
    })
}

fn tolerate(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        result => result,
    }
}

fn times(stat: &Stat) -> Timestamps {
    let time = |tv_sec, nanos: u64| Timespec {
        tv_sec,
        tv_nsec: nanos.cast_signed(),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn path_of(directory: BorrowedFd<'_>, name: &CStr) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    path
}
