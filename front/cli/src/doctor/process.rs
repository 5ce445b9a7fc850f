//! The process wall: a container is run by `atoll-runtime`, with the probe in it.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use atoll_cgroup::{Hierarchies, Layout};
use atoll_machine::host;
use atoll_sys::overlay;
use serde_json::{Value, json};

use super::Finding;
use super::scratch::Scratch;

/// The program inside, which says which kernel it sees and ends.
const PROBE: &str = "atoll-probe";
/// A system call the container's filter refuses, to see that filters work.
const FORBIDDEN: &str = "swapon";

pub(super) fn finding() -> Finding {
    let mut finding = Finding::works("process");
    match Hierarchies::detect() {
        Ok(found) => finding.fact(format!("control groups: {}", layout(&found))),
        Err(error) => finding.fails(
            &error,
            Some("mount them: `mount -t cgroup2 none /sys/fs/cgroup`".to_owned()),
        ),
    }
    run_container(&mut finding);
    mount_overlay(&mut finding);
    finding
}

/// `version 2`, or where which controllers are.
fn layout(found: &Hierarchies) -> String {
    let controllers: Vec<&str> = found
        .v1()
        .iter()
        .flat_map(|hierarchy| &hierarchy.controllers)
        .map(String::as_str)
        .filter(|name| !name.starts_with("name="))
        .collect();
    let controllers = controllers.join(" ");
    match found.layout() {
        Layout::V2 => "version 2".to_owned(),
        Layout::V1 => format!("version 1 ({controllers})"),
        Layout::Hybrid => format!("version 1 ({controllers}) beside version 2"),
    }
}

/// Runs a container with every namespace, a filter of system calls and limits.
fn run_container(finding: &mut Finding) {
    try_container(
        finding,
        &configuration(),
        "namespaces, limits, a filter of system calls, no capabilities",
    );
}

/// Runs a container of this configuration, with the probe as its root file system and first process.
///
/// * `has`: what it has, for the fact.
pub(super) fn try_container(finding: &mut Finding, configuration: &Value, has: &str) {
    let started = Instant::now();
    match ran(configuration) {
        Ok(()) => finding.fact(format!(
            "a container ran in {} ms: {has}",
            started.elapsed().as_millis()
        )),
        Err(Failed { because, hint }) => finding.fails_with(because, hint.or_else(root_hint)),
    }
}

struct Failed {
    because: Vec<String>,
    hint: Option<String>,
}

impl Failed {
    fn new(because: impl ToString) -> Self {
        Self {
            because: vec![because.to_string()],
            hint: None,
        }
    }
}

fn ran(configuration: &Value) -> Result<(), Failed> {
    let find = |name| {
        host::program(name).map_err(|error| Failed {
            because: vec![error.to_string()],
            hint: Some("install all of Atoll's programs in one folder".to_owned()),
        })
    };
    let (runtime, probe) = (find("atoll-runtime")?, find(PROBE)?);
    let bundle = bundle(&probe, configuration)
        .map_err(|error| Failed::new(format!("cannot make a bundle for a container: {error}")))?;
    let id = format!("atoll-doctor-{}", std::process::id());
    let output = Command::new(&runtime)
        .arg("--root")
        .arg(bundle.path().join("state"))
        .args(["run", "--bundle"])
        .arg(bundle.path())
        .arg(&id)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Failed::new(format!("cannot run {}: {error}", runtime.display())))?;
    if output.status.success() && output.stdout.starts_with(b"{\"probe\":") {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(explained(&said, &output.status.to_string()))
}

/// The runtime's own words as reasons and a hint.
fn explained(said: &str, status: &str) -> Failed {
    let mut because = Vec::new();
    let mut hint = None;
    for line in said.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.strip_prefix("hint: ") {
            Some(text) => hint = Some(text.to_owned()),
            None => {
                let line = line.strip_prefix("error: ").unwrap_or(line);
                because.push(line.strip_prefix("because: ").unwrap_or(line).to_owned());
            }
        }
    }
    if because.is_empty() {
        because.push(format!("a container ended with {status}"));
    }
    Failed { because, hint }
}

pub(super) fn root_hint() -> Option<String> {
    let is_root = rustix::process::geteuid().is_root();
    (!is_root)
        .then(|| "run it as root: containers without privilege are not available yet".to_owned())
}

/// A bundle whose root file system is the probe alone.
fn bundle(probe: &Path, configuration: &Value) -> io::Result<Scratch> {
    let scratch = Scratch::inside(&std::env::temp_dir())?;
    let root = scratch.path().join("rootfs");
    for folder in ["proc", "dev", "run", "tmp", "sys/fs/cgroup"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy(probe, root.join(PROBE))?;
    fs::write(
        scratch.path().join("config.json"),
        configuration.to_string(),
    )?;
    Ok(scratch)
}

/// A container with nothing but the usual wall.
pub(super) fn configuration() -> Value {
    let mut kinds = vec!["pid", "mount", "network", "ipc", "uts"];
    if Path::new("/proc/self/ns/cgroup").exists() {
        kinds.push("cgroup");
    }
    let namespaces: Vec<Value> = kinds.iter().map(|kind| json!({ "type": kind })).collect();
    let none: [&str; 0] = [];
    json!({
        "ociVersion": "1.3.0",
        "root": { "path": "rootfs", "readonly": true },
        "process": {
            "args": [format!("/{PROBE}")],
            "cwd": "/",
            "env": none,
            "user": { "uid": 0, "gid": 0 },
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": none, "effective": none, "permitted": none,
                "inheritable": none, "ambient": none,
            },
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "mode=755", "size=64k"] },
        ],
        "linux": {
            "namespaces": namespaces,
            "resources": { "memory": { "limit": 64 << 20 }, "pids": { "limit": 16 } },
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{ "names": [FORBIDDEN], "action": "SCMP_ACT_ERRNO" }],
            },
        },
    })
}

/// Makes a writable overlay where the engine would keep its layers, as the detached mount it uses.
fn mount_overlay(finding: &mut Finding) {
    let place = data_place();
    let made = Scratch::inside(&place).and_then(|scratch| {
        let lower = scratch.folder("lower")?;
        let upper = scratch.folder("upper")?;
        let work = scratch.folder("work")?;
        let upper_work = Some((upper.as_fd(), work.as_fd()));
        overlay::mount_detached(&[lower.as_fd()], upper_work, overlay::Options::default())
            .map(drop)
            .map_err(io::Error::from)
    });
    match made {
        Ok(()) => finding.fact(format!(
            "overlay: a detached mount on the file system of {}",
            place.display()
        )),
        Err(error) => {
            let text = format!("cannot make an overlay in {}: {error}", place.display());
            let hint = "load it with `modprobe overlay`, and keep the data root on a file system \
                        like ext4 or xfs (ATOLL_DATA_ROOT)";
            finding.fails_with(vec![text], root_hint().or_else(|| Some(hint.to_owned())));
        }
    }
}

/// The data root, or the nearest folder above it that exists.
pub(super) fn data_place() -> PathBuf {
    let root = std::env::var_os("ATOLL_DATA_ROOT")
        .filter(|root| !root.is_empty())
        .map_or_else(|| PathBuf::from("/var/lib/atoll"), PathBuf::from);
    let root = std::path::absolute(&root).unwrap_or(root);
    let place = root.ancestors().find(|folder| folder.is_dir());
    place.unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtimes_words_become_reasons_and_a_hint() {
        let Failed { because, hint } = explained(
            "error: cannot make a\n  because: mount failed\n  because: EPERM\nhint: be root\n",
            "",
        );
        assert_eq!(because, ["cannot make a", "mount failed", "EPERM"]);
        assert_eq!(hint.as_deref(), Some("be root"));
        let silent = explained("\n", "signal: 9 (SIGKILL)");
        assert_eq!(
            silent.because,
            ["a container ended with signal: 9 (SIGKILL)"]
        );
    }

    #[test]
    fn layouts_are_told_apart() {
        let of = |mountinfo: &str, cgroup: &str| {
            layout(&Hierarchies::from_parts(mountinfo, cgroup).unwrap())
        };
        let v2 = "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(of(v2, "0::/\n"), "version 2");
        let v1 = "31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(of(v1, "4:memory:/\n"), "version 1 (memory)");
    }
}
