//! A container that nobody wants, made and run once, before the machine is saved as a template.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use atoll_cgroup::Hierarchies;
use atoll_container::{CreateRequest, Error, StdioRequest};
use atoll_guest::protocol::{Create, FIRST_CGROUP, NOTHING};
use atoll_spec::{Mount, Spec};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::container::{BUNDLE, STATE_ROOT};
use super::root::CGROUPS;
use super::{layers, network, root};

/// Its id.
const ID: &str = "rehearsal";
/// Our own program, where a container can have it mounted from.
const PROGRAM: &str = "/run/atoll/rehearsal";
/// A file system of the container's own.
const DEVICES: &str = "/dev";
/// Where it is in the container.
const INSIDE: &str = "/dev/.atoll-rehearsal";

/// Makes the container that `create` describes with our own program in it, runs it to its end, and leaves nothing.
///
/// What takes a guest's kernel long to make, and is the same for every container, is left: its control group, empty, and
/// the card, up.
pub(super) fn rehearse(create: Create, hierarchies: &Hierarchies) -> Result<(), String> {
    let setup = create.machine.unwrap_or_default();
    let mut cards = setup.networks.iter();
    if cards.any(|card| card.place.is_none()) {
        network::bring_up_first().map_err(|error| error.to_string())?;
    }
    if let Some(layers) = setup.layers {
        layers::mount_all(layers)?;
    }
    let shared = setup.shm_bytes.map_or(Ok(()), root::share_memory);
    let done = fs::copy("/proc/self/exe", PROGRAM)
        .and_then(|_| fs::set_permissions(PROGRAM, Permissions::from_mode(0o755)))
        .and_then(|()| fs::create_dir_all(BUNDLE))
        .map_err(|error| format!("copy the agent to {PROGRAM}: {error}"))
        .and(shared)
        .and_then(|()| run(&ours(create.spec), hierarchies));
    // It may not be there.
    let _ = fs::remove_file(PROGRAM);
    if setup.shm_bytes.is_some() {
        root::unshare_memory();
    }
    let undone = setup.layers.map_or(Ok(()), layers::unmount_all);
    let forgotten = root::forget_shares().map_err(|failure| failure.to_string());
    let group = format!("{CGROUPS}{FIRST_CGROUP}");
    let grouped = fs::create_dir(&group).map_err(|error| format!("make {group}: {error}"));
    done.and(undone).and(forgotten).and(grouped)
}

/// The configuration with our program in place of the container's.
fn ours(mut spec: Spec) -> Spec {
    let has_devices = |mount: &Mount| mount.destination == Path::new(DEVICES);
    if !spec.mounts.iter().any(has_devices) {
        // Nothing of ours is to be in files of the host's.
        spec.mounts.push(Mount {
            destination: DEVICES.into(),
            kind: Some("tmpfs".to_owned()),
            source: Some("tmpfs".into()),
            ..Mount::default()
        });
    }
    spec.mounts.push(Mount {
        destination: INSIDE.into(),
        kind: None,
        source: Some(PROGRAM.into()),
        options: vec!["bind".to_owned(), "ro".to_owned()],
        ..Mount::default()
    });
    if let Some(process) = &mut spec.process {
        process.terminal = false;
        process.args = vec![INSIDE.to_owned(), NOTHING.to_owned()];
    }
    spec
}

fn run(spec: &Spec, hierarchies: &Hierarchies) -> Result<(), String> {
    let said = |error: &Error| atoll_sys::with_causes(error);
    let id = ID.parse().map_err(|error| said(&error))?;
    let mut request = CreateRequest::new(id, STATE_ROOT.into(), PathBuf::from(BUNDLE));
    request.hierarchies = Some(hierarchies.clone());
    request.stdio = nothing().map_err(|error| format!("open /dev/null: {error}"))?;
    let mut made = atoll_container::create(request, spec).map_err(|error| said(&error))?;
    let ran = made
        .init
        .start()
        .map_err(|error| said(&error))
        .and_then(|()| wait_for(made.init.pid));
    let deleted = made.container.delete(true).map_err(|error| said(&error));
    ran.and(deleted)
}

fn nothing() -> io::Result<StdioRequest> {
    let open = |writable: bool| {
        let file = File::options()
            .read(!writable)
            .write(writable)
            .open("/dev/null")?;
        io::Result::Ok(OwnedFd::from(file))
    };
    Ok(StdioRequest::Fds {
        stdin: open(false)?,
        stdout: open(true)?,
        stderr: open(true)?,
    })
}

/// Waits for the end of our child `pid`.
fn wait_for(pid: u32) -> Result<(), String> {
    let pid = pid.try_into().ok().and_then(Pid::from_raw);
    let ended =
        waitpid(pid, WaitOptions::empty()).map_err(|errno| format!("wait for it: {errno}"))?;
    match ended.and_then(|(_, status)| status.exit_status()) {
        Some(0) => Ok(()),
        code => Err(format!("it ended with {code:?}")),
    }
}
