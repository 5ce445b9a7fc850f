//! Reading single files of a container's root file system, which its image or its processes may have made hostile.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use atoll_sys::overlay;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};

use super::users::{self, Identity};
use crate::error::{Error, ErrorKind, Result};

/// Longest passwd or group file that is read.
const MAX_BYTES: u64 = 4 << 20;

/// Where a container's files are looked up.
#[derive(Debug)]
pub(crate) enum Rootfs {
    /// One directory tree: a mounted overlay, or `/proc/<pid>/root`.
    Tree(OwnedFd),
    /// Layers that aren't mounted, top first.
    Layers(Vec<PathBuf>),
}

impl Rootfs {
    /// Layers joined as the container will see them, in a mount nobody else sees; top first, at least two.
    ///
    /// Where the kernel refuses that, the layers are searched one by one, which misses opaque directories only.
    pub(crate) fn of_layers(layers: Vec<PathBuf>) -> Self {
        let opened: io::Result<Vec<OwnedFd>> =
            layers.iter().map(|layer| open_directory(layer)).collect();
        let Ok(opened) = opened else {
            return Self::Layers(layers);
        };
        let lowers: Vec<_> = opened.iter().map(AsFd::as_fd).collect();
        match overlay::mount_detached(&lowers, None, overlay::Options::default()) {
            Ok(mount) => Self::Tree(mount),
            Err(error) => {
                tracing::debug!(%error, "no overlay for reading; layers are searched");
                Self::Layers(layers)
            }
        }
    }

    /// The root of a running process.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn of_process(pid: u32) -> io::Result<Self> {
        process_root(pid).map(Self::Tree)
    }

    /// Reads `path` (relative), empty when there is none. Symlinks are resolved inside the root.
    ///
    /// # Errors
    /// When it can't be read, isn't a regular file or is too long.
    pub(crate) fn read(&self, path: &str) -> io::Result<String> {
        match self {
            Self::Tree(root) => Ok(open(root, path)?.map(read).transpose()?.unwrap_or_default()),
            Self::Layers(layers) => {
                for layer in layers {
                    let Ok(root) = open_directory(layer) else {
                        continue;
                    };
                    if let Some(file) = open(&root, path)? {
                        return read(file);
                    }
                }
                Ok(String::new())
            }
        }
    }

    /// Opens the folder at `path`, none when there is nothing. Symlinks are resolved inside the root.
    ///
    /// # Errors
    /// 400 when something else than a folder is there; 500 when it can't be opened.
    pub(crate) fn directory(&self, path: &str) -> Result<Option<OwnedFd>> {
        let failed = |error: io::Error| {
            let context = format!("cannot open the image's {path}");
            Error::caused(ErrorKind::Internal, context, &error)
        };
        let find = |root: &OwnedFd| -> Result<Option<OwnedFd>> {
            let Some(place) = open_as(root, path, OFlags::PATH).map_err(failed)? else {
                return Ok(None);
            };
            let status = rustix::fs::fstat(&place).map_err(|errno| failed(errno.into()))?;
            if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
                return Err(Error::invalid(format!(
                    "cannot mount volume over existing file, file exists {path}"
                )));
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder = rustix::fs::openat(&place, ".", flags, Mode::empty());
            folder.map(Some).map_err(|errno| failed(errno.into()))
        };
        match self {
            Self::Tree(root) => find(root),
            Self::Layers(layers) => {
                for layer in layers {
                    let root = open_directory(layer).map_err(failed)?;
                    if let Some(found) = find(&root)? {
                        return Ok(Some(found));
                    }
                }
                Ok(None)
            }
        }
    }

    /// Resolves who a process runs as.
    ///
    /// # Errors
    /// 400 for unknown names; 500 when the files can't be read.
    pub(crate) fn identity(&self, spec: &str, extra: &[String]) -> Result<Identity> {
        let file = |path: &str| {
            self.read(path).map_err(|error| {
                Error::caused(
                    ErrorKind::Internal,
                    format!("cannot read the image's /{path}"),
                    &error,
                )
            })
        };
        users::resolve(spec, &file("etc/passwd")?, &file("etc/group")?, extra)
    }
}

/// The root of a running process, as it sees it: its mounts too.
///
/// # Errors
/// When it has ended.
pub(crate) fn process_root(pid: u32) -> io::Result<OwnedFd> {
    open_directory(Path::new(&format!("/proc/{pid}/root")))
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

fn open(root: &impl AsFd, path: &str) -> io::Result<Option<OwnedFd>> {
    // Never blocks on a fifo that lies there.
    open_as(
        root,
        path,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
    )
}

fn open_as(root: &impl AsFd, path: &str, flags: OFlags) -> io::Result<Option<OwnedFd>> {
    let flags = flags | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(file) => Ok(Some(file)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
            Ok(None)
        }
        // A whiteout is a device nobody serves.
        Err(rustix::io::Errno::NXIO | rustix::io::Errno::NODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn read(file: OwnedFd) -> io::Result<String> {
    let status = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    File::from(file)
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("file is too long"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symlinks_stay_inside() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(directory.path().join("passwd"), "outside").unwrap();
        std::os::unix::fs::symlink("../../passwd", root.join("etc/passwd")).unwrap();
        let rootfs = Rootfs::Tree(open_directory(&root).unwrap());
        assert_eq!(rootfs.read("etc/passwd").unwrap(), "");
        std::fs::write(root.join("passwd"), "inside").unwrap();
        assert_eq!(rootfs.read("etc/passwd").unwrap(), "inside");
        std::fs::create_dir(root.join("etc/group")).unwrap();
        assert!(rootfs.read("etc/group").is_err());
    }

    #[test]
    fn upper_layers_go_first() {
        let directory = tempfile::tempdir().unwrap();
        let layer = |name: &str, text: Option<&str>| {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.join("etc")).unwrap();
            if let Some(text) = text {
                std::fs::write(path.join("etc/passwd"), text).unwrap();
            }
            path
        };
        let layers = vec![
            layer("top", None),
            layer("middle", Some("m")),
            layer("low", Some("l")),
        ];
        assert_eq!(Rootfs::Layers(layers).read("etc/passwd").unwrap(), "m");
    }
}
