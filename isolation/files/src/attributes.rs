//! Owners, modes, times and extended attributes, between files and entries.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use atoll_sys::Errno;
use atoll_tar::{Entry, EntryKind};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fgetxattr, flistxattr, fsetxattr, futimens, lsetxattr, major, makedev, minor,
    utimensat,
};

use crate::error::{FilesError, kernel, printable};
use crate::{Ids, Options};

/// Most bytes of one attribute's value, and of all names; the kernel's limit.
const MAX_XATTR: usize = 64 << 10;
/// What the kernel shows for ids that mean nothing.
const NOBODY: u32 = 65534;

impl Ids {
    /// The container's id of one that the caller sees.
    pub(crate) fn inside(self, id: u32) -> u32 {
        match self {
            Self::Same => id,
            Self::Shifted { first, count } => {
                let inside = id.checked_sub(first).filter(|inside| *inside < count);
                inside.unwrap_or(NOBODY)
            }
        }
    }

    /// The caller's id of the container's.
    fn outside(self, id: u32) -> Option<u32> {
        match self {
            // The kernel takes -1 for "leave it".
            Self::Same => (id != u32::MAX).then_some(id),
            Self::Shifted { first, count } => (id < count).then(|| first.checked_add(id)).flatten(),
        }
    }
}

/// An entry of what has this status; its path, link and extended attributes are empty.
pub(crate) fn entry(stat: &Stat, kind: EntryKind, ids: Ids) -> Entry {
    Entry {
        path: Vec::new(),
        link: Vec::new(),
        kind,
        mode: stat.st_mode & 0o7777,
        uid: ids.inside(stat.st_uid),
        gid: ids.inside(stat.st_gid),
        size_bytes: match kind {
            EntryKind::File => u64::try_from(stat.st_size).unwrap_or(0),
            _ => 0,
        },
        mtime: (
            stat.st_mtime,
            u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        ),
        atime: None,
        device: (major(stat.st_rdev), minor(stat.st_rdev)),
        xattrs: Vec::new(),
        segments: None,
    }
}

/// The kind of entry for a file's type; none for sockets, which archives do not have.
pub(crate) fn kind(stat: &Stat) -> Option<EntryKind> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Some(EntryKind::File),
        FileType::Directory => Some(EntryKind::Directory),
        FileType::Symlink => Some(EntryKind::Symlink),
        FileType::CharacterDevice => Some(EntryKind::CharDevice),
        FileType::BlockDevice => Some(EntryKind::BlockDevice),
        FileType::Fifo => Some(EntryKind::Fifo),
        _ => None,
    }
}

/// The extended attributes that archives carry: file capabilities and the user's.
pub(crate) fn xattrs(file: BorrowedFd<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; MAX_XATTR];
    let Ok(length) = flistxattr(file, &mut names[..]) else {
        return Vec::new();
    };
    let wanted = |name: &&[u8]| name.starts_with(b"user.") || *name == b"security.capability";
    let names = names[..length].split(|byte| *byte == 0).filter(wanted);
    let value = |name: &[u8]| {
        let mut value = vec![0; MAX_XATTR];
        let length = fgetxattr(file, name, &mut value[..]).ok()?;
        value.truncate(length);
        Some((name.to_vec(), value))
    };
    names.filter_map(value).collect()
}

/// What a written file gets.
pub(crate) struct Attributes<'a> {
    entry: &'a Entry,
    owner: (Uid, Gid),
}

impl<'a> Attributes<'a> {
    /// Those of an entry.
    pub(crate) fn of(entry: &'a Entry, options: &Options, ids: Ids) -> Result<Self, FilesError> {
        let (uid, gid) = options.owner.unwrap_or((entry.uid, entry.gid));
        let owner = ids.outside(uid).zip(ids.outside(gid));
        let (uid, gid) = owner.ok_or_else(|| FilesError::Path {
            path: printable(&entry.path),
            reason: "has an owner that the container does not have",
        })?;
        Ok(Self {
            entry,
            owner: (Uid::from_raw(uid), Gid::from_raw(gid)),
        })
    }

    /// For files and directories.
    pub(crate) fn apply(&self, file: BorrowedFd<'_>) -> Result<(), FilesError> {
        let failed = |action| move |errno| kernel(action, &self.entry.path, errno);
        let (uid, gid) = self.owner;
        fchown(file, Some(uid), Some(gid)).map_err(failed("change the owner of"))?;
        for (name, value) in self.xattrs() {
            tolerate(fsetxattr(file, &name[..], value, XattrFlags::empty()))
                .map_err(failed("set an extended attribute of"))?;
        }
        // After the owner, whose change takes set-id bits away.
        let mode = Mode::from_raw_mode(self.entry.mode);
        fchmod(file, mode).map_err(failed("change the mode of"))?;
        futimens(file, &self.times()).map_err(failed("set the times of"))
    }

    /// For what cannot be opened: symlinks, devices and fifos that were just made.
    pub(crate) fn apply_at(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(), FilesError> {
        let failed = |action| move |errno| kernel(action, &self.entry.path, errno);
        let (uid, gid) = self.owner;
        let own = AtFlags::SYMLINK_NOFOLLOW;
        chownat(directory, name, Some(uid), Some(gid), own)
            .map_err(failed("change the owner of"))?;
        if self.entry.kind != EntryKind::Symlink {
            // By its descriptor: the name may be something else by now.
            let flags = rustix::fs::OFlags::PATH
                | rustix::fs::OFlags::NOFOLLOW
                | rustix::fs::OFlags::CLOEXEC;
            let node = rustix::fs::openat(directory, name, flags, Mode::empty());
            let node = node.map_err(failed("open"))?;
            let stat = rustix::fs::fstat(&node).map_err(failed("look at"))?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
                let mut text = [0; 32];
                let path = atoll_sys::inside::proc_fd_path(node.as_fd(), &mut text)
                    .map_err(failed("open"))?;
                rustix::fs::chmod(path, Mode::from_raw_mode(self.entry.mode))
                    .map_err(failed("change the mode of"))?;
            }
        } else if self.xattrs().next().is_some() {
            let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
            path.extend_from_slice(name);
            for (name, value) in self.xattrs() {
                tolerate(lsetxattr(&path[..], &name[..], value, XattrFlags::empty()))
                    .map_err(failed("set an extended attribute of"))?;
            }
        }
        utimensat(directory, name, &self.times(), own).map_err(failed("set the times of"))
    }

    fn xattrs(&self) -> impl Iterator<Item = &(Vec<u8>, Vec<u8>)> {
        // Overlay's own steer mounts; labels are the host's business.
        self.entry.xattrs.iter().filter(|(name, _)| {
            name.starts_with(b"user.") && !name.starts_with(b"user.overlay.")
                || name == b"security.capability"
        })
    }

    fn times(&self) -> Timestamps {
        times(self.entry.mtime, self.entry.atime)
    }

    /// The device's number.
    pub(crate) fn device(&self) -> u64 {
        makedev(self.entry.device.0, self.entry.device.1)
    }
}

/// Times for the kernel.
pub(crate) fn times(mtime: (i64, u32), atime: Option<(i64, u32)>) -> Timestamps {
    let time = |(seconds, nanos): (i64, u32)| Timespec {
        tv_sec: seconds,
        tv_nsec: nanos.into(),
    };
    Timestamps {
        last_access: time(atime.unwrap_or(mtime)),
        last_modification: time(mtime),
    }
}

/// File systems without extended attributes are as good.
fn tolerate(outcome: Result<(), Errno>) -> Result<(), Errno> {
    match outcome {
        Err(Errno::OPNOTSUPP) => Ok(()),
        outcome => outcome,
    }
}
