//! What the machine is shown of the host: a directory of mounts that only this process and its monitor see.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use atoll_container::{RootfsMount, open_rootfs};
use atoll_guest::protocol::MEMBERS;
use atoll_sys::mount::{self, Attributes, Change, Propagation};
use atoll_sys::namespace;
use rustix::fs::CWD;
use rustix::mount::{UnmountFlags, unmount};

use super::plan::Bind;
use crate::failure::Failure;

/// Folders of a machine in its bundle.
#[derive(Clone)]
pub(crate) struct Folders {
    /// All of them.
    pub(crate) all: PathBuf,
    /// Sockets: the monitor sees this one.
    pub(crate) sockets: PathBuf,
    /// The share.
    pub(crate) share: PathBuf,
}

impl Folders {
    /// Makes them, for root only.
    pub(crate) fn make(bundle: &Path) -> Result<Self, Failure> {
        let all = bundle.join("machine");
        let folders = Self {
            sockets: all.join("sockets"),
            share: all.join("share"),
            all,
        };
        for folder in [&folders.all, &folders.sockets, &folders.share] {
            let made = DirBuilder::new().mode(0o700).recursive(true).create(folder);
            made.map_err(failed(format!("make {}", folder.display())))?;
        }
        Ok(folders)
    }
}

/// A share that is filled; dropped, only its monitor has what it shows.
pub(crate) struct Shown(PathBuf);

impl Drop for Shown {
    fn drop(&mut self) {
        // It is in a mount namespace that ends with this process.
        let _ = unmount(&self.0, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    }
}

impl Shown {
    /// Fills the share: `rootfs`, if it comes from there, and `binds/N`. The mounts are in a mount namespace of our own from
    /// now on, so they go with this process and the monitor, whatever becomes of either.
    ///
    /// * `grows`: what is mounted there later ([`add`]) is for the monitor to see.
    pub(crate) fn fill(
        share: &Path,
        rootfs: Option<(&Path, &[RootfsMount])>,
        binds: &[Bind],
        grows: bool,
    ) -> Result<Self, Failure> {
        // A source may be a descriptor of the engine's, which leads into its mount namespace.
        let sources = open(binds)?;
        namespace::unshare(libc::CLONE_NEWNS)
            .map_err(|errno| failed("make a mount namespace")(errno.into()))?;
        // Mounts of others go on to appear here, ours stay here.
        set(c"/", true, &Change::propagation(Propagation::Slave))
            .map_err(failed("keep mounts apart"))?;
        let root = rootfs.map(|(folder, mounts)| open_rootfs(folder, mounts));
        let root = root.transpose()?;
        let tmpfs = mount::new_filesystem(c"tmpfs", [], Attributes::NOSUID | Attributes::NODEV)
            .map_err(|errno| failed("make the share")(errno.into()))?;
        attach(&tmpfs, share).map_err(failed("mount the share"))?;
        let shown = Self(share.to_owned());
        if grows {
            let shared = Change::propagation(Propagation::Shared);
            c_path(share)
                .and_then(|share| set(&share, false, &shared))
                .map_err(failed("let the share grow"))?;
            fs::create_dir(share.join(MEMBERS)).map_err(failed("make the share"))?;
        }
        put(share, root, sources)?;
        Ok(shown)
    }
}

/// Adds the folder `name` with `rootfs` and `binds/N` of a container to a share that grows.
pub(crate) fn add(
    share: &Path,
    name: &str,
    rootfs: (&Path, &[RootfsMount]),
    binds: &[Bind],
) -> Result<(), Failure> {
    let folder = share.join(MEMBERS).join(name);
    let root = open_rootfs(rootfs.0, rootfs.1)?;
    // As the monitor has what was there when it was started.
    let plain = Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC;
    let change = Change::attributes(plain, Attributes::empty());
    mount::set_attributes(root.as_fd(), c"", true, &change)
        .map_err(|errno| failed("shut the root file system in")(errno.into()))?;
    fs::create_dir(&folder).map_err(failed("make the share"))?;
    let added = open(binds).and_then(|sources| put(&folder, Some(root), sources));
    if added.is_err() {
        remove(share, name);
    }
    added
}

/// Takes the folder `name` out again. The guest cannot change the folders, only what is mounted in them.
pub(crate) fn remove(share: &Path, name: &str) {
    let folder = share.join(MEMBERS).join(name);
    let binds = folder.join("binds");
    let shown = fs::read_dir(&binds).into_iter().flatten().flatten();
    let mut places: Vec<_> = shown.map(|entry| entry.path()).collect();
    places.push(folder.join("rootfs"));
    for place in &places {
        // One that is not mounted, because adding it failed, is as good.
        let _ = unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        let _ = fs::remove_dir(place).or_else(|_| fs::remove_file(place));
    }
    if let Err(error) = fs::remove_dir(&binds).and_then(|()| fs::remove_dir(&folder)) {
        crate::report(format_args!("cannot remove {}: {error}", folder.display()));
    }
}

/// What is to be shown as one of `binds/N`.
struct Source<'a> {
    path: &'a Path,
    tree: OwnedFd,
    is_directory: bool,
}

fn open(binds: &[Bind]) -> Result<Vec<Source<'_>>, Failure> {
    let opened = binds.iter().map(|bind| {
        let (tree, is_directory) = clone(bind).map_err(cannot_show(&bind.source))?;
        Ok(Source {
            path: &bind.source,
            tree,
            is_directory,
        })
    });
    opened.collect()
}

fn put(folder: &Path, root: Option<OwnedFd>, sources: Vec<Source<'_>>) -> Result<(), Failure> {
    if let Some(root) = root {
        let place = folder.join("rootfs");
        fs::create_dir(&place)
            .and_then(|()| attach(&root, &place))
            .map_err(failed("mount the root file system"))?;
    }
    let folder = folder.join("binds");
    fs::create_dir(&folder).map_err(failed("make the share"))?;
    for (number, source) in sources.iter().enumerate() {
        let place = folder.join(number.to_string());
        show(source, &place).map_err(cannot_show(source.path))?;
    }
    Ok(())
}

fn cannot_show(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    failed(format!("show {}", path.display()))
}

/// A copy of a bind's mounts that is mounted nowhere yet, and whether it is a directory.
fn clone(bind: &Bind) -> io::Result<(OwnedFd, bool)> {
    let source = c_path(&bind.source)?;
    let tree = mount::clone_tree(CWD, &source, bind.recursive, false)?;
    let mut attributes = Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC;
    attributes.set(Attributes::RDONLY, bind.read_only);
    let change = Change::attributes(attributes, Attributes::empty());
    mount::set_attributes(tree.as_fd(), c"", bind.recursive, &change)?;
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&tree)?.st_mode);
    Ok((tree, kind.is_dir()))
}

fn show(source: &Source<'_>, place: &Path) -> io::Result<()> {
    if source.is_directory {
        fs::create_dir(place)?;
    } else {
        File::create_new(place)?;
    }
    attach(&source.tree, place)
}

fn attach(tree: &OwnedFd, place: &Path) -> io::Result<()> {
    Ok(mount::attach_at(tree.as_fd(), &c_path(place)?)?)
}

fn set(path: &std::ffi::CStr, recursive: bool, change: &Change) -> io::Result<()> {
    let here: BorrowedFd<'_> = CWD;
    Ok(mount::set_attributes(here, path, recursive, change)?)
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Puts what failed in front of why.
pub(crate) fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
    let what = what.into();
    move |error| Failure::unknown(format!("cannot {what}: {error}"))
}
