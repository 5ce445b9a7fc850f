//! Mounts: the kernel's file systems, the three files, then what the user asked for.

use serde_json::{Value, json};

use super::SpecInput;
use crate::{error::Result, settings};

/// All mounts, in the order they are made.
pub(super) fn mounts(input: &SpecInput<'_>) -> Result<Vec<Value>> {
    let record = input.record;
    let host_config = &record.host_config;
    let mut list = kernel_mounts(input);
    for name in ["resolv.conf", "hostname", "hosts"] {
        let destination = format!("/etc/{name}");
        if record
            .mounts
            .iter()
            .any(|mount| mount.destination == destination)
        {
            continue;
        }
        let source = input.directory.join(name);
        if !source.exists() {
            continue;
        }
        list.push(bind(
            &source.to_string_lossy(),
            &destination,
            &["rbind", "rprivate"],
        ));
    }
    let mut user: Vec<(String, Value)> = Vec::new();
    for mount in &record.mounts {
        let mut options = vec!["rbind"];
        options.push(if mount.propagation.is_empty() {
            "rprivate"
        } else {
            &mount.propagation
        });
        options.push(if mount.rw { "rw" } else { "ro" });
        user.push((
            mount.destination.clone(),
            bind(&mount.source, &mount.destination, &options),
        ));
    }
    for (destination, options) in &host_config.tmpfs {
        user.push((destination.clone(), tmpfs(destination, options)));
    }
    for mount in host_config
        .mounts
        .iter()
        .flatten()
        .filter(|mount| mount.kind == "tmpfs")
    {
        let mut options = Vec::new();
        if let Some(tmpfs) = &mount.tmpfs_options {
            if tmpfs.size_bytes > 0 {
                options.push(format!("size={}", tmpfs.size_bytes));
            }
            if tmpfs.mode > 0 {
                options.push(format!("mode={:o}", tmpfs.mode));
            }
        }
        if mount.read_only {
            options.push("ro".to_owned());
        }
        user.push((
            mount.target.clone(),
            tmpfs(&mount.target, &options.join(",")),
        ));
    }
    if record.id_range.is_some() {
        let user = user.iter_mut().map(|(_, mount)| mount);
        list.iter_mut().chain(user).for_each(shift_ids);
    }
    // What lies higher is mounted first.
    user.sort_by_key(|(destination, _)| {
        destination
            .split('/')
            .filter(|part| !part.is_empty())
            .count()
    });
    // A user's mount takes the place of a default one.
    list.retain(|mount| {
        let destination = mount["destination"].as_str().unwrap_or_default();
        destination != "/dev/shm" && destination != "/dev/mqueue"
            || !user.iter().any(|(taken, _)| taken == destination)
    });
    list.extend(user.into_iter().map(|(_, mount)| mount));
    Ok(list)
}

fn kernel_mounts(input: &SpecInput<'_>) -> Vec<Value> {
    let host_config = &input.record.host_config;
    let access = if host_config.privileged { "rw" } else { "ro" };
    let mount = |kind: &str, source: &str, destination: &str, options: &[&str]| json!({ "type": kind, "source": source, "destination": destination, "options": options });
    let mut list = vec![
        mount("proc", "proc", "/proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "tmpfs",
            "tmpfs",
            "/dev",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "devpts",
            "devpts",
            "/dev/pts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "sysfs",
            "sysfs",
            "/sys",
            &["nosuid", "noexec", "nodev", access],
        ),
        mount(
            "cgroup",
            "cgroup",
            "/sys/fs/cgroup",
            &[access, "nosuid", "noexec", "nodev"],
        ),
    ];
    match host_config.ipc_mode.as_str() {
        "host" => {
            // Of the host's IPC namespace, also where the host has it mounted nowhere.
            list.push(mount(
                "mqueue",
                "mqueue",
                "/dev/mqueue",
                &["nosuid", "noexec", "nodev"],
            ));
            list.push(bind("/dev/shm", "/dev/shm", &["rbind", "rprivate"]));
        }
        mode => {
            list.push(mount(
                "mqueue",
                "mqueue",
                "/dev/mqueue",
                &["nosuid", "noexec", "nodev"],
            ));
            let size = format!("size={}", host_config.shm_size);
            if mode != "none" {
                list.push(mount(
                    "tmpfs",
                    "shm",
                    "/dev/shm",
                    &["nosuid", "noexec", "nodev", "mode=1777", &size],
                ));
            }
        }
    }
    list
}

/// Shows what root owns on the host as owned by the container's root, as in a container without users of its own.
fn shift_ids(mount: &mut Value) {
    if mount["type"] == "bind"
        && let Some(options) = mount["options"].as_array_mut()
    {
        options.push("idmap".into());
    }
}

fn bind(source: &str, destination: &str, options: &[&str]) -> Value {
    json!({ "type": "bind", "source": source, "destination": destination, "options": options })
}

/// A tmpfs with Docker's defaults; sizes are given in bytes, since not every kernel reads letters alike.
fn tmpfs(destination: &str, options: &str) -> Value {
    let mut list: Vec<String> = ["noexec", "nosuid", "nodev"].map(str::to_owned).into();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "exec" | "suid" | "dev" => list.retain(|default| default != &format!("no{option}")),
            _ => match option.strip_prefix("size=").and_then(settings::parse_bytes) {
                Some(bytes) => list.push(format!("size={bytes}")),
                None => list.push(option.to_owned()),
            },
        }
    }
    json!({ "type": "tmpfs", "source": "tmpfs", "destination": destination, "options": list })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tmpfs_defaults_can_be_lifted() {
        let mount = tmpfs("/t", "exec,size=1m,mode=700");
        assert_eq!(
            mount["options"],
            json!(["nosuid", "nodev", "size=1048576", "mode=700"])
        );
    }
}
