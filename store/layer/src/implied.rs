//! Directories an archive uses but doesn't describe.
//!
//! A layer with `tmp/x` and no entry for `tmp` would hide the lower `tmp` with a directory of
//! mode 0755 in an overlay mount. Such directories take owner, mode, times and extended
//! attributes from the layers below, as if the archive had been unpacked on top of them.

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};

use crate::{
    LayerError,
    copy::{Xattrs, copy_attributes},
    error::store_error,
};

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
        copy_attributes(source.as_fd(), target.as_fd(), Xattrs::NotOverlay)
            .map_err(store_error("change mode of", shown()))?;
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
