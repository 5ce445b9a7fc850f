//! A container's own layer, the one it writes to.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, XattrFlags};

use crate::{
    LayerError, RootfsMountSpec,
    copy::{Xattrs, copy_attributes},
    error::store_error,
    extract::OPAQUE_XATTR,
    overlay_mount,
};

/// What a new writable layer starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WritableKind {
    /// Nothing: the container sees its image.
    Empty,
    /// The running system as image: these directories appear empty, whatever they hold.
    Host {
        /// Absolute paths, such as `/home`; those that aren't directories are left out.
        hidden: Vec<PathBuf>,
    },
}

/// `<container directory>/upper/{diff,work}`.
///
/// On a file system that overlay can't write to (another overlay, most network file systems) the
/// two are on a tmpfs that the system has, and `upper` is a symlink to there: the container runs,
/// its changes are kept in memory and end with the machine's uptime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WritableLayer {
    directory: PathBuf,
}

impl WritableLayer {
    /// Makes the layer for a container.
    ///
    /// * `container_dir`: exists, belongs to the container.
    /// * `lowers`: the image's directories, top first; the new root takes its attributes from
    ///   the first.
    ///
    /// # Errors
    /// [`LayerError::Store`] when a directory can't be made; what was made is removed.
    pub fn create(
        container_dir: &Path,
        lowers: &[PathBuf],
        kind: &WritableKind,
    ) -> Result<Self, LayerError> {
        let layer = Self::of(container_dir);
        let result = layer.fill(lowers, kind);
        if result.is_err() {
            // The first error is the one to tell.
            let _removed = layer.remove();
        }
        result.map(|()| layer)
    }

    /// The layer of a container made earlier.
    pub fn of(container_dir: &Path) -> Self {
        Self {
            directory: container_dir.join("upper"),
        }
    }

    /// What the container has changed; overlay's `upperdir`.
    pub fn diff(&self) -> PathBuf {
        self.directory.join("diff")
    }

    /// The kernel's own; overlay's `workdir`.
    pub fn work(&self) -> PathBuf {
        self.directory.join("work")
    }

    /// The root file system mount of a container with this layer on top of `lowers`.
    pub fn mount(&self, lowers: &[PathBuf]) -> RootfsMountSpec {
        overlay_mount(lowers, &self.diff(), &self.work())
    }

    /// Removes the layer and all in it; gone already is fine.
    ///
    /// # Errors
    /// [`LayerError::Store`] when something can't be removed.
    pub fn remove(&self) -> Result<(), LayerError> {
        if let Ok(elsewhere) = fs::read_link(&self.directory) {
            remove_tree(&elsewhere)?;
            return fs::remove_file(&self.directory)
                .map_err(store_error("remove", &self.directory));
        }
        remove_tree(&self.directory)
    }

    fn fill(&self, lowers: &[PathBuf], kind: &WritableKind) -> Result<(), LayerError> {
        match substitute_for(&self.directory)? {
            None => make_directory(&self.directory)?,
            Some(elsewhere) => {
                tracing::warn!(
                    path = %self.directory.display(), instead = %elsewhere.display(),
                    "overlay cannot write here; the container's changes stay in memory"
                );
                make_directory(&elsewhere)?;
                std::os::unix::fs::symlink(&elsewhere, &self.directory).map_err(|error| {
                    let _removed = fs::remove_dir(&elsewhere);
                    store_error("create", &self.directory)(error)
                })?;
            }
        }
        make_directory(&self.diff())?;
        make_directory(&self.work())?;
        let Some(top) = lowers.first() else {
            return Ok(());
        };
        let target = self.diff();
        let prepare = |errno| store_error("prepare", &target)(errno);
        let lower = open_directory(top).map_err(store_error("open", top))?;
        let upper = open_directory(&target).map_err(prepare)?;
        copy_attributes(lower.as_fd(), upper.as_fd(), Xattrs::NotOverlay).map_err(prepare)?;
        if let WritableKind::Host { hidden } = kind {
            // What is in a hidden directory is hidden with it, its name too.
            let is_inside = |path: &PathBuf| {
                hidden
                    .iter()
                    .any(|other| other != path && path.starts_with(other))
            };
            for path in hidden.iter().filter(|path| !is_inside(path)) {
                hide(&lower, &upper, path).map_err(store_error("hide", path))?;
            }
        }
        Ok(())
    }
}

fn make_directory(path: &Path) -> Result<(), LayerError> {
    rustix::fs::mkdir(path, Mode::RWXU).map_err(store_error("create", path))
}

fn remove_tree(path: &Path) -> Result<(), LayerError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(store_error("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// statfs(2) magic numbers of file systems that overlay refuses as upper: itself, and those
/// without `trusted.*` attributes or file types in directory entries.
const NO_UPPER: [i64; 6] = [
    0x794c_7630, // overlay
    0x6969,      // NFS
    0x6573_5546, // FUSE
    0x0102_1997, // 9p
    0x4d44,      // vfat
    0xff53_4d42, // CIFS
];
const TMPFS: i64 = 0x0102_1994;
/// Where a Linux system usually has a tmpfs.
const MEMORY_PLACES: [&str; 2] = ["/run", "/dev/shm"];

/// A directory on a tmpfs to take the place of `directory`, if overlay can't write there.
fn substitute_for(directory: &Path) -> Result<Option<PathBuf>, LayerError> {
    let parent = directory.parent().unwrap_or(directory);
    let magic = rustix::fs::statfs(parent)
        .map_err(store_error("look at", parent))?
        .f_type;
    if !NO_UPPER.contains(&magic) {
        return Ok(None);
    }
    let is_tmpfs = |place: &&&str| rustix::fs::statfs(**place).is_ok_and(|fs| fs.f_type == TMPFS);
    let place = MEMORY_PLACES
        .iter()
        .find(is_tmpfs)
        .ok_or_else(|| LayerError::NoUpper {
            path: parent.to_owned(),
        })?;
    // Unique as the container's directory is, and the same for every engine that finds it.
    let name = crate::Digest::of(directory.as_os_str().as_encoded_bytes()).short();
    Ok(Some(Path::new(place).join(format!("atoll-upper-{name}"))))
}

/// Makes `path` an empty opaque directory of `upper`, with the attributes it has in `lower`.
///
/// A symlink on the way is left as it is: it leads to a directory that is hidden itself if it
/// is in the list.
fn hide(lower: &OwnedFd, upper: &OwnedFd, path: &Path) -> Result<(), rustix::io::Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let mut relative = PathBuf::new();
    let mut made = Vec::new();
    for component in path.components() {
        let Component::Normal(name) = component else {
            continue;
        };
        relative.push(name);
        let Ok(source) = rustix::fs::openat2(lower, &relative, flags, Mode::empty(), beneath)
        else {
            return Ok(());
        };
        made.push((relative.clone(), source));
    }
    for (relative, source) in &made {
        match rustix::fs::mkdirat(upper, relative, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let target = rustix::fs::openat2(upper, relative, flags, Mode::empty(), beneath)?;
        copy_attributes(source.as_fd(), target.as_fd(), Xattrs::NotOverlay)?;
    }
    if let Some((relative, _)) = made.last() {
        let target = rustix::fs::openat2(upper, relative, flags, Mode::empty(), beneath)?;
        rustix::fs::fsetxattr(&target, OPAQUE_XATTR, b"y", XattrFlags::empty())?;
    }
    Ok(())
}

fn open_directory(path: &Path) -> Result<OwnedFd, rustix::io::Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}
