//! What the image has at a volume's place is copied into the volume when it is new.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::PoisonError,
};

use rustix::fs::{CWD, Mode, OFlags};

use super::{Volume, Volumes};
use crate::{
    container::rootfs::Rootfs,
    error::{Error, ErrorKind, Result},
};

/// Copies the folder that `root` has at `destination` into an empty volume: content, owners, modes, attributes, times, links.
///
/// Symlinks on the way to it are resolved inside `root`; none in it is followed. Where `container` alone has the volume, the
/// copy takes the volume's place by one rename, so that a killed engine leaves no half of it.
///
/// # Errors
/// 400 when the image has a file there; 500 when it can't be copied, and the volume is then empty as before.
pub(crate) fn populate(
    volumes: &Volumes,
    volume: &Volume,
    container: &str,
    root: &Rootfs,
    destination: &str,
) -> Result<()> {
    let _filling = volume
        .filling
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let failed = |error: io::Error| {
        let context = format!(
            "cannot copy the image's {destination} into volume {}",
            volume.record().name
        );
        Error::caused(ErrorKind::Internal, context, &error)
    };
    let data = volume.data();
    if fs::read_dir(&data).map_err(failed)?.next().is_some() {
        return Ok(());
    }
    let Some(source) = root.directory(destination)? else {
        return Ok(());
    };
    if volume.needs_mount() {
        return copy(source, &data).map_err(|error| {
            clear(&data);
            failed(error)
        });
    }
    let staging = volume.staging();
    let copied = fs::create_dir(&staging).and_then(|()| copy(source, &staging));
    let placed = copied.and_then(|()| {
        let place = || fs::rename(&staging, &data);
        match volumes.while_alone(&volume.record().name, container, place) {
            Some(placed) => placed,
            // Another container has its folder mounted, perhaps.
            None => {
                let root = open(&staging)?;
                copy(root, &data)
            }
        }
    });
    let _ = fs::remove_dir_all(&staging);
    placed.map_err(failed)
}

/// Copies on a thread with room for a tree as deep as a path can be.
fn copy(source: OwnedFd, target: &Path) -> io::Result<()> {
    let target = open(target)?;
    let copy = move || atoll_layer::copy_directory(source.as_fd(), target.as_fd());
    let thread = std::thread::Builder::new().stack_size(32 << 20);
    let copied = thread.spawn(copy)?.join();
    let copied = copied.map_err(|_| io::Error::other("the copying thread failed"))?;
    Ok(copied?)
}

fn clear(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let _ = match is_directory {
            true => fs::remove_dir_all(entry.path()),
            false => fs::remove_file(entry.path()),
        };
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}
