//! A root file system of layers: partitions of a disk below a writable directory of the host's.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use atoll_guest::protocol::{Layers, ROOTFS, UPPER};
use atoll_sys::block;
use rustix::mount::{MountFlags, mount};

/// The disk with the layers.
const DISK: &str = "vda";
/// Where they are mounted: short, because the list of them all has to fit into a page.
const FOLDER: &str = "/l";
/// How often the disk is looked at.
const PAUSE: Duration = Duration::from_millis(1);
/// How many times.
const TURNS: u32 = 2000;

/// Mounts the layers and the overlay of them at [`ROOTFS`].
///
/// * `is_copy`: the machine was made of one that had another disk.
pub(super) fn mount_all(layers: Layers, is_copy: bool) -> Result<(), String> {
    if is_copy {
        look_again(layers.sectors)?;
    }
    let mut lowers = String::new();
    for number in 1..=layers.count {
        let (device, place) = (format!("/dev/{DISK}{number}"), format!("{FOLDER}/{number}"));
        fs::create_dir_all(&place).map_err(|error| format!("make {place}: {error}"))?;
        mount(&device, &place, "erofs", MountFlags::RDONLY, None)
            .map_err(|errno| format!("mount layer {number} from {device}: {errno}"))?;
        if number > 1 {
            lowers.push(':');
        }
        lowers.push_str(&place);
    }
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

/// Waits until the kernel knows that the disk is another, and has it read the new partition table.
fn look_again(sectors: u64) -> Result<(), String> {
    let size = Path::new("/sys/block").join(DISK).join("size");
    let is_new = || {
        let text = fs::read_to_string(&size).unwrap_or_default();
        text.trim().parse() == Ok(sectors)
    };
    // The change was told when the machine began; a worker of the kernel's deals with it.
    let mut turns = 0;
    while !is_new() {
        turns += 1;
        if turns > TURNS {
            return Err(format!(
                "the disk never had the {sectors} sectors it should have"
            ));
        }
        std::thread::sleep(PAUSE);
    }
    let path = Path::new("/dev").join(DISK);
    let disk = File::open(&path).map_err(|error| format!("open {}: {error}", path.display()))?;
    block::reread_partitions(disk.as_fd())
        .map_err(|errno| format!("read the partitions of {}: {errno}", path.display()))
}
