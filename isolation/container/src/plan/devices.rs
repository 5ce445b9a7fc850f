//! Which device nodes and links `/dev` gets.
//!
//! Spec: OCI runtime-spec 1.3, config-linux.md#default-devices and #devices.

use std::ffi::{CStr, CString};
use std::fmt;

use atoll_spec::Device;

use super::mounts::clean;
use super::{MountPlan, MountSource, fault};
use crate::error::Result;

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePlan {
    /// Where inside the container, absolute.
    pub path: CString,
    /// File type and permission bits, as mknod(2) takes them.
    pub mode: u32,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Owner inside the container.
    pub uid: u32,
    /// Group inside the container.
    pub gid: u32,
}

/// Links every container gets in `/dev`, target first.
pub(crate) const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"/dev/fd"),
    (c"/proc/self/fd/0", c"/dev/stdin"),
    (c"/proc/self/fd/1", c"/dev/stdout"),
    (c"/proc/self/fd/2", c"/dev/stderr"),
    (c"pts/ptmx", c"/dev/ptmx"),
];

/// Path, major, minor of the nodes every container gets, mode 0666.
const DEFAULTS: [(&CStr, u32, u32); 6] = [
    (c"/dev/null", 1, 3),
    (c"/dev/random", 1, 8),
    (c"/dev/full", 1, 7),
    (c"/dev/tty", 5, 0),
    (c"/dev/zero", 1, 5),
    (c"/dev/urandom", 1, 9),
];

/// Whether `/dev` is ours to fill: not when the caller's is bind mounted there.
pub(super) fn fills_dev(mounts: &[MountPlan]) -> bool {
    !mounts.iter().any(|mount| {
        mount.destination.as_c_str() == c"/dev" && matches!(mount.source, MountSource::Bind { .. })
    })
}

/// The nodes of `list` and the default ones it doesn't replace.
pub(super) fn plan(list: &[Device]) -> Result<Vec<DevicePlan>> {
    let mut plans = Vec::with_capacity(list.len() + DEFAULTS.len());
    for (idx, device) in list.iter().enumerate() {
        let field = format!("linux.devices[{idx}]");
        let kind = match device.kind.as_str() {
            "b" => libc::S_IFBLK,
            "p" => libc::S_IFIFO,
            _ => libc::S_IFCHR,
        };
        let number = |name: &str, value: i64| {
            u32::try_from(value)
                .or_else(|_| fault(&format!("{field}.{name}"), "is no device number"))
        };
        plans.push(DevicePlan {
            path: clean(&field, &device.path)?,
            mode: kind | (device.file_mode.unwrap_or(0o666) & 0o7777),
            major: number("major", device.major)?,
            minor: number("minor", device.minor)?,
            uid: device.uid.unwrap_or(0),
            gid: device.gid.unwrap_or(0),
        });
    }
    for (path, major, minor) in DEFAULTS {
        if !plans.iter().any(|plan| plan.path.as_c_str() == path) {
            plans.push(DevicePlan {
                path: path.to_owned(),
                mode: libc::S_IFCHR | 0o666,
                major,
                minor,
                uid: 0,
                gid: 0,
            });
        }
    }
    Ok(plans)
}

impl fmt::Display for DevicePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.mode & libc::S_IFMT {
            libc::S_IFBLK => 'b',
            libc::S_IFIFO => 'p',
            _ => 'c',
        };
        let path = self.path.to_string_lossy();
        let permissions = self.mode & 0o7777;
        write!(
            f,
            "{path} {kind} {}:{} {permissions:04o}",
            self.major, self.minor
        )?;
        if (self.uid, self.gid) != (0, 0) {
            write!(f, " {}:{}", self.uid, self.gid)?;
        }
        Ok(())
    }
}
