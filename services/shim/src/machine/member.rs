//! A further container in the machine of its pod. Pure.

use std::path::{Path, PathBuf};

use atoll_container::ContainerId;
use atoll_guest::protocol::{MEMBERS, SHARE};
use atoll_shim_protocol::machine::ISOLATION;
use atoll_spec::{Linux, Namespace, NamespaceKind, Resources, Spec};

use super::plan::{self, Bind};
use crate::failure::Failure;

/// What the pod's sandbox has, on the host and in the guest.
#[derive(Debug)]
pub(super) struct Sandbox<'a> {
    /// Its process id as it was told: the monitor's.
    pub(super) host_pid: u32,
    /// Its process id in the guest.
    pub(super) guest_pid: u32,
    /// The network namespace of the pod.
    pub(super) network: Option<&'a Path>,
}

/// A container as the agent builds it, and what the host has to show for it.
#[derive(Debug)]
pub(super) struct MemberPlan {
    pub(super) guest: Spec,
    pub(super) binds: Vec<Bind>,
}

/// Plans a container of the pod.
///
/// * `folder`: its name in the share's folder of such containers.
///
/// # Errors
/// What the configuration wants and the machine of the pod cannot give, by name.
pub(super) fn plan(
    spec: &Spec,
    id: &ContainerId,
    folder: &str,
    sandbox: &Sandbox<'_>,
) -> Result<MemberPlan, Failure> {
    if spec.annotations.get(ISOLATION).map(String::as_str) == Some("process") {
        return Err(Failure::invalid(format!(
            "annotation {ISOLATION}=process: the container's pod is in a machine, and so are its containers"
        )));
    }
    if spec.vm.is_some() {
        return Err(Failure::invalid(
            "vm: the container's pod has its machine already",
        ));
    }
    let none = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&none);
    plan::unavailable(spec, linux)?;
    let namespaces = namespaces(linux, sandbox)?;
    let place = format!("{MEMBERS}/{folder}");
    let (mounts, binds) = plan::mounts(&spec.mounts, &format!("{place}/"), true)?;
    let resources = linux.resources.clone().unwrap_or_default();
    let root: PathBuf = [SHARE, &place, "rootfs"].iter().collect();
    let cgroup = format!("/{id}");
    let mut guest = plan::guest(spec, linux, &resources, mounts, &cgroup, root);
    if let Some(inner) = &mut guest.linux {
        inner.namespaces = namespaces;
        // Of the pod's network, only its sandbox says how it is to be.
        inner.sysctl = linux.sysctl.clone();
        inner.resources = Some(Resources {
            cpu: resources.cpu.clone(),
            ..inner.resources.take().unwrap_or_default()
        });
    }
    Ok(MemberPlan { guest, binds })
}

/// Those of the pod are the sandbox's in the guest; the network is the guest's own.
fn namespaces(linux: &Linux, sandbox: &Sandbox<'_>) -> Result<Vec<Namespace>, Failure> {
    let shared = [
        (NamespaceKind::Network, "net"),
        (NamespaceKind::Ipc, "ipc"),
        (NamespaceKind::Uts, "uts"),
        (NamespaceKind::Pid, "pid"),
    ];
    let missing = shared.iter().find(|(kind, _)| !linux.has_namespace(*kind));
    if let Some((_, name)) = missing {
        return Err(Failure::invalid(format!(
            "a container in a machine cannot share the host's {name} namespace"
        )));
    }
    let mut ours = Vec::with_capacity(linux.namespaces.len());
    for namespace in &linux.namespaces {
        let name = shared.iter().find(|(kind, _)| *kind == namespace.kind);
        let translated = match (&namespace.path, name) {
            (None, _) => None,
            (Some(path), Some((kind, name))) => {
                let is_sandboxs = *path == ns(sandbox.host_pid, name)
                    || (*kind == NamespaceKind::Network && sandbox.network == Some(path));
                Some(is_sandboxs.then(|| ns(sandbox.guest_pid, name)).ok_or(path))
            }
            (Some(path), None) => Some(Err(path)),
        };
        let path = translated.transpose().map_err(|path| {
            Failure::invalid(format!(
                "a container in the machine of its pod cannot join the host's {:?} namespace {}; that of its sandbox is {}",
                namespace.kind,
                path.display(),
                ns(sandbox.host_pid, "…").display(),
            ))
        })?;
        if namespace.kind != NamespaceKind::Network {
            ours.push(Namespace {
                path,
                ..namespace.clone()
            });
        }
    }
    Ok(ours)
}

fn ns(pid: u32, name: &str) -> PathBuf {
    format!("/proc/{pid}/ns/{name}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: &str = r#"{
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "mounts": [
            {"destination": "/dev/shm", "type": "bind", "source": "/s/shm", "options": ["rbind", "ro"]},
            {"destination": "/etc/hosts", "type": "bind", "source": "/s/hosts", "options": ["rbind"]}
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "ipc", "path": "/proc/77/ns/ipc"}, {"type": "mount"},
                {"type": "uts", "path": "/proc/77/ns/uts"}, {"type": "network", "path": "/proc/77/ns/net"}],
            "resources": {"memory": {"limit": 67108864}, "cpu": {"quota": 50000}, "blockIO": {"weight": 10}}
        }
    }"#;

    const SANDBOX: Sandbox<'_> = Sandbox {
        host_pid: 77,
        guest_pid: 9,
        network: None,
    };

    fn planned(change: impl FnOnce(&mut Spec)) -> Result<MemberPlan, String> {
        let mut spec: Spec = serde_json::from_str(SIDE).unwrap();
        change(&mut spec);
        let id = "side".parse().unwrap();
        plan(&spec, &id, "3", &SANDBOX).map_err(|failure| failure.message)
    }

    #[test]
    fn it_shares_its_sandboxs_namespaces_in_the_guest() {
        let MemberPlan { guest, binds } = planned(|_| {}).unwrap();
        let root = guest.root.unwrap().path;
        assert_eq!(root, Path::new("/run/atoll/share/pod/3/rootfs"));
        let linux = guest.linux.unwrap();
        let namespaces: Vec<_> = linux
            .namespaces
            .iter()
            .map(|namespace| (namespace.kind, namespace.path.clone()))
            .collect();
        let expected = [
            (NamespaceKind::Pid, None),
            (NamespaceKind::Ipc, Some("/proc/9/ns/ipc".into())),
            (NamespaceKind::Mount, None),
            (NamespaceKind::Uts, Some("/proc/9/ns/uts".into())),
        ];
        assert_eq!(namespaces, expected);
        let sources: Vec<_> = guest
            .mounts
            .into_iter()
            .filter_map(|mount| mount.source)
            .collect();
        let expected = ["/run/atoll/shm", "/run/atoll/share/pod/3/binds/0"];
        assert_eq!(sources, expected.map(PathBuf::from));
        assert_eq!(binds.len(), 1);
        assert_eq!(binds[0].source, Path::new("/s/hosts"));
        let resources = linux.resources.unwrap();
        assert!(resources.cpu.is_some() && resources.block_io.is_none());
        assert_eq!(resources.memory.unwrap().limit, Some(64 << 20));
        assert_eq!(linux.cgroups_path.as_deref(), Some("/side"));
    }

    #[test]
    fn what_is_not_its_pods_is_refused_by_name() {
        fn linux(spec: &mut Spec) -> &mut Linux {
            spec.linux.as_mut().unwrap()
        }
        let other = planned(|spec| linux(spec).namespaces[1].path = Some("/proc/1/ns/ipc".into()));
        let other = other.unwrap_err();
        assert!(
            other.contains("Ipc namespace /proc/1/ns/ipc; that of its sandbox is /proc/77/ns"),
            "{other}"
        );
        let swapped =
            planned(|spec| linux(spec).namespaces[0].path = Some("/proc/77/ns/net".into()));
        assert!(
            swapped
                .unwrap_err()
                .contains("Pid namespace /proc/77/ns/net")
        );
        let user = planned(|spec| {
            let kind = NamespaceKind::User;
            let path = Some("/proc/77/ns/user".into());
            linux(spec).namespaces.push(Namespace { kind, path });
        });
        assert!(
            user.unwrap_err()
                .contains("User namespace /proc/77/ns/user")
        );
        let shared = planned(|spec| drop(linux(spec).namespaces.remove(0)));
        assert!(shared.unwrap_err().contains("host's pid namespace"));
        let process = planned(|spec| {
            spec.annotations
                .insert(ISOLATION.to_owned(), "process".to_owned());
        });
        assert!(process.unwrap_err().contains("pod is in a machine"));
        let hooks = planned(|spec| {
            let poststop = vec![atoll_spec::Hook::default()];
            spec.hooks = Some(atoll_spec::Hooks {
                poststop,
                ..Default::default()
            });
        });
        assert!(hooks.unwrap_err().starts_with("hooks: not available"));
    }

    #[test]
    fn its_sandboxs_network_may_be_named_by_its_mount() {
        let path = Path::new("/run/netns/cni-1");
        let mut spec: Spec = serde_json::from_str(SIDE).unwrap();
        spec.linux.as_mut().unwrap().namespaces[4].path = Some(path.to_owned());
        let id = "side".parse().unwrap();
        assert!(plan(&spec, &id, "3", &SANDBOX).is_err());
        let sandbox = Sandbox {
            network: Some(path),
            ..SANDBOX
        };
        assert!(plan(&spec, &id, "3", &sandbox).is_ok());
    }
}
