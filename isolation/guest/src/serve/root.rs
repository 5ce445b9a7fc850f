//! The agent's own root file system.

use std::fs;
use std::os::unix::fs::symlink;

use atoll_guest::protocol::{POD_SHM, SHARE, SHARE_TAG, UPPER, UPPER_TAG};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_move, unmount};
use rustix::process::{chdir, chroot};

use super::layers;
use crate::{Failure, mounts};

/// Where control groups are.
pub(super) const CGROUPS: &str = "/sys/fs/cgroup";
/// Where the new root is made.
const NEW: &str = "/new";

/// Leaves the initial ramdisk for a tmpfs, because nothing can pivot_root(2) away from the ramdisk; then mounts what a
/// container needs of its host, and the share with its files.
///
/// # Errors
/// The step that failed.
pub(crate) fn enter_root() -> Result<(), Failure> {
    let step = || Failure::of("leave the initial ramdisk");
    fs::create_dir_all(NEW).map_err(Failure::of("make the new root"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", NEW, "tmpfs", flags, c"mode=0755").map_err(step())?;
    // Its files are memory; the agent's own stays, since it runs.
    let _ = fs::remove_dir_all("/modules");
    chdir(NEW).map_err(step())?;
    mount_move(".", "/").map_err(step())?;
    chroot(".").map_err(step())?;
    chdir("/").map_err(step())?;
    mounts::mount_all()?;
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        let _ = symlink(target, format!("/dev/{name}"));
    }
    let plain = flags | MountFlags::NOEXEC;
    mount("cgroup2", CGROUPS, "cgroup2", plain, None)
        .map_err(Failure::of(format!("mount {CGROUPS}")))?;
    // Every container's would do the same, and copies of a machine have it behind them.
    let controllers =
        fs::read_to_string(format!("{CGROUPS}/cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        // One that this kernel does not hand on is missed by who asks for it.
        let _ = fs::write(
            format!("{CGROUPS}/cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
    layers::read_little();
    layers::make_places().map_err(Failure::of("make places for mounts"))?;
    mount_shares()
}

fn mount_shares() -> Result<(), Failure> {
    let plain = MountFlags::NOSUID | MountFlags::NODEV;
    // What is in the upper directory may be a device: a whiteout is one.
    for (tag, place, flags) in [
        (SHARE_TAG, SHARE, plain),
        (UPPER_TAG, UPPER, MountFlags::empty()),
    ] {
        fs::create_dir_all(place).map_err(Failure::of(format!("make {place}")))?;
        match mount(tag, place, "virtiofs", flags, None) {
            // The machine has no such share.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(Failure::of(format!("mount {place}"))(errno)),
        }
    }
    Ok(())
}

/// Mounts the shares anew, so that nothing is known of what is in them: in a copy of the machine they are others.
pub(super) fn forget_shares() -> Result<(), Failure> {
    for place in [SHARE, UPPER] {
        match unmount(place, UnmountFlags::empty()) {
            // The machine has no such share.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(Failure::of(format!("unmount {place}"))(errno)),
        }
    }
    mount_shares()
}

/// Makes the shared memory of a pod, of `bytes`.
pub(super) fn share_memory(bytes: u64) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("make {POD_SHM}: {error}");
    fs::create_dir_all(POD_SHM).map_err(failed)?;
    let options = std::ffi::CString::new(format!("mode=1777,size={bytes}"))
        .map_err(|error| error.to_string())?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("shm", POD_SHM, "tmpfs", flags, Some(options.as_c_str()))
        .map_err(|errno| failed(errno.into()))
}

/// Takes it away again, if it is there.
pub(super) fn unshare_memory() {
    let _ = unmount(POD_SHM, UnmountFlags::empty());
}

/// Has the shares' files written back to the host, those of mounts in them as well.
pub(super) fn write_back() {
    // What cannot be written now could not be later; the host sees what is there.
    rustix::fs::sync();
}
