//! The wall `system`: what a service manager as first process finds, by the conventions that systemd, systemd-nspawn and
//! LXC share.
//!
//! Source: systemd, CONTAINER_INTERFACE. `container=` and `container_uuid=` in the first process' environment, `/run/host`
//! with the same and the host's `os-release`, `/run`, `/run/lock` and `/tmp` as file systems in memory, its own control
//! groups to divide further.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use atoll_spec::{Linux, Mount, Namespace, NamespaceKind, Process, Spec};

use crate::error::{Error, Result};

/// `container=`: systemd's word for runtimes that follow the OCI specification.
const MANAGER: &str = "oci";
/// Where the host says what it is.
const HOST: &str = "/run/host";

/// Variables the first process gets, from fields of the host's os-release.
const OF_HOST: [(&str, &str); 4] = [
    ("container_host_id", "ID"),
    ("container_host_version_id", "VERSION_ID"),
    ("container_host_build_id", "BUILD_ID"),
    ("container_host_variant_id", "VARIANT_ID"),
];

/// Namespaces it cannot share: it is process 1, and what it mounts, names and divides is its own.
const OWN: [NamespaceKind; 5] = [
    NamespaceKind::Pid,
    NamespaceKind::Mount,
    NamespaceKind::Ipc,
    NamespaceKind::Uts,
    NamespaceKind::Cgroup,
];

/// The configuration with the conventions in it, and the files below `/run/host`.
///
/// * `host_folder`: where those files will be on the host.
pub(super) fn prepare(
    spec: &Spec,
    id: &str,
    host_folder: &Path,
    os_release: &str,
) -> Result<(Spec, Vec<(&'static str, String)>)> {
    let mut spec = spec.clone();
    namespaces(spec.linux.get_or_insert_default())?;
    let uuid = uuid(id);
    let manager = spec
        .process
        .as_mut()
        .map(|process| environment(process, &uuid, os_release));
    let manager = manager.unwrap_or_else(|| MANAGER.to_owned());
    mounts(&mut spec.mounts, host_folder);
    let mut files = vec![
        ("container-manager", manager + "\n"),
        ("container-uuid", uuid + "\n"),
    ];
    if !os_release.is_empty() {
        files.push(("os-release", os_release.to_owned()));
    }
    Ok((spec, files))
}

fn namespaces(linux: &mut Linux) -> Result<()> {
    for kind in OWN {
        let found = linux
            .namespaces
            .iter()
            .find(|namespace| namespace.kind == kind);
        let is_joined = found
            .and_then(|namespace| namespace.path.as_ref())
            .is_some_and(|path| !path.as_os_str().is_empty());
        if is_joined {
            let name = crate::plan::file_name(kind);
            return Err(Error::Plan {
                field: "linux.namespaces".to_owned(),
                reason: format!(
                    "joins a {name} namespace, which contradicts the wall system: its first process manages one of its own"
                ),
            });
        }
        if found.is_none() {
            linux.namespaces.push(Namespace { kind, path: None });
        }
    }
    Ok(())
}

/// Adds what isn't there, and answers `container=`.
fn environment(process: &mut Process, uuid: &str, os_release: &str) -> String {
    let value = |process: &Process, name: &str| {
        let entries = process.env.iter();
        let mut values = entries.filter_map(|entry| entry.strip_prefix(name)?.strip_prefix('='));
        values.next_back().map(str::to_owned)
    };
    let given = value(process, "container").filter(|manager| !manager.is_empty());
    let manager = given.unwrap_or_else(|| {
        process.env.push(format!("container={MANAGER}"));
        MANAGER.to_owned()
    });
    if value(process, "container_uuid").is_none() {
        process.env.push(format!("container_uuid={uuid}"));
    }
    for (name, field) in OF_HOST {
        if let Some(text) = os_release_field(os_release, field)
            && value(process, name).is_none()
        {
            process.env.push(format!("{name}={text}"));
        }
    }
    manager
}

fn os_release_field<'a>(text: &'a str, field: &str) -> Option<&'a str> {
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix('='))?;
    let value = value.trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then_some(value)
}

fn mounts(list: &mut Vec<Mount>, host_folder: &Path) {
    let options = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect();
    let tmpfs = |place: &str, words: &[&str]| Mount {
        destination: place.into(),
        kind: Some("tmpfs".to_owned()),
        source: Some("tmpfs".into()),
        options: options(words),
        ..Mount::default()
    };
    let host = Mount {
        destination: HOST.into(),
        kind: Some("bind".to_owned()),
        source: Some(host_folder.to_owned()),
        options: options(&["bind", "ro", "nosuid", "nodev", "noexec", "rprivate"]),
        ..Mount::default()
    };
    let cgroups = Mount {
        destination: "/sys/fs/cgroup".into(),
        kind: Some("cgroup".to_owned()),
        source: Some("cgroup".into()),
        options: options(&["nosuid", "noexec", "nodev"]),
        ..Mount::default()
    };
    let own = list.iter_mut().find(|mount| is_cgroup(mount));
    match own {
        Some(mount) => mount.options.retain(|word| word != "ro"),
        None => insert(list, cgroups),
    }
    let (nosuid, nodev) = ("nosuid", "nodev");
    // Sizes and modes as systemd mounts them where nobody else did.
    insert(
        list,
        tmpfs(
            "/run",
            &[nosuid, nodev, "strictatime", "mode=755", "size=20%"],
        ),
    );
    insert(
        list,
        tmpfs(
            "/run/lock",
            &[nosuid, nodev, "noexec", "mode=1777", "size=5242880"],
        ),
    );
    insert(
        list,
        tmpfs(
            "/tmp",
            &[nosuid, nodev, "strictatime", "mode=1777", "size=50%"],
        ),
    );
    insert(list, host);
}

fn is_cgroup(mount: &Mount) -> bool {
    matches!(mount.kind.as_deref(), Some("cgroup" | "cgroup2"))
}

/// Adds a mount before those below it, unless the configuration has one there.
fn insert(list: &mut Vec<Mount>, mount: Mount) {
    let cleaned = |path: &PathBuf| -> PathBuf { path.components().collect() };
    let place = &mount.destination;
    if list
        .iter()
        .any(|other| cleaned(&other.destination) == *place)
    {
        return;
    }
    let below = list
        .iter()
        .position(|other| other.destination.starts_with(place));
    list.insert(below.unwrap_or(list.len()), mount);
}

/// A UUID for the container, the same at each of its starts: the beginning of an id of hexadecimal digits, else a hash
/// of it (FNV-1a); marked as made at random (RFC 9562, version 4).
fn uuid(id: &str) -> String {
    let digits = id
        .get(..32)
        .and_then(|text| u128::from_str_radix(text, 16).ok());
    let hash = || {
        id.bytes().fold(
            0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128,
            |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b),
        )
    };
    let number = digits.unwrap_or_else(hash);
    let number = number & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let text = format!("{number:032x}");
    let mut uuid = String::with_capacity(36);
    for (at, digit) in text.char_indices() {
        if matches!(at, 8 | 12 | 16 | 20) {
            uuid.push('-');
        }
        let _ = uuid.write_char(digit);
    }
    uuid
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(change: impl FnOnce(&mut Spec)) -> Result<(Spec, Vec<(&'static str, String)>)> {
        let mut spec = atoll_spec::example();
        change(&mut spec);
        let os_release = "NAME=\"Some OS\"\nID=some\nVERSION_ID=\"12\"\n";
        prepare(
            &spec,
            &"5f".repeat(32),
            Path::new("/state/host"),
            os_release,
        )
    }

    #[test]
    fn the_first_process_is_told_where_it_is() {
        let (spec, files) = prepared(|_| {}).unwrap();
        let env = &spec.process.as_ref().unwrap().env;
        let uuid = "5f5f5f5f-5f5f-4f5f-9f5f-5f5f5f5f5f5f";
        for wanted in [
            "container=oci",
            &format!("container_uuid={uuid}"),
            "container_host_id=some",
            "container_host_version_id=12",
        ] {
            assert!(env.iter().any(|entry| entry == wanted), "{wanted}: {env:?}");
        }
        assert!(
            !env.iter()
                .any(|entry| entry.starts_with("container_host_build"))
        );
        assert_eq!(files[0], ("container-manager", "oci\n".to_owned()));
        assert_eq!(files[1], ("container-uuid", format!("{uuid}\n")));
        assert_eq!(files[2].0, "os-release");
        let (spec, files) = prepared(|spec| {
            let env = &mut spec.process.as_mut().unwrap().env;
            env.push("container=lxc".to_owned());
        })
        .unwrap();
        assert_eq!(files[0].1, "lxc\n");
        let env = &spec.process.as_ref().unwrap().env;
        assert!(!env.contains(&"container=oci".to_owned()));
    }

    #[test]
    fn mounts_lie_below_those_of_the_configuration_that_are_deeper() {
        let (spec, _) = prepared(|spec| {
            spec.mounts.push(Mount {
                destination: "/run/data".into(),
                ..Mount::default()
            });
            spec.mounts.push(Mount {
                destination: "/tmp/".into(),
                ..Mount::default()
            });
        })
        .unwrap();
        let at = |path: &str| {
            let mut places = spec.mounts.iter();
            places.position(|mount| mount.destination == Path::new(path))
        };
        assert!(at("/run").unwrap() < at("/run/data").unwrap());
        assert!(at("/run").unwrap() < at("/run/lock").unwrap());
        assert!(at("/run").unwrap() < at(HOST).unwrap());
        assert_eq!(
            spec.mounts
                .iter()
                .filter(|mount| mount.destination.starts_with("/tmp"))
                .count(),
            1
        );
        let cgroup = spec.mounts.iter().find(|mount| is_cgroup(mount)).unwrap();
        assert!(!cgroup.options.contains(&"ro".to_owned()));
    }

    #[test]
    fn its_namespaces_are_its_own() {
        let (spec, _) = prepared(|spec| spec.linux.as_mut().unwrap().namespaces.clear()).unwrap();
        let kinds: Vec<_> = spec
            .linux
            .unwrap()
            .namespaces
            .iter()
            .map(|n| n.kind)
            .collect();
        assert_eq!(kinds, OWN);
        let error = prepared(|spec| {
            let list = &mut spec.linux.as_mut().unwrap().namespaces;
            let pid = list.iter_mut().find(|n| n.kind == NamespaceKind::Pid);
            pid.unwrap().path = Some("/proc/1/ns/pid".into());
        })
        .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("linux.namespaces: joins a pid namespace")
        );
    }

    #[test]
    fn other_ids_have_uuids_too() {
        assert_ne!(uuid("web"), uuid("db"));
        assert_eq!(uuid("web"), uuid("web"));
        assert_eq!(uuid("ünïcødé-".repeat(5).as_str()).len(), 36);
    }
}
