//! Where a destination of the configuration is in the container, symlinks followed: CRIU knows mounts by that.

use std::ffi::CString;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use atoll_sys::inside;
use atoll_sys::rustix::fs::OFlags;

/// `destination` below `root` with every symlink on its way followed inside of `root`; what isn't there stays as it is.
pub(super) fn resolve(root: BorrowedFd<'_>, destination: &Path) -> PathBuf {
    let mut rest = PathBuf::new();
    let mut existing = destination;
    loop {
        if let Some(found) = named(root, existing) {
            return if rest.as_os_str().is_empty() {
                found
            } else {
                found.join(rest)
            };
        }
        let (Some(parent), Some(name)) = (existing.parent(), existing.file_name()) else {
            return destination.to_owned();
        };
        rest = if rest.as_os_str().is_empty() {
            name.into()
        } else {
            Path::new(name).join(rest)
        };
        existing = parent;
    }
}

fn named(root: BorrowedFd<'_>, path: &Path) -> Option<PathBuf> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let file = inside::open(root, &path, OFlags::PATH).ok()?;
    let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    std::fs::read_link(link).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use atoll_sys::mount;
    use atoll_sys::rustix::fs::CWD;

    use super::*;

    #[test]
    fn links_are_followed_inside_the_root_and_missing_names_stay() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("real/conf")).unwrap();
        symlink("/real/conf", folder.path().join("conf")).unwrap();
        symlink("../../..", folder.path().join("real/up")).unwrap();
        let path = CString::new(folder.path().as_os_str().as_bytes()).unwrap();
        let root = mount::clone_tree(CWD, &path, true, false).unwrap();
        for (destination, place) in [
            ("/conf", "/real/conf"),
            ("/conf/a/b", "/real/conf/a/b"),
            ("/real/up/conf", "/real/conf"),
            ("/none/at/all", "/none/at/all"),
            ("/", "/"),
        ] {
            assert_eq!(
                resolve(root.as_fd(), Path::new(destination)),
                Path::new(place)
            );
        }
    }
}
