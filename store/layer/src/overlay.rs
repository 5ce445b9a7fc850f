//! What the kernel's overlay file system is told.

use std::{
    ffi::{OsStr, OsString},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::{LayerError, WritableLayer, error::store_error};

/// A root file system mount, in the words of containerd's `Mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsMountSpec {
    /// The file system's type: `overlay`, or `bind`.
    pub type_: String,
    /// What is mounted.
    pub source: String,
    /// `key=value` and flags, each one option.
    pub options: Vec<String>,
}

/// Describes the overlay of `lowers` with a writable layer on top.
///
/// Colons and backslashes in lower paths are escaped with a backslash, as the kernel wants it in
/// `lowerdir`. Kernel: Documentation/filesystems/overlayfs.rst.
///
/// * `lowers`: top first, at least one.
/// * `upper`, `work`: empty directories of one file system; `work` is the kernel's own.
pub fn overlay_mount(lowers: &[PathBuf], upper: &Path, work: &Path) -> RootfsMountSpec {
    let mut lowerdir = OsString::from("lowerdir=");
    for (index, lower) in lowers.iter().enumerate() {
        if index > 0 {
            lowerdir.push(":");
        }
        lowerdir.push(escaped(lower.as_os_str()));
    }
    let option = |key: &str, path: &Path| format!("{key}={}", path.display());
    RootfsMountSpec {
        type_: "overlay".to_owned(),
        source: "overlay".to_owned(),
        options: vec![
            lowerdir.to_string_lossy().into_owned(),
            option("upperdir", upper),
            option("workdir", work),
        ],
    }
}

/// Opens the root file system that a container has or would have, to read files in it or to copy
/// into it. It is mounted nowhere and disappears with the descriptor.
///
/// Don't write through it while the container runs: the kernel leaves two mounts of one upper
/// directory undefined.
///
/// * `lowers`: top first, at least one.
/// * `writable`: the container's own layer; without it the root is read-only.
///
/// # Errors
/// [`LayerError::Store`] when a directory can't be opened, [`LayerError::Mount`] when the kernel
/// refuses.
pub fn open_rootfs(
    lowers: &[PathBuf],
    writable: Option<&WritableLayer>,
) -> Result<OwnedFd, LayerError> {
    let open = |path: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, path, flags, Mode::empty()).map_err(store_error("open", path))
    };
    let lowers = lowers
        .iter()
        .map(|path| open(path))
        .collect::<Result<Vec<_>, _>>()?;
    let upper = match writable {
        Some(writable) => Some((open(&writable.diff())?, open(&writable.work())?)),
        None => None,
    };
    match (lowers.len(), &upper) {
        // Overlay wants two directories at least.
        (1, None) => Ok(lowers.into_iter().next().expect("the length is one")),
        _ => {
            let lowers: Vec<BorrowedFd<'_>> = lowers.iter().map(AsFd::as_fd).collect();
            let upper = upper
                .as_ref()
                .map(|(diff, work)| (diff.as_fd(), work.as_fd()));
            atoll_sys::overlay::mount_detached(
                &lowers,
                upper,
                atoll_sys::overlay::Options::default(),
            )
            .map_err(|errno| LayerError::Mount(errno.into()))
        }
    }
}

fn escaped(path: &OsStr) -> OsString {
    let mut bytes = Vec::with_capacity(path.len());
    for byte in path.as_bytes() {
        if matches!(byte, b':' | b'\\') {
            bytes.push(b'\\');
        }
        bytes.push(*byte);
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowers_are_joined_top_first_and_escaped() {
        let spec = overlay_mount(
            &["/a:b/top".into(), "/bottom".into()],
            Path::new("/u"),
            Path::new("/w"),
        );
        assert_eq!(
            spec.options,
            ["lowerdir=/a\\:b/top:/bottom", "upperdir=/u", "workdir=/w"]
        );
    }
}
