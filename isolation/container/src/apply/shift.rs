//! Root file systems whose ids are shifted, so that what root owns on disk the container's root owns inside.
//!
//! Asked for by options of the root file system's mount, `uidmap=0:100000:65536` and `gidmap=…`, as containerd's
//! snapshotters write them. Overlay itself can't be shifted, its layers can: Linux 5.19.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use atoll_spec::IdMapping;
use atoll_sys::mount::{self, Change};
use atoll_sys::rustix::fs::{CWD, Mode, OFlags, fstat, openat, readlinkat};
use atoll_sys::{Errno, Result as Outcome, filesystem_user, namespace};

use crate::error::{Error, Result, kernel};
use crate::plan::map_text;

/// How ids on disk are seen by the container's user namespace.
#[derive(Debug)]
pub(crate) struct IdShift {
    namespace: OwnedFd,
    /// User and group on the host of the container's root.
    root: (u32, u32),
}

/// Whether an option of a mount is one of those [`IdShift::of`] reads.
pub(crate) fn is_option(option: &str) -> bool {
    option.starts_with("uidmap=") || option.starts_with("gidmap=")
}

impl IdShift {
    /// What the options of a mount ask for.
    ///
    /// # Errors
    /// [`Error::Plan`] for text that is no mapping, [`Error::File`] for a mapping the kernel refuses.
    pub(crate) fn of(options: &[String]) -> Result<Option<Self>> {
        let value = |key: &str| options.iter().find_map(|option| option.strip_prefix(key));
        let (uids, gids) = match (value("uidmap="), value("gidmap=")) {
            (None, None) => return Ok(None),
            (Some(uids), Some(gids)) => (mappings(uids)?, mappings(gids)?),
            _ => return wrong("uidmap and gidmap go together".to_owned()),
        };
        let root = (root_of(&uids)?, root_of(&gids)?);
        let made = namespace::user_namespace(&map_text(&uids), &map_text(&gids));
        let namespace = made.map_err(|source| Error::File {
            action: "make the id mapping of",
            path: "rootfs".into(),
            source,
        })?;
        Ok(Some(Self { namespace, root }))
    }

    /// Makes a superblock of shifted folders, as the container's root: what it makes in them has an owner there.
    ///
    /// # Errors
    /// Those of `make`.
    pub(crate) fn as_root<T>(&self, make: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        filesystem_user::acting_as(self.root.0, self.root.1, make)
    }

    /// Shifts ids on a detached mount.
    ///
    /// * `name`: of what is mounted, for errors.
    ///
    /// # Errors
    /// [`Error::Kernel`]; `EINVAL` for file systems that can't.
    pub(crate) fn mount(&self, mount: BorrowedFd<'_>, recursive: bool, name: &str) -> Result<()> {
        let change = Change::idmap(self.namespace.as_fd());
        mount::set_attributes(mount, c"", recursive, &change)
            .map_err(|errno| kernel(format!("idmap rootfs {name}"), errno))
    }

    /// A folder, as a detached mount whose ids are shifted.
    ///
    /// # Errors
    /// As [`Self::mount`].
    pub(crate) fn layer(&self, folder: BorrowedFd<'_>) -> Result<OwnedFd> {
        let name = path_of(folder)?;
        let copy = mount::clone_tree(folder, c"", false, false);
        let copy = copy.map_err(|errno| kernel(format!("open layer {}", name.display()), errno))?;
        self.mount(copy.as_fd(), false, &name.display().to_string())?;
        Ok(copy)
    }

    /// The writable folder of an overlay and the one it works in, below one mount whose ids are shifted: the last of the
    /// three, which must be kept until the overlay is made.
    ///
    /// # Errors
    /// As [`Self::mount`]; [`Error::Plan`] when they have no folder in common but the root.
    pub(crate) fn pair(&self, upper: BorrowedFd<'_>, work: BorrowedFd<'_>) -> Result<[OwnedFd; 3]> {
        let paths = (path_of(upper)?, path_of(work)?);
        let common = common(&paths.0, &paths.1);
        if common == Path::new("/") {
            return wrong(format!(
                "the folders {} and {} have no other in common",
                paths.0.display(),
                paths.1.display()
            ));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let described = |errno| kernel(format!("open {}", common.display()), errno);
        let folder = openat(CWD, &common, flags, Mode::empty()).map_err(described)?;
        let mount = self.layer(folder.as_fd())?;
        let again = |path: &Path, was: BorrowedFd<'_>| -> Result<OwnedFd> {
            let below = path.strip_prefix(&common).unwrap_or(path);
            let open = || {
                let found = openat(&mount, below, flags | OFlags::NOFOLLOW, Mode::empty())?;
                let (was, is) = (fstat(was)?, fstat(&found)?);
                // Another mount in between, or somebody moved it.
                let is_same = (was.st_dev, was.st_ino) == (is.st_dev, is.st_ino);
                is_same.then_some(found).ok_or(Errno::XDEV)
            };
            open().map_err(|errno| kernel(format!("open {}", path.display()), errno))
        };
        let (upper, work) = (again(&paths.0, upper)?, again(&paths.1, work)?);
        Ok([upper, work, mount])
    }
}

/// `0:100000:65536,…`.
fn mappings(text: &str) -> Result<Vec<IdMapping>> {
    let mut out = Vec::new();
    for map in text.split(',') {
        let numbers: Option<Vec<u32>> = map.split(':').map(|word| word.parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[container_id, host_id, size]) if size > 0 => out.push(IdMapping {
                container_id,
                host_id,
                size,
            }),
            _ => return wrong(format!("{map:?} is no mapping such as 0:100000:65536")),
        }
    }
    Ok(out)
}

fn root_of(list: &[IdMapping]) -> Result<u32> {
    let root = list.iter().find(|map| map.container_id == 0);
    match root {
        Some(map) => Ok(map.host_id),
        None => wrong("uidmap and gidmap must map 0".to_owned()),
    }
}

fn wrong<T>(reason: String) -> Result<T> {
    Err(Error::Plan {
        field: "rootfs".to_owned(),
        reason,
    })
}

fn path_of(folder: BorrowedFd<'_>) -> Result<PathBuf> {
    let name = format!("/proc/self/fd/{}", folder.as_raw_fd());
    let path = readlinkat(CWD, name.as_str(), Vec::new());
    let path = path.map_err(|errno| kernel("look at a folder of the rootfs", errno))?;
    Ok(OsString::from_vec(path.into_bytes()).into())
}

fn common(one: &Path, other: &Path) -> PathBuf {
    let pairs = one.components().zip(other.components());
    let same = pairs.take_while(|(one, other)| one == other);
    same.map(|(part, _)| part).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn options(list: &[&str]) -> Vec<String> {
        list.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn mappings_are_read_or_refused() {
        assert!(IdShift::of(&options(&["ro"])).unwrap().is_none());
        let text = map_text(&mappings("0:7:1,1:100000:65535").unwrap());
        assert_eq!(text, "0 7 1\n1 100000 65535\n");
        for bad in ["", "0:1", "0:1:0", "a:1:1", "0:1:1:1", "0:-1:1", "0:1:1,"] {
            let list = options(&[&format!("uidmap={bad}"), "gidmap=0:1:1"]);
            let said = IdShift::of(&list).unwrap_err().to_string();
            assert!(said.contains("is no mapping"), "{bad}: {said}");
        }
        let half = IdShift::of(&options(&["uidmap=0:1:1"])).unwrap_err();
        assert_eq!(half.to_string(), "rootfs: uidmap and gidmap go together");
        let rootless = IdShift::of(&options(&["uidmap=1:1:1", "gidmap=0:1:1"])).unwrap_err();
        assert_eq!(rootless.to_string(), "rootfs: uidmap and gidmap must map 0");
    }

    #[test]
    fn both_folders_are_below_one_shifted_mount() {
        let list = options(&["uidmap=0:600000:10", "gidmap=0:700000:10"]);
        let shift = IdShift::of(&list).unwrap().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        fs::create_dir_all(place("c/diff")).unwrap();
        fs::create_dir(place("c/work")).unwrap();
        let open = |name: &str| File::open(place(name)).unwrap();
        let [upper, work, _mount] = shift
            .pair(open("c/diff").as_fd(), open("c/work").as_fd())
            .unwrap();
        let facts = fstat(&upper).unwrap();
        assert_eq!((facts.st_uid, facts.st_gid), (600_000, 700_000));
        assert_eq!(fstat(&work).unwrap().st_uid, 600_000);
        assert_eq!(open("c/diff").metadata().unwrap().uid(), 0);
        // By a link to elsewhere the descriptors are what counts.
        symlink(place("c"), place("link")).unwrap();
        shift
            .pair(open("link/diff").as_fd(), open("c/work").as_fd())
            .unwrap();
        let proc = File::open("/proc").unwrap();
        assert!(shift.layer(proc.as_fd()).is_err());
        assert!(shift.pair(proc.as_fd(), open("c/work").as_fd()).is_err());
    }
}
