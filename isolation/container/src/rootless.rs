//! Containers of users without privilege: ids are mapped as far as the system lets them, control groups are done without.
//!
//! Everything else that takes privilege is done by the first process, which has some in its own user namespace
//! ([`crate::apply::program::Op::OpenRoot`], [`crate::apply::program::Op::BindOutside`]).

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use atoll_spec::{IdMapping, Resources};
use atoll_sys::rustix::process::{getegid, geteuid};

use crate::error::{Error, Result};
use crate::plan::{ContainerPlan, map_text};
use crate::state;

/// The folder of a root file system, for looking into it only.
///
/// # Errors
/// [`Error::File`].
pub(crate) fn open_folder(path: &Path) -> Result<OwnedFd> {
    let mut options = File::options();
    options
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY);
    let opened = options.open(path);
    Ok(opened
        .map_err(|source| state::file("open", path, source))?
        .into())
}

/// Maps the ids of the user namespace of process `pid`.
///
/// A user may map himself; more takes newuidmap(1) and newgidmap(1), which look at /etc/subuid and /etc/subgid.
///
/// # Errors
/// [`Error::Rootless`] in the words of these programs, [`Error::File`].
pub(crate) fn map_ids(plan: &ContainerPlan, pid: u32) -> Result<()> {
    map(
        "newuidmap",
        "uid_map",
        &plan.uid_mappings,
        geteuid().as_raw(),
        pid,
    )?;
    map(
        "newgidmap",
        "gid_map",
        &plan.gid_mappings,
        getegid().as_raw(),
        pid,
    )
}

fn map(program: &str, file: &str, mappings: &[IdMapping], own: u32, pid: u32) -> Result<()> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|source| state::file("write", &path, source))
    };
    if is_only(mappings, own) {
        if file == "gid_map" {
            // Else a group that is to keep the user from something could be given up (user_namespaces(7)).
            write("setgroups", "deny")?;
        }
        return write(file, &map_text(mappings));
    }
    let text = map_text(mappings);
    let numbers = text.split_whitespace();
    let output = Command::new(program)
        .arg(pid.to_string())
        .args(numbers)
        .output();
    let output = output.map_err(|error| Error::Rootless {
        program: program.to_owned(),
        reason: if error.kind() == io::ErrorKind::NotFound {
            "it is not installed".to_owned()
        } else {
            error.to_string()
        },
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Rootless {
        program: program.to_owned(),
        reason: said.trim().to_owned(),
    })
}

/// Whether a user maps himself and nobody else.
fn is_only(mappings: &[IdMapping], own: u32) -> bool {
    matches!(mappings, [only] if only.size == 1 && only.host_id == own)
}

/// Whether a control group may not be made.
pub(crate) fn is_refused(error: &atoll_cgroup::Error) -> bool {
    let (atoll_cgroup::Error::Create { source, .. }
    | atoll_cgroup::Error::Write { source, .. }
    | atoll_cgroup::Error::Read { source, .. }) = error
    else {
        return matches!(error, atoll_cgroup::Error::NotMounted);
    };
    matches!(
        source.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    )
}

/// Whether resources ask for nothing but rules of devices, which a user namespace makes needless.
pub(crate) fn limits_nothing(resources: &Resources) -> bool {
    let rest = Resources {
        devices: Vec::new(),
        ..resources.clone()
    };
    rest == Resources::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_oneself_is_mapped_without_help() {
        let map = |container_id, host_id, size| IdMapping {
            container_id,
            host_id,
            size,
        };
        assert!(is_only(&[map(0, 1000, 1)], 1000));
        assert!(is_only(&[map(33, 1000, 1)], 1000));
        assert!(!is_only(&[map(0, 1000, 2)], 1000));
        assert!(!is_only(&[map(0, 1001, 1)], 1000));
        assert!(!is_only(&[map(0, 1000, 1), map(1, 100_000, 65536)], 1000));
    }

    #[test]
    fn rules_of_devices_are_no_limit() {
        let of = |text: &str| limits_nothing(&serde_json::from_str(text).unwrap());
        assert!(of("{}"));
        assert!(of(r#"{"devices": [{"allow": false, "access": "rwm"}]}"#));
        assert!(!of(r#"{"pids": {"limit": 5}}"#));
        assert!(!of(r#"{"unified": {"memory.high": "1"}}"#));
    }
}
