//! The walls `system` and `chroot`: containers of them are run by `atoll-runtime`, with the probe in them.

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use atoll_sys::mount::{self, Change};
use atoll_sys::namespace;
use rustix::fs::CWD;
use serde_json::{Value, json};

use super::Finding;
use super::process::{configuration, data_place, root_hint, try_container};
use super::scratch::Scratch;

/// Annotation that names the wall.
const ISOLATION: &str = "io.atoll.isolation";
/// Where the probe's users are on the host.
const MAPPING: (u32, u32) = (0x0008_0000, 65_536);

pub(super) fn chroot() -> Finding {
    let mut finding = Finding::works("chroot");
    let mut configuration = configuration();
    configuration["annotations"] = json!({ ISOLATION: "chroot" });
    configuration["linux"]["namespaces"] = json!([]);
    let has = "limits, a filter of system calls; the host's processes, users and network";
    try_container(&mut finding, &configuration, has);
    finding
}

pub(super) fn system() -> Finding {
    let mut finding = Finding::works("system");
    try_container(
        &mut finding,
        &of_a_system(),
        "users of its own, control groups to divide, /run and /tmp in memory",
    );
    shift_ids(&mut finding);
    finding
}

fn of_a_system() -> Value {
    let mut configuration = configuration();
    configuration["annotations"] = json!({ ISOLATION: "system" });
    let (first, size) = MAPPING;
    let map = json!([{ "containerID": 0, "hostID": first, "size": size }]);
    let linux = &mut configuration["linux"];
    linux["uidMappings"] = map.clone();
    linux["gidMappings"] = map;
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.push(json!({ "type": "user" }));
    }
    configuration
}

/// Shows a folder where the engine would keep its layers with shifted ids, as the root file system's are.
fn shift_ids(finding: &mut Finding) {
    let place = data_place();
    let made = Scratch::inside(&place).and_then(|scratch| {
        let text = format!("0 {} {}\n", MAPPING.0, MAPPING.1);
        let users = namespace::user_namespace(&text, &text)?;
        let path = CString::new(scratch.path().as_os_str().as_bytes())?;
        let copy = mount::clone_tree(CWD, &path, false, false)?;
        mount::set_attributes(copy.as_fd(), c"", false, &Change::idmap(users.as_fd()))?;
        Ok::<(), io::Error>(())
    });
    match made {
        Ok(()) => finding.fact(format!(
            "ids are shifted on the file system of {}",
            place.display()
        )),
        Err(error) => {
            let text = format!("cannot shift ids in {}: {error}", place.display());
            let hint = "keep the data root on a file system like ext4, xfs or btrfs (ATOLL_DATA_ROOT), \
                        or run systems with `--userns host`";
            finding.fails_with(vec![text], root_hint().or_else(|| Some(hint.to_owned())));
        }
    }
}
