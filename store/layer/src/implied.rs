//! Directories an archive uses but doesn't describe.
//!
//! A layer with `tmp/x` and no entry for `tmp` would hide the lower `tmp` with a directory of
//! mode 0755 in an overlay mount. Such directories take owner, mode, times and extended
//! attributes from the layers below, as if the archive had been unpacked on top of them.

use std::{
    ffi::OsStr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, openat2},
    io::Errno,
};

use crate::{LayerError, error::store_error};

const MAX_XATTR_BYTES: usize = 64 * 1024;

/// Copies the attributes of each directory in `implied` from the first of `lowers` that has it.
///
/// * `diff`: the new layer's root.
/// * `lowers`: roots of the layers below, top first.
pub(crate) fn inherit(
    diff: &Path,
    implied: &[Vec<u8>],
    lowers: &[PathBuf],
) -> Result<(), LayerError> {
    for path in implied {
        let Some(source) = lowers
            .iter()
            .find_map(|lower| open_directory(lower, path).ok())
        else {
            continue;
        };
        let shown = || diff.join(OsStr::from_bytes(path));
        let target = open_directory(diff, path).map_err(store_error("open", shown()))?;
        copy_attributes(&source, &target).map_err(store_error("change mode of", shown()))?;
    }
    Ok(())
}

fn open_directory(root: &Path, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, root, flags, Mode::empty())?;
    let path = if path.is_empty() { b"." } else { path };
    openat2(
        &root,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )
}

pub(crate) fn copy_attributes(source: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(source)?;
    rustix::fs::fchown(
        target,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    copy_xattrs(source, target)?;
    rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let time = |tv_sec, nanos: u64| Timespec {
        tv_sec,
        tv_nsec: nanos.cast_signed(),
    };
    rustix::fs::futimens(
        target,
        &Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
        },
    )
}

fn copy_xattrs(source: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    let mut names = vec![0u8; MAX_XATTR_BYTES];
    let length = match rustix::fs::flistxattr(source, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let mut value = vec![0u8; MAX_XATTR_BYTES];
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        // Whether the new layer's directory hides or moves something is its own affair.
        if name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let length = rustix::fs::fgetxattr(source, name, &mut value[..])?;
        match rustix::fs::fsetxattr(target, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
