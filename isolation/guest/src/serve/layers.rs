//! A root file system of layers: partitions of a disk below a writable directory of the host's.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use atoll_guest::protocol::{Layers, ROOTFS, UPPER};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// The disk with the layers.
const DISK: &str = "vda";
/// Where they are mounted: short, because the list of them all has to fit into a page.
const FOLDER: &str = "/l";

/// What every container has mounted over it, below all layers: to make what an image lacks, the guest would have to ask
/// its host half a dozen times for each.
const PLACES: &str = "/run/atoll/places";
/// Folders there.
const FOLDERS: [&str; 4] = ["proc", "dev", "sys", "etc"];
/// Empty files there.
const FILES: [&str; 3] = ["etc/resolv.conf", "etc/hostname", "etc/hosts"];

/// Has the kernel read 32 KiB around a place of the disk, not 128: layers are read by executing what is in them, here and
/// there, and what is read around costs more than another request. Without a disk nothing is done.
pub(super) fn read_little() {
    let _ = fs::write(format!("/sys/block/{DISK}/queue/read_ahead_kb"), "32");
}

/// Makes the folders and files that lie below all layers.
///
/// # Errors
/// What cannot be made.
pub(super) fn make_places() -> io::Result<()> {
    let at = |name: &str| Path::new(PLACES).join(name);
    for name in FOLDERS {
        fs::create_dir_all(at(name))?;
        // Whatever the umask is.
        fs::set_permissions(at(name), Permissions::from_mode(0o755))?;
    }
    for name in FILES {
        File::create(at(name))?;
        fs::set_permissions(at(name), Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// Mounts the layers and the overlay of them at [`ROOTFS`].
pub(super) fn mount_all(layers: Layers) -> Result<(), String> {
    let mut lowers = String::new();
    for number in 1..=layers.count {
        let (device, place) = (format!("/dev/{DISK}{number}"), format!("{FOLDER}/{number}"));
        fs::create_dir_all(&place).map_err(|error| format!("make {place}: {error}"))?;
        mount(&device, &place, "erofs", MountFlags::RDONLY, None)
            .map_err(|errno| format!("mount layer {number} from {device}: {errno}"))?;
        lowers.push_str(&place);
        lowers.push(':');
    }
    lowers.push_str(PLACES);
    fs::create_dir_all(ROOTFS).map_err(|error| format!("make {ROOTFS}: {error}"))?;
    let options = format!("lowerdir={lowers},upperdir={UPPER}/diff,workdir={UPPER}/work");
    let options = std::ffi::CString::new(options).map_err(|error| error.to_string())?;
    mount(
        "overlay",
        ROOTFS,
        "overlay",
        MountFlags::empty(),
        Some(options.as_c_str()),
    )
    .map_err(|errno| format!("mount the overlay of {} layers: {errno}", layers.count))
}

/// Takes away what [`mount_all`] mounted.
pub(super) fn unmount_all(layers: Layers) -> Result<(), String> {
    let places = (1..=layers.count).map(|number| format!("{FOLDER}/{number}"));
    for place in std::iter::once(ROOTFS.to_owned()).chain(places) {
        unmount(&*place, UnmountFlags::empty())
            .map_err(|errno| format!("unmount {place}: {errno}"))?;
    }
    Ok(())
}
