//! What the kernel's overlay file system is told.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

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
