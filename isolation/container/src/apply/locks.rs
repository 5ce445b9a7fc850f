//! What bind mounts in a user namespace must keep of their sources.
//!
//! The kernel refuses a container's root to lift these; the runtime, which mounts for it from outside, does the same.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use atoll_sys::Errno;
use atoll_sys::mount::Attributes;
use atoll_sys::rustix::fs::{StatVfsMountFlags, fstatvfs};

use crate::error::{Result, kernel};
use crate::plan::MountPlan;

/// What a mount in a user namespace keeps of the one it was copied from.
///
/// Kernel: mount_namespaces(7), "Restrictions on mount namespaces".
const LOCKS: [(Attributes, StatVfsMountFlags, &str); 4] = [
    (Attributes::RDONLY, StatVfsMountFlags::RDONLY, "ro"),
    (Attributes::NOSUID, StatVfsMountFlags::NOSUID, "nosuid"),
    (Attributes::NODEV, StatVfsMountFlags::NODEV, "nodev"),
    (Attributes::NOEXEC, StatVfsMountFlags::NOEXEC, "noexec"),
];

/// Whether the options of `mount` lift any.
pub(super) fn lifts(mount: &MountPlan) -> bool {
    let cleared = mount.clear | mount.clear_recursive;
    LOCKS.iter().any(|(lock, ..)| cleared.contains(*lock))
}

/// Those of a detached mount.
///
/// # Errors
/// The kernel's.
pub(super) fn of(detached: BorrowedFd<'_>) -> atoll_sys::Result<Attributes> {
    let flags = fstatvfs(detached)?.f_flag;
    let set = LOCKS.iter().filter(|(_, flag, _)| flags.contains(*flag));
    Ok(set.fold(Attributes::empty(), |all, (lock, ..)| all | *lock))
}

/// Refuses that a mount of `source` has lost locks.
///
/// # Errors
/// [`crate::Error::Kernel`] naming them.
pub(super) fn refuse_lifted(lifted: Attributes, source: &CStr, destination: &CStr) -> Result<()> {
    if lifted.is_empty() {
        return Ok(());
    }
    let named = LOCKS.iter().filter(|(lock, ..)| lifted.contains(*lock));
    let words: Vec<&str> = named.map(|(.., word)| *word).collect();
    let (source, destination) = (source.to_string_lossy(), destination.to_string_lossy());
    let words = words.join(", ");
    let step = format!(
        "mount {source} → {destination} without {words}, which its source has and a user namespace keeps"
    );
    Err(kernel(step, Errno::PERM))
}
