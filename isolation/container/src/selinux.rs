//! Whether the kernel has SELinux, and whether it knows a label.
//!
//! ```text
//! selinuxfs ──is_enabled──▶ HostFacts ──plan()──▶ labels of the process, its keyring and mounts
//!     └──check (before anything is made): no label that its policy does not know
//! ```
//!
//! Found as libselinux and go-selinux do: a selinuxfs that may be written to, and a policy in the kernel.

use std::ffi::{CStr, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use atoll_sys::Errno;
use atoll_sys::rustix::fs::statfs;

use crate::error::{Result, kernel};
use crate::plan::ContainerPlan;

/// Where selinuxfs is on nearly every system.
const USUAL_PLACE: &str = "/sys/fs/selinux";
/// Kernel: include/uapi/linux/magic.h.
const SELINUX_MAGIC: u32 = 0xF97C_FF8C;
/// statfs(2), `ST_RDONLY`.
const READ_ONLY: u64 = 1;
/// The label of processes as long as no policy is loaded.
const UNLABELLED: &[u8] = b"kernel";

/// Whether processes and files can be labelled.
#[must_use]
pub(crate) fn is_enabled() -> bool {
    if place().is_none() {
        return false;
    }
    let own = fs::read("/proc/thread-self/attr/current").unwrap_or_default();
    own.strip_suffix(b"\0").unwrap_or(&own) != UNLABELLED
}

/// Asks the loaded policy about the labels of `plan`; nothing is asked without any.
///
/// # Errors
/// [`crate::Error::Kernel`] naming the first it does not know.
pub(crate) fn check_labels(plan: &ContainerPlan) -> Result<()> {
    check("process", plan.process.selinux_label.as_deref())?;
    check("mount", plan.mount_label.as_deref())
}

/// Asks the loaded policy about a label.
///
/// * `what`: whose it is, for the error in runc's words.
///
/// # Errors
/// [`crate::Error::Kernel`] when it does not know it.
pub(crate) fn check(what: &str, label: Option<&CStr>) -> Result<()> {
    let Some(label) = label else {
        return Ok(());
    };
    // Nothing is looked at without a label: a container's start is counted in system calls.
    let Some(place) = place() else {
        return Ok(());
    };
    match fs::write(place.join("context"), label.to_bytes_with_nul()) {
        // Whoever may not ask is told when the label is used.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            let label = label.to_string_lossy();
            Err(kernel(format!("can't set {what} label {label}"), errno))
        }
        Ok(()) => Ok(()),
    }
}

/// Where selinuxfs is mounted.
fn place() -> Option<PathBuf> {
    let usual = Path::new(USUAL_PLACE);
    if is_selinuxfs(usual) {
        return Some(usual.to_owned());
    }
    let known = fs::read_to_string("/proc/filesystems").ok()?;
    if !known.lines().any(|line| line == "nodev\tselinuxfs") {
        return None;
    }
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    places(&mounts).find(|place| is_selinuxfs(place))
}

/// Whether `place` is a selinuxfs that may be written to.
fn is_selinuxfs(place: &Path) -> bool {
    statfs(place).is_ok_and(|found| {
        // The kernel's word is 32 bits wide, its type in C is not.
        let kind = u32::try_from(found.f_type).unwrap_or(0);
        let flags = u64::try_from(found.f_flags).unwrap_or(0);
        kind == SELINUX_MAGIC && flags & READ_ONLY == 0
    })
}

/// Mountpoints of selinuxfs by mountinfo (proc_pid_mountinfo(5)).
fn places(mountinfo: &[u8]) -> impl Iterator<Item = PathBuf> {
    mountinfo.split(|&byte| byte == b'\n').filter_map(|line| {
        let text = OsStr::from_bytes(line).to_string_lossy();
        let (_, kind) = text.split_once(" - ")?;
        let place = line.split(|&byte| byte == b' ').nth(4)?;
        kind.starts_with("selinuxfs ")
            .then(|| PathBuf::from(std::ffi::OsString::from_vec(place.to_vec())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selinuxfs_is_found_by_mountinfo() {
        let mounts = b"22 27 0:20 / /sys rw shared:7 - sysfs sysfs rw\n\
            30 22 0:21 / /selinux rw - selinuxfs selinuxfs rw\n\
            31 22 0:22 / /selinuxfs rw - tmpfs selinuxfs rw\n";
        let found: Vec<_> = places(mounts).collect();
        assert_eq!(found, [PathBuf::from("/selinux")]);
    }

    #[test]
    fn other_file_systems_are_none() {
        assert!(!is_selinuxfs(Path::new("/proc")) && !is_selinuxfs(Path::new("/no/such")));
    }
}
