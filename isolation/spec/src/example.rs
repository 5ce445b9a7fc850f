//! The configuration `atoll-runtime spec` writes: an unprivileged shell with a terminal.

use std::path::PathBuf;

use crate::{
    Capabilities, DeviceRule, IdMapping, Linux, Mount, Namespace, NamespaceKind, Process,
    Resources, Rlimit, Root, Spec,
};

/// A complete configuration to start from, equal in meaning to the one `runc spec` writes.
#[must_use]
pub fn example() -> Spec {
    let capabilities = strings(&["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    Spec {
        oci_version: crate::OCI_VERSION.to_owned(),
        root: Some(Root {
            path: "rootfs".into(),
            readonly: true,
        }),
        process: Some(Process {
            terminal: true,
            args: strings(&["sh"]),
            env: strings(&[
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
            ]),
            cwd: "/".into(),
            capabilities: Some(Capabilities {
                bounding: capabilities.clone(),
                effective: capabilities.clone(),
                permitted: capabilities,
                ..Capabilities::default()
            }),
            rlimits: vec![Rlimit {
                kind: "RLIMIT_NOFILE".to_owned(),
                hard: 1024,
                soft: 1024,
            }],
            no_new_privileges: true,
            ..Process::default()
        }),
        hostname: Some("atoll".to_owned()),
        mounts: mounts(),
        linux: Some(linux()),
        ..Spec::default()
    }
}

/// [`example`] for a user without privileges, equal in meaning to the one `runc spec --rootless` writes: a user namespace
/// with one id, the host's network, no limits.
#[must_use]
pub fn rootless_example(uid: u32, gid: u32) -> Spec {
    let mut spec = example();
    let only = |host_id| {
        vec![IdMapping {
            container_id: 0,
            host_id,
            size: 1,
        }]
    };
    if let Some(linux) = &mut spec.linux {
        linux
            .namespaces
            .retain(|ns| ns.kind != NamespaceKind::Network);
        linux.namespaces.push(Namespace {
            kind: NamespaceKind::User,
            path: None,
        });
        linux.uid_mappings = only(uid);
        linux.gid_mappings = only(gid);
        linux.resources = None;
    }
    for mount in &mut spec.mounts {
        // Ids that aren't mapped.
        mount
            .options
            .retain(|word| !word.starts_with("gid=") && !word.starts_with("uid="));
        if mount.destination.as_os_str() == "/sys" {
            // A sysfs of its own takes a network namespace of its own.
            mount.kind = Some("none".to_owned());
            mount.source = Some("/sys".into());
            mount.options = strings(&["rbind", "nosuid", "noexec", "nodev", "ro"]);
        }
    }
    spec
}

fn mounts() -> Vec<Mount> {
    let rows: [(&str, &str, &str, &[&str]); 7] = [
        ("/proc", "proc", "proc", &[]),
        (
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        (
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        (
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        (
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", "ro"],
        ),
        (
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        ),
    ];
    rows.into_iter()
        .map(|(destination, kind, source, options)| Mount {
            destination: PathBuf::from(destination),
            kind: Some(kind.to_owned()),
            source: Some(PathBuf::from(source)),
            options: strings(options),
            ..Mount::default()
        })
        .collect()
}

fn linux() -> Linux {
    Linux {
        namespaces: [
            NamespaceKind::Pid,
            NamespaceKind::Network,
            NamespaceKind::Ipc,
            NamespaceKind::Uts,
            NamespaceKind::Mount,
            NamespaceKind::Cgroup,
        ]
        .map(|kind| Namespace { kind, path: None })
        .into(),
        resources: Some(Resources {
            devices: vec![DeviceRule {
                allow: false,
                access: Some("rwm".to_owned()),
                ..DeviceRule::default()
            }],
            ..Resources::default()
        }),
        masked_paths: strings(&[
            "/proc/acpi",
            "/proc/asound",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/sys/firmware",
            "/proc/scsi",
        ]),
        readonly_paths: strings(&[
            "/proc/bus",
            "/proc/fs",
            "/proc/irq",
            "/proc/sys",
            "/proc/sysrq-trigger",
        ]),
        ..Linux::default()
    }
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_privileges_only_what_one_id_may() {
        let spec = rootless_example(1000, 100);
        spec.validate().unwrap();
        let linux = spec.linux.unwrap();
        assert_eq!(linux.uid_mappings[0].host_id, 1000);
        assert_eq!(linux.gid_mappings[0].host_id, 100);
        assert!(linux.resources.is_none());
        let words = spec.mounts.iter().flat_map(|mount| &mount.options);
        assert_eq!(words.filter(|word| word.starts_with("gid=")).count(), 0);
    }
}
