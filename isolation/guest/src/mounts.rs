//! The file systems every guest needs.

use std::fs;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use crate::Failure;

/// Mounts /proc, /sys, /dev, /dev/pts, /run and /tmp. What the kernel mounted already (/dev) stays.
pub(crate) fn mount_all() -> Result<(), Failure> {
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (kind, target, flags, data) in [
        ("proc", "/proc", plain, c""),
        ("sysfs", "/sys", plain, c""),
        ("devtmpfs", "/dev", MountFlags::NOSUID, c"mode=0755"),
        ("devpts", "/dev/pts", MountFlags::NOSUID, c"mode=0620,gid=5"),
        (
            "tmpfs",
            "/run",
            MountFlags::NOSUID | MountFlags::NODEV,
            c"mode=0755",
        ),
        (
            "tmpfs",
            "/tmp",
            MountFlags::NOSUID | MountFlags::NODEV,
            c"mode=1777",
        ),
    ] {
        let step = || format!("mount {target}");
        fs::create_dir_all(target).map_err(Failure::of(step()))?;
        match mount(kind, target, kind, flags, data) {
            Ok(()) | Err(Errno::BUSY) => {}
            Err(errno) => return Err(Failure::of(step())(errno)),
        }
    }
    Ok(())
}
