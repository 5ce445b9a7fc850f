//! Owner, extended attributes, mode and times, in the order in which they don't undo each other.

use std::os::fd::{AsRawFd, BorrowedFd};

use atoll_tar::Entry;
use rustix::{
    fs::{
        AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fchmod,
        fchown, fsetxattr, futimens, lsetxattr, utimensat,
    },
    io::Errno,
};

use super::root::{printable, write_error};
use crate::LayerError;

/// Marks a directory that hides what lower layers have at its place.
pub(crate) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// What `chown`, `setxattr`, `chmod` and `utimens` are going to be told.
#[derive(Debug)]
pub(super) struct Attributes {
    uid: Uid,
    gid: Gid,
    is_ours: bool,
    mode: Mode,
    times: Timestamps,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    pub(super) fn of(entry: &Entry) -> Result<Self, LayerError> {
        // The kernel reads -1 as "leave the owner".
        if entry.uid == u32::MAX || entry.gid == u32::MAX {
            let reason = "owner 4294967295 cannot exist".to_owned();
            return Err(LayerError::Entry {
                path: printable(&entry.path),
                reason,
            });
        }
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        let time = |(seconds, nanos): (i64, u32)| Timespec {
            tv_sec: seconds,
            tv_nsec: nanos.into(),
        };
        Ok(Self {
            is_ours: uid == rustix::process::geteuid() && gid == rustix::process::getegid(),
            uid,
            gid,
            mode: Mode::from_raw_mode(entry.mode),
            times: Timestamps {
                last_access: time(entry.atime.unwrap_or(entry.mtime)),
                last_modification: time(entry.mtime),
            },
            xattrs: entry
                .xattrs
                .iter()
                .filter(|(name, _)| is_wanted(name))
                .cloned()
                .collect(),
        })
    }

    /// For files and directories made by us just now.
    pub(super) fn apply_to_fd(&self, fd: BorrowedFd<'_>, entry: &[u8]) -> Result<(), LayerError> {
        // A new file already has our ids: no directory is setgid while a layer is being filled.
        if !self.is_ours {
            fchown(fd, Some(self.uid), Some(self.gid))
                .map_err(|errno| write_error("change owner of", entry, errno))?;
        }
        for (name, value) in &self.xattrs {
            tolerate(
                name,
                fsetxattr(fd, &name[..], value, XattrFlags::empty()),
                entry,
            )?;
        }
        // After chown, which takes setuid and setgid away.
        fchmod(fd, self.mode).map_err(|errno| write_error("change mode of", entry, errno))?;
        futimens(fd, &self.times).map_err(|errno| write_error("set times of", entry, errno))
    }

    pub(super) fn apply_to_symlink(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &[u8],
    ) -> Result<(), LayerError> {
        self.own(parent, name, entry)?;
        self.set_xattrs(parent, name, entry)?;
        self.set_times(parent, name, entry)
    }

    /// For devices, pipes and sockets, which can't be opened without a side effect.
    pub(super) fn apply_to_node(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &[u8],
    ) -> Result<(), LayerError> {
        self.own(parent, name, entry)?;
        self.set_xattrs(parent, name, entry)?;
        // Follows symlinks, but the name is a node made by us, where nobody else can write.
        chmodat(parent, name, self.mode, AtFlags::empty())
            .map_err(|errno| write_error("change mode of", entry, errno))?;
        self.set_times(parent, name, entry)
    }

    fn own(&self, parent: BorrowedFd<'_>, name: &[u8], entry: &[u8]) -> Result<(), LayerError> {
        if self.is_ours {
            return Ok(());
        }
        chownat(
            parent,
            name,
            Some(self.uid),
            Some(self.gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|errno| write_error("change owner of", entry, errno))
    }

    fn set_xattrs(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &[u8],
    ) -> Result<(), LayerError> {
        if self.xattrs.is_empty() {
            return Ok(());
        }
        // There is no setxattrat before Linux 6.13; the last name is not followed.
        let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        for (name, value) in &self.xattrs {
            tolerate(
                name,
                lsetxattr(&path[..], &name[..], value, XattrFlags::empty()),
                entry,
            )?;
        }
        Ok(())
    }

    fn set_times(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &[u8],
    ) -> Result<(), LayerError> {
        utimensat(parent, name, &self.times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| write_error("set times of", entry, errno))
    }
}

/// Overlay's own attributes steer the mount (redirects, metacopy): an archive may not set them.
fn is_wanted(name: &[u8]) -> bool {
    !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay.")
}

/// Attributes a file system or file type can't have are left out, as docker does; a file
/// capability is never left out silently.
fn tolerate(name: &[u8], result: Result<(), Errno>, entry: &[u8]) -> Result<(), LayerError> {
    match result {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP) => Ok(()),
        Err(Errno::PERM) if name != b"security.capability" => Ok(()),
        Err(errno) => Err(write_error("set an extended attribute of", entry, errno)),
    }
}
