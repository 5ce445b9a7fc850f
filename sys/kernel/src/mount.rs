//! The new mount API: detached mounts, attributes, propagation.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use crate::{Result, check};

bitflags::bitflags! {
    /// Attributes of one mount, as mount_setattr(2) has them.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Attributes: u64 {
        /// Read-only.
        const RDONLY = 0x1;
        /// set-user-ID bits have no effect.
        const NOSUID = 0x2;
        /// Device nodes can't be opened.
        const NODEV = 0x4;
        /// Programs can't be executed.
        const NOEXEC = 0x8;
        /// The field of the three access time settings.
        const ATIME_MASK = 0x70;
        /// Access times are never updated.
        const NOATIME = 0x10;
        /// Access times are always updated.
        const STRICTATIME = 0x20;
        /// Access times of folders are not updated.
        const NODIRATIME = 0x80;
        /// Ids are shifted by a user namespace.
        const IDMAP = 0x0010_0000;
        /// Symlinks on it are not followed.
        const NOSYMFOLLOW = 0x0020_0000;
    }
}

/// How mounts and unmounts travel between copies of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Propagation {
    /// Both ways.
    Shared,
    /// Received only.
    Slave,
    /// Not at all.
    Private,
    /// Not at all, and it can't be bind mounted.
    Unbindable,
}

impl Propagation {
    /// The value of the `MS_…` constant.
    #[must_use]
    pub fn bits(self) -> u64 {
        match self {
            Self::Shared => libc::MS_SHARED,
            Self::Slave => libc::MS_SLAVE,
            Self::Private => libc::MS_PRIVATE,
            Self::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// A change of attributes; the argument of mount_setattr(2).
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Change {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

impl Change {
    /// Sets `set` and clears `clear`; a new access time setting replaces the old one.
    #[must_use]
    pub fn attributes(set: Attributes, clear: Attributes) -> Self {
        let touches_atime = set.union(clear).intersects(Attributes::ATIME_MASK);
        let mask = if touches_atime {
            Attributes::ATIME_MASK
        } else {
            Attributes::empty()
        };
        Self {
            set: set.bits(),
            clear: clear.union(mask).bits(),
            ..Self::default()
        }
    }

    /// Changes the propagation only.
    #[must_use]
    pub fn propagation(propagation: Propagation) -> Self {
        Self {
            propagation: propagation.bits(),
            ..Self::default()
        }
    }

    /// Shifts ids by the mapping of a user namespace; for detached mounts.
    #[must_use]
    pub fn idmap(userns: BorrowedFd<'_>) -> Self {
        Self {
            set: Attributes::IDMAP.bits(),
            userns_fd: u64::from(userns.as_raw_fd().cast_unsigned()),
            ..Self::default()
        }
    }
}

/// Changes the mount at `path` below `dir` (the mount `dir` itself for an empty path), with
/// `recursive` also those below it. Child-safe.
///
/// # Errors
/// The kernel's; `ENOSYS` before Linux 5.12.
pub fn set_attributes(
    dir: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
    change: &Change,
) -> Result<()> {
    let mut flags = 0;
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: path is NUL-terminated; `change` has mount_attr's layout (four u64, repr(C)) and the
    // size passed is its own; both outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            std::ptr::from_ref(change),
            size_of::<Change>(),
        )
    })?;
    Ok(())
}

/// A detached copy of the mount at `path` below `dir`; with `recursive` also of those below it.
/// Child-safe.
///
/// An empty path copies from `dir` itself. Symlinks in the last component are followed unless
/// `nofollow`. The copy disappears with the descriptor unless it is attached.
///
/// # Errors
/// The kernel's.
pub fn clone_tree(
    dir: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
    nofollow: bool,
) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.is_empty());
    flags.set(OpenTreeFlags::AT_SYMLINK_NOFOLLOW, nofollow);
    rustix::mount::open_tree(dir, path, flags)
}

/// The id of the mount that `path` below `dir` is on (`dir` itself for an empty path), never used again while the machine
/// runs (before Linux 6.8: not used again while the mount exists).
///
/// # Errors
/// The kernel's.
pub fn id(dir: BorrowedFd<'_>, path: &CStr) -> Result<u64> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000); // STATX_MNT_ID_UNIQUE
    let mut flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    flags.set(AtFlags::EMPTY_PATH, path.is_empty());
    let found = statx(dir, path, flags, StatxFlags::MNT_ID | UNIQUE)?;
    Ok(found.stx_mnt_id)
}

/// Attaches the detached mount `mount` on `target` (a descriptor of the exact place, `O_PATH`
/// suffices). Child-safe.
///
/// # Errors
/// The kernel's; `ENOTDIR` when one is a folder and the other not.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", target, c"", flags)
}

/// Attaches the detached mount `mount` on the place `path`, following symlinks. Child-safe.
///
/// # Errors
/// The kernel's.
pub fn attach_at(mount: BorrowedFd<'_>, path: &CStr) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
        | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS
        | MoveMountFlags::MOVE_MOUNT_T_AUTOMOUNTS;
    rustix::mount::move_mount(mount, c"", rustix::fs::CWD, path, flags)
}

/// One setting of a new superblock.
#[derive(Debug, Clone, Copy)]
pub enum Setting<'a> {
    /// A word by itself, `newinstance`.
    Flag(&'a CStr),
    /// `key=value`; the value is at most 255 bytes long.
    Value(&'a CStr, &'a CStr),
}

/// Makes a superblock and a detached mount of it. Child-safe.
///
/// # Errors
/// The kernel's; `EINVAL` for an unknown setting.
pub fn new_filesystem<'a>(
    kind: &CStr,
    settings: impl IntoIterator<Item = Setting<'a>>,
    attributes: Attributes,
) -> Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for setting in settings {
        match setting {
            Setting::Flag(key) => rustix::mount::fsconfig_set_flag(context.as_fd(), key)?,
            Setting::Value(key, value) => {
                rustix::mount::fsconfig_set_string(context.as_fd(), key, value)?;
            }
        }
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    mount_context(context.as_fd(), attributes)
}

/// A detached mount of a created superblock. Child-safe.
pub(crate) fn mount_context(context: BorrowedFd<'_>, attributes: Attributes) -> Result<OwnedFd> {
    // fsmount(2) takes the same bits as mount_setattr(2) except the id map.
    let bits = u32::try_from(attributes.bits()).unwrap_or(0);
    rustix::mount::fsmount(
        context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::from_bits_retain(bits),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_of_access_time_clears_the_old_one() {
        let change = Change::attributes(Attributes::NOATIME, Attributes::empty());
        assert_eq!(change.clear, 0x70);
        let change = Change::attributes(Attributes::RDONLY, Attributes::empty());
        assert_eq!((change.set, change.clear), (1, 0));
    }

    #[test]
    fn detached_tmpfs_is_usable_and_vanishes() {
        let settings = [
            Setting::Value(c"size", c"64k"),
            Setting::Value(c"mode", c"755"),
        ];
        let mount = new_filesystem(c"tmpfs", settings, Attributes::NODEV).unwrap();
        rustix::fs::mkdirat(&mount, c"inside", rustix::fs::Mode::RWXU).unwrap();
        let change = Change::attributes(Attributes::RDONLY, Attributes::empty());
        set_attributes(mount.as_fd(), c"", true, &change).unwrap();
        let refused = rustix::fs::mkdirat(&mount, c"more", rustix::fs::Mode::RWXU);
        assert_eq!(refused, Err(crate::Errno::ROFS));
    }
}
