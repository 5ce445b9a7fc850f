//! The root of a container that does not run: its layers, with what is mounted in it when it does.

use std::{
    ffi::CString,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use atoll_files::Ids;
use atoll_layer::WritableLayer;
use atoll_sys::{
    Errno, inside,
    mount::{self, Attributes, Change, Propagation},
    namespace,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};

use crate::{
    container::{Record, create::lowers, volumes::Subpaths},
    engine::EngineRef,
    error::{Error, ErrorKind, Result},
};

/// clone(2)'s flag for a mount namespace of one's own.
const NEW_MOUNTS: i32 = 0x0002_0000;
/// What the engine puts into `/etc` of every container.
const FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// Puts a container's root together in a new mount namespace of the calling thread, and opens it. It is gone with the thread.
///
/// * The calling thread does nothing else before it ends.
/// * The container's volumes are mounted.
///
/// # Errors
/// 500 with the kernel's words; 409 when its writable layer is gone.
pub(super) fn root(engine: &EngineRef, record: &Record) -> Result<(OwnedFd, Ids)> {
    let directory = engine.paths.container(&record.id);
    let writable = WritableLayer::of(&directory);
    if !writable.diff().is_dir() {
        return Err(Error::conflict(format!(
            "container {}: its writable layer {} is gone, it was in memory",
            record.id,
            writable.diff().display()
        )));
    }
    let overlay = atoll_layer::open_rootfs(&lowers(engine, record), Some(&writable))
        .map_err(|error| Error::caused(ErrorKind::Internal, "", &error))?;
    let trees = trees(record, &directory)?;
    let failed = |errno: Errno| {
        let context = "cannot put the container's root together";
        Error::caused(ErrorKind::Internal, context, &std::io::Error::from(errno))
    };
    namespace::unshare(NEW_MOUNTS).map_err(failed)?;
    let alone = Change::propagation(Propagation::Private);
    mount::set_attributes(CWD, c"/", true, &alone).map_err(failed)?;
    // Any folder that is there: nobody else sees what is mounted on it.
    let place = c_path(&directory).map_err(failed)?;
    mount::attach_at(overlay.as_fd(), &place).map_err(failed)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, &directory, flags, Mode::empty()).map_err(failed)?;
    for (tree, destination) in trees {
        attach(&root, &tree, &destination).map_err(|errno| {
            let context = format!("cannot mount {destination} for copying");
            Error::caused(ErrorKind::Internal, context, &std::io::Error::from(errno))
        })?;
    }
    if record.host_config.readonly_rootfs {
        let read_only = Change::attributes(Attributes::RDONLY, Attributes::empty());
        mount::set_attributes(root.as_fd(), c"", false, &read_only).map_err(failed)?;
    }
    Ok((root, Ids::Same))
}

/// Copies of what is mounted in the container, mounted nowhere, and their places, what lies higher first.
fn trees(record: &Record, directory: &Path) -> Result<Vec<(OwnedFd, String)>> {
    let subpaths = Subpaths::open(record)?;
    let mut trees = Vec::new();
    for name in FILES {
        let destination = format!("/etc/{name}");
        if record
            .mounts
            .iter()
            .all(|point| point.destination != destination)
            && let Ok(tree) = clone(CWD, &directory.join(name), true)
        {
            trees.push((tree, destination));
        }
    }
    for point in &record.mounts {
        let tree = match subpaths.get(point) {
            Some(place) => clone(place.as_fd(), Path::new(""), point.rw),
            None => clone(CWD, Path::new(&point.source), point.rw),
        };
        match tree {
            Ok(tree) => trees.push((tree, point.destination.clone())),
            // A bind mount whose source has gone.
            Err(Errno::NOENT) => {}
            Err(errno) => {
                let context = format!("cannot show {} for copying", point.source);
                return Err(Error::caused(
                    ErrorKind::Internal,
                    context,
                    &std::io::Error::from(errno),
                ));
            }
        }
    }
    trees.sort_by_key(|(_, destination)| destination.matches('/').count());
    Ok(trees)
}

fn clone(
    at: std::os::fd::BorrowedFd<'_>,
    path: &Path,
    is_writable: bool,
) -> Result<OwnedFd, Errno> {
    let tree = mount::clone_tree(at, &c_path(path)?, true, false)?;
    if !is_writable {
        let read_only = Change::attributes(Attributes::RDONLY, Attributes::empty());
        mount::set_attributes(tree.as_fd(), c"", true, &read_only)?;
    }
    Ok(tree)
}

/// Attaches a tree at its place inside the root, which is made when it is missing, as a start does.
fn attach(root: &OwnedFd, tree: &OwnedFd, destination: &str) -> Result<(), Errno> {
    let missing = match FileType::from_raw_mode(fstat(tree)?.st_mode) {
        FileType::Directory => inside::Missing::Folder,
        _ => inside::Missing::File,
    };
    let path = c_path(Path::new(destination))?;
    let place = inside::open_or_make(root.as_fd(), &path, missing)?;
    mount::attach(tree.as_fd(), place.as_fd())
}

fn c_path(path: &Path) -> Result<CString, Errno> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)
}
