//! What a container's configuration means behind the wall of a machine. Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use atoll_container::RootfsMount;
use atoll_guest::protocol::{FIRST_CGROUP, Network, POD_SHM, ROOTFS, Route, SHARE};
use atoll_machine::Backend;
use atoll_shim_protocol::machine::{self, DEFAULT_MEMORY, MOST_NETWORKS, MachineNetwork, NETWORK};
use atoll_spec::{Linux, Mount, NamespaceKind, Resources, Root, Spec};

use super::asked::asked;
use crate::failure::Failure;
use crate::pod::{self, Role};

/// What the guest's kernel and agent need beside the container's limit.
const OVERHEAD: u64 = 96 << 20;
/// Machines come in multiples of this.
const STEP: u64 = 32 << 20;
/// The shared memory of a pod, as containerd's CRI plugin makes it on the host.
const SHM: u64 = 64 << 20;
/// Nothing boots in less.
pub(super) const LEAST: u64 = 128 << 20;
/// No machine has more.
pub(super) const MAX_CPUS: u8 = 64;

/// A machine and what goes into it.
#[derive(Debug, PartialEq)]
pub(crate) struct Plan {
    /// Who executes it.
    pub(crate) backend: Backend,
    /// Bytes of its memory.
    pub(crate) memory_bytes: u64,
    /// Its virtual CPUs.
    pub(crate) cpus: u8,
    /// Where its root file system comes from.
    pub(crate) root: RootSource,
    /// The kernel of its `vm` object, instead of the host's newest.
    pub(crate) kernel: Option<PathBuf>,
    /// Words for the kernel's command line.
    pub(crate) parameters: Vec<String>,
    /// Its network cards: the host's tap of each, and what the guest is told of it. It begins with the first; the others
    /// are plugged in.
    pub(crate) networks: Vec<(String, Network)>,
    /// The network namespace whose link the card takes the place of: a pod's.
    pub(crate) namespace: Option<PathBuf>,
    /// Bytes of the shared memory of a pod's containers.
    pub(crate) shm_bytes: Option<u64>,
    /// Settings of the guest's network.
    pub(crate) sysctls: BTreeMap<String, String>,
    /// What is shown to the guest beside the root file system.
    pub(crate) binds: Vec<Bind>,
    /// The configuration the agent builds.
    pub(crate) guest: Spec,
    /// The configuration for the monitor's control groups.
    pub(crate) host: Spec,
}

/// Where a root file system comes from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RootSource {
    /// The host mounts it and shows it as `rootfs` in the share.
    Share,
    /// EROFS images, the first on top, on a disk; above them a directory with `diff` and `work` of the host's.
    Layers {
        images: Vec<PathBuf>,
        upper: PathBuf,
    },
}

/// A file or directory of the host's, shown as `binds/N` in the share.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    pub(crate) read_only: bool,
    pub(crate) recursive: bool,
}

/// Plans the machine.
///
/// * `rootfs`: the mounts that make up the root file system.
/// * `joins_network`: a network namespace by path is one whose link the machine's card takes the place of, as a pod's is.
///
/// # Errors
/// What the configuration wants and a machine cannot give, by name.
pub(crate) fn plan(
    spec: &Spec,
    backend: Backend,
    rootfs: &[RootfsMount],
    joins_network: bool,
) -> Result<Plan, Failure> {
    let is_sandbox = pod::role(&spec.annotations) == Role::Sandbox;
    let joins_network = joins_network || is_sandbox;
    refuse(spec, joins_network)?;
    let root = root_source(rootfs)?;
    if is_sandbox && root != RootSource::Share {
        return Err(Failure::invalid(
            "the root file system of a pod's sandbox cannot be made of EROFS images behind the wall of a machine",
        ));
    }
    let networks = match spec.annotations.get(NETWORK) {
        Some(text) => cards(text)?,
        None => Vec::new(),
    };
    let none = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&none);
    let resources = linux.resources.clone().unwrap_or_default();
    let (mounts, binds) = mounts(&spec.mounts, "", is_sandbox)?;
    let sizes = if is_sandbox {
        pod::sizes(&spec.annotations)?
    } else {
        resources.clone()
    };
    let asked = asked(spec.vm.as_ref())?;
    let limit = sizes.memory.as_ref().and_then(|memory| memory.limit);
    Ok(Plan {
        backend,
        memory_bytes: asked.memory_bytes.unwrap_or_else(|| memory_bytes(limit)),
        cpus: asked.cpus.unwrap_or_else(|| cpus(&sizes)),
        kernel: asked.kernel,
        parameters: asked.parameters,
        networks,
        namespace: joins_network.then(|| joined_network(linux)).flatten(),
        shm_bytes: is_sandbox.then_some(SHM),
        sysctls: sysctls(linux).0,
        binds,
        guest: guest(
            spec,
            linux,
            &resources,
            mounts,
            FIRST_CGROUP,
            root_path(&root),
        ),
        root,
        // A sandbox's own share of the CPU is that of a process that sleeps; its machine has the pod's.
        host: host(spec, linux, if is_sandbox { &sizes } else { &resources }),
    })
}

/// Of new limits, those that are set from outside.
///
/// # Errors
/// When the guest's memory would have to change.
pub(crate) fn outer(all: Resources) -> Result<Resources, Failure> {
    if all
        .memory
        .as_ref()
        .is_some_and(|memory| memory.limit.is_some())
    {
        return Err(Failure::invalid(
            "the memory of a machine cannot be changed while it runs",
        ));
    }
    Ok(Resources {
        cpu: all.cpu,
        block_io: all.block_io,
        ..Resources::default()
    })
}

/// The network namespace that the container is to be in.
fn joined_network(linux: &Linux) -> Option<PathBuf> {
    let mut all = linux.namespaces.iter();
    let network = all.find(|namespace| namespace.kind == NamespaceKind::Network)?;
    network.path.clone()
}

fn refuse(spec: &Spec, joins_network: bool) -> Result<(), Failure> {
    let none = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&none);
    let joined = linux.namespaces.iter().find(|namespace| {
        let is_joined = joins_network && namespace.kind == NamespaceKind::Network;
        namespace.path.is_some() && !is_joined
    });
    if let Some(namespace) = joined {
        return Err(Failure::invalid(format!(
            "a machine cannot join the host's {:?} namespace {}",
            namespace.kind,
            namespace.path.as_deref().unwrap_or(Path::new("")).display()
        )));
    }
    let shared = [
        (NamespaceKind::Network, "network"),
        (NamespaceKind::Pid, "pid"),
        (NamespaceKind::Ipc, "ipc"),
        (NamespaceKind::Uts, "uts"),
    ];
    if let Some((_, name)) = shared.iter().find(|(kind, _)| !linux.has_namespace(*kind)) {
        return Err(Failure::invalid(format!(
            "a machine cannot share the host's {name} namespace: linux.namespaces must have a new one"
        )));
    }
    unavailable(spec, linux)
}

/// What no container in a machine can have.
pub(super) fn unavailable(spec: &Spec, linux: &Linux) -> Result<(), Failure> {
    let unavailable = [
        (
            spec.hooks
                .as_ref()
                .is_some_and(|hooks| *hooks != atoll_spec::Hooks::default()),
            "hooks",
        ),
        (
            !linux.devices.is_empty(),
            "devices of the host (linux.devices)",
        ),
        (linux.intel_rdt.is_some(), "linux.intelRdt"),
    ];
    match unavailable.iter().find(|(asked, _)| *asked) {
        None => Ok(()),
        Some((_, what)) => Err(Failure::invalid(format!(
            "{what}: not available behind the wall of a machine"
        ))),
    }
}

/// Mounts of type `erofs`, top first, and one of type `overlay` above them (containerd's EROFS snapshotter has the same);
/// anything else is for the host to mount.
fn root_source(mounts: &[RootfsMount]) -> Result<RootSource, Failure> {
    let Some((overlay, images)) = mounts.split_last() else {
        return Ok(RootSource::Share);
    };
    if images.is_empty() || images.iter().any(|image| image.kind != "erofs") {
        return Ok(RootSource::Share);
    }
    let option = |name: &str| {
        let value =
            |option: &String| Some(option.strip_prefix(name)?.strip_prefix('=')?.to_owned());
        overlay.options.iter().find_map(value).map(PathBuf::from)
    };
    let (diff, work) = (option("upperdir"), option("workdir"));
    let places = diff.as_ref().zip(work.as_ref()).filter(|(diff, work)| {
        diff.ends_with("diff") && work.ends_with("work") && diff.parent() == work.parent()
    });
    let upper = places.and_then(|(diff, _)| diff.parent());
    match upper {
        Some(upper) if overlay.kind == "overlay" => Ok(RootSource::Layers {
            images: images.iter().map(|image| (&image.source).into()).collect(),
            upper: upper.to_owned(),
        }),
        _ => Err(Failure::invalid(
            "a root file system of EROFS images needs an overlay above them whose upperdir and workdir are the directories diff and work of one place",
        )),
    }
}

fn cards(text: &str) -> Result<Vec<(String, Network)>, Failure> {
    let bad = |why: String| Failure::invalid(format!("bad annotation {NETWORK}: {why}"));
    let cards = machine::networks(text).map_err(|error| bad(error.to_string()))?;
    if cards.len() > usize::from(MOST_NETWORKS) {
        return Err(bad(format!(
            "{} networks, a machine has at most {MOST_NETWORKS}",
            cards.len()
        )));
    }
    if let Some(first) = cards.first().filter(|card| card.interface != "eth0") {
        return Err(bad(format!("the first link is {}", first.interface)));
    }
    Ok(cards.into_iter().map(card).collect())
}

/// The host's tap of a card, and what the guest is told of it before it is plugged in.
pub(super) fn card(card: MachineNetwork) -> (String, Network) {
    let default = Route {
        destination: Ipv4Addr::UNSPECIFIED,
        prefix_len: 0,
        gateway: Some(card.gateway),
    };
    let mut routes = vec![subnet(card.address, card.prefix_len)];
    routes.extend(card.is_way_out.then_some(default));
    let network = Network {
        place: None,
        interface: card.interface,
        mac: card.mac,
        mtu: card.mtu,
        addresses: vec![(card.address, card.prefix_len)],
        routes,
    };
    (card.tap, network)
}

/// The route to the subnet of an address.
fn subnet(address: Ipv4Addr, prefix_len: u8) -> Route {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len.min(32)));
    Route {
        destination: Ipv4Addr::from_bits(address.to_bits() & mask.unwrap_or(0)),
        prefix_len,
        gateway: None,
    }
}

/// The limit and what the guest needs itself; with a limit that is none, what a machine has by default.
fn memory_bytes(limit: Option<i64>) -> u64 {
    let limit = limit.and_then(|limit| u64::try_from(limit).ok());
    // Docker's and containerd's "no limit" are numbers no machine has.
    match limit.filter(|limit| (1..1 << 40).contains(limit)) {
        None => DEFAULT_MEMORY,
        Some(limit) => (limit + OVERHEAD).next_multiple_of(STEP).max(LEAST),
    }
}

/// As many as the quota pays for.
fn cpus(resources: &Resources) -> u8 {
    let Some(cpu) = &resources.cpu else { return 1 };
    let period = cpu.period.filter(|period| *period > 0).unwrap_or(100_000);
    let quota = cpu.quota.and_then(|quota| u64::try_from(quota).ok());
    let whole = quota.map_or(1, |quota| quota.div_ceil(period).max(1));
    u8::try_from(whole).unwrap_or(u8::MAX).min(MAX_CPUS)
}

/// Mounts as the guest makes them, and what the host has to show for them.
///
/// * `folder`: of the container in the share, with a slash at its end; empty for the machine's first.
/// * `is_pods`: its `/dev/shm` is the pod's.
pub(super) fn mounts(
    mounts: &[Mount],
    folder: &str,
    is_pods: bool,
) -> Result<(Vec<Mount>, Vec<Bind>), Failure> {
    let mut binds = Vec::new();
    let mut ours = Vec::with_capacity(mounts.len());
    for mount in mounts {
        let has = |name: &str| mount.options.iter().any(|option| option == name);
        let recursive = has("rbind");
        let is_bind = recursive || has("bind") || mount.kind.as_deref() == Some("bind");
        let (true, Some(source)) = (is_bind, &mount.source) else {
            ours.push(mount.clone());
            continue;
        };
        if is_pods && mount.destination == Path::new("/dev/shm") {
            ours.push(Mount {
                source: Some(POD_SHM.into()),
                ..mount.clone()
            });
            continue;
        }
        if has("idmap") || has("ridmap") {
            return Err(Failure::invalid(format!(
                "mount {}: idmapped mounts are not available behind the wall of a machine",
                mount.destination.display()
            )));
        }
        let read_only = has("ro") || has("rro");
        let is_same = |bind: &Bind| bind.source == *source && bind.recursive == recursive;
        let shown = binds.iter().position(is_same);
        ours.push(Mount {
            source: Some(format!("{SHARE}/{folder}binds/{}", shown.unwrap_or(binds.len())).into()),
            ..mount.clone()
        });
        // A directory of the host is one to the guest, wherever it finds it: shown read-only as well, it might be so
        // everywhere. The guest's kernel keeps to the container what is read-only there.
        match shown.and_then(|number| binds.get_mut(number)) {
            Some(bind) => bind.read_only &= read_only,
            None => binds.push(Bind {
                source: source.clone(),
                read_only,
                recursive,
            }),
        }
    }
    Ok((ours, binds))
}

/// The container as it is built inside: the machine is the wall, so what only guards the host's kernel is left out, and
/// what the host limits from outside.
pub(super) fn guest(
    spec: &Spec,
    linux: &Linux,
    all: &Resources,
    mounts: Vec<Mount>,
    cgroup: &str,
    root: PathBuf,
) -> Spec {
    let mut guest = spec.clone();
    guest.root = Some(Root {
        path: root,
        readonly: spec.root.as_ref().is_some_and(|root| root.readonly),
    });
    guest.mounts = mounts;
    guest.annotations.clear();
    guest.vm = None;
    if let Some(process) = &mut guest.process {
        process.apparmor_profile = None;
        process.selinux_label = None;
    }
    let mut inner = linux.clone();
    // The guest's network is the machine's.
    inner
        .namespaces
        .retain(|namespace| namespace.kind != NamespaceKind::Network);
    inner.sysctl = sysctls(linux).1;
    inner.cgroups_path = Some(cgroup.to_owned());
    inner.resources = Some(Resources {
        memory: all.memory.clone(),
        pids: all.pids.clone(),
        ..Resources::default()
    });
    inner.seccomp = None;
    inner.mount_label = None;
    guest.linux = Some(inner);
    guest
}

fn root_path(root: &RootSource) -> PathBuf {
    match root {
        RootSource::Share => Path::new(SHARE).join("rootfs"),
        RootSource::Layers { .. } => ROOTFS.into(),
    }
}

/// Those of the network, which is the guest's, and the container's others.
fn sysctls(linux: &Linux) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let all = linux.sysctl.clone();
    all.into_iter()
        .partition(|(key, _)| key.starts_with("net."))
}

/// What the monitor's control groups are made of.
fn host(spec: &Spec, linux: &Linux, all: &Resources) -> Spec {
    Spec {
        oci_version: spec.oci_version.clone(),
        annotations: spec.annotations.clone(),
        linux: Some(Linux {
            cgroups_path: linux.cgroups_path.clone(),
            resources: Some(Resources {
                cpu: all.cpu.clone(),
                block_io: all.block_io.clone(),
                ..Resources::default()
            }),
            ..Linux::default()
        }),
        ..Spec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        serde_json::from_str(text).unwrap()
    }

    const WEB: &str = r#"{
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": true},
        "process": {"args": ["sh"], "cwd": "/", "apparmorProfile": "docker-default", "user": {"uid": 0, "gid": 0}},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/etc/hosts", "type": "bind", "source": "/d/hosts", "options": ["rbind", "rprivate"]},
            {"destination": "/data", "type": "bind", "source": "/srv", "options": ["bind", "ro"]}
        ],
        "annotations": {"io.atoll.isolation": "vm:soft", "io.atoll.machine.network":
            "{\"tap\":\"tap0\",\"mac\":[2,66,172,17,0,2],\"mtu\":1500,\"address\":\"172.17.0.2\",\"prefix_len\":16,\"gateway\":\"172.17.0.1\"}"},
        "linux": {
            "cgroupsPath": "atoll/web",
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "resources": {"memory": {"limit": 67108864}, "cpu": {"quota": 150000, "period": 100000}, "pids": {"limit": 9},
                "devices": [{"allow": false, "access": "rwm"}]},
            "sysctl": {"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"},
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}
        }
    }"#;

    #[test]
    fn a_container_becomes_a_machine_and_a_container_in_it() {
        let spec = spec(WEB);
        let plan = plan(&spec, Backend::Soft, &[], false).unwrap();
        assert_eq!((plan.memory_bytes, plan.cpus), (160 << 20, 2));
        assert_eq!(plan.networks.len(), 1);
        let (tap, network) = &plan.networks[0];
        assert_eq!(tap, "tap0");
        assert_eq!(network.addresses, [([172, 17, 0, 2].into(), 16)]);
        let routes: Vec<_> = network
            .routes
            .iter()
            .map(|route| (route.destination.to_string(), route.gateway.is_some()))
            .collect();
        let expected = [("172.17.0.0", false), ("0.0.0.0", true)];
        assert_eq!(routes, expected.map(|(to, by)| (to.to_owned(), by)));
        assert_eq!(
            plan.binds,
            [
                Bind {
                    source: "/d/hosts".into(),
                    read_only: false,
                    recursive: true
                },
                Bind {
                    source: "/srv".into(),
                    read_only: true,
                    recursive: false
                }
            ]
        );
        let guest = plan.guest;
        let root = guest.root.unwrap();
        assert_eq!(root.path, Path::new("/run/atoll/share/rootfs"));
        assert!(root.readonly);
        let source = |at: usize| guest.mounts[at].source.as_deref();
        assert_eq!(source(0), Some(Path::new("proc")));
        assert_eq!(source(2), Some(Path::new("/run/atoll/share/binds/1")));
        assert!(guest.annotations.is_empty());
        assert_eq!(guest.process.unwrap().apparmor_profile, None);
        let linux = guest.linux.unwrap();
        let keys = |map: &BTreeMap<String, String>| map.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&plan.sysctls), ["net.ipv4.ip_forward"]);
        assert_eq!(keys(&linux.sysctl), ["kernel.shm_rmid_forced"]);
        assert!(linux.seccomp.is_none());
        let kinds: Vec<_> = linux.namespaces.iter().map(|one| one.kind).collect();
        let left = [
            NamespaceKind::Pid,
            NamespaceKind::Ipc,
            NamespaceKind::Uts,
            NamespaceKind::Mount,
        ];
        assert_eq!(kinds, left);
        let resources = linux.resources.unwrap();
        assert!(resources.cpu.is_none() && resources.devices.is_empty());
        assert_eq!(resources.memory.unwrap().limit, Some(67_108_864));
        let host = plan.host.linux.unwrap();
        assert_eq!(host.cgroups_path.as_deref(), Some("atoll/web"));
        let resources = host.resources.unwrap();
        assert!(resources.cpu.is_some() && resources.memory.is_none());
        assert!(resources.devices.is_empty());
    }

    #[test]
    fn each_network_is_a_card_and_one_of_them_the_way_out() {
        let card = |number: u8, is_way_out: bool| {
            format!(
                r#"{{"tap":"tap{number}","mac":[2,0,0,0,0,{number}],"mtu":1500,"address":"10.0.{number}.2","prefix_len":24,
                    "gateway":"10.0.{number}.1","interface":"eth{number}","is_way_out":{is_way_out}}}"#
            )
        };
        let planned = |cards: &[String]| {
            let mut spec = spec(WEB);
            let text = format!("[{}]", cards.join(","));
            spec.annotations.insert(NETWORK.into(), text);
            let planned = plan(&spec, Backend::Soft, &[], false);
            planned
                .map(|plan| plan.networks)
                .map_err(|failure| failure.message)
        };
        let networks = planned(&[card(0, false), card(1, true)]).unwrap();
        let told: Vec<_> = networks
            .iter()
            .map(|(tap, card)| (&**tap, &*card.interface, card.routes.len()))
            .collect();
        assert_eq!(told, [("tap0", "eth0", 1), ("tap1", "eth1", 2)]);
        assert!(networks.iter().all(|(_, card)| card.place.is_none()));
        assert!(planned(&[]).unwrap().is_empty());
        let wrong = planned(&[card(1, true)]).unwrap_err();
        assert!(wrong.contains("the first link is eth1"), "{wrong}");
        let many: Vec<_> = (0..9).map(|number| card(number, number == 0)).collect();
        let many = planned(&many).unwrap_err();
        assert!(
            many.ends_with("9 networks, a machine has at most 8"),
            "{many}"
        );
    }

    #[test]
    fn layers_are_a_disk_below_a_directory() {
        let mount = |kind: &str, source: &str, options: &[&str]| RootfsMount {
            kind: kind.to_owned(),
            source: source.to_owned(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
        };
        let upper = ["upperdir=/c/upper/diff", "workdir=/c/upper/work"];
        let mounts = [
            mount("erofs", "/l/2.erofs", &["ro"]),
            mount("erofs", "/l/1.erofs", &["ro"]),
            mount("overlay", "overlay", &upper),
        ];
        let plan = plan(&spec(WEB), Backend::Soft, &mounts, false).unwrap();
        let images = vec!["/l/2.erofs".into(), "/l/1.erofs".into()];
        let upper_folder = "/c/upper".into();
        assert_eq!(
            plan.root,
            RootSource::Layers {
                images,
                upper: upper_folder
            }
        );
        assert_eq!(
            plan.guest.root.unwrap().path,
            Path::new("/run/atoll/rootfs")
        );
        assert_eq!(root_source(&mounts[2..]).unwrap(), RootSource::Share);
        assert_eq!(root_source(&[]).unwrap(), RootSource::Share);
        for bad in [
            mount("overlay", "overlay", &upper[..1]),
            mount(
                "overlay",
                "overlay",
                &["upperdir=/a/diff", "workdir=/b/work"],
            ),
            mount("overlay", "overlay", &["upperdir=/a/x", "workdir=/a/work"]),
            mount("bind", "/x", &upper),
        ] {
            let mounts = [mounts[0].clone(), bad];
            assert!(root_source(&mounts).is_err(), "{mounts:?}");
        }
    }

    #[test]
    fn what_is_mounted_twice_is_shown_once() {
        let mut spec = spec(WEB);
        let mut again = spec.mounts[2].clone();
        again.destination = "/again".into();
        again.options = vec!["bind".to_owned()];
        spec.mounts.push(again);
        let (mounts, binds) = mounts(&spec.mounts, "", false).unwrap();
        assert_eq!(binds.len(), 2);
        assert!(!binds[1].read_only);
        assert_eq!(mounts[2].source, mounts[3].source);
        assert!(mounts[2].options.contains(&"ro".to_owned()));
    }

    #[test]
    fn memory_has_room_for_the_kernel() {
        assert_eq!(memory_bytes(None), 512 << 20);
        assert_eq!(memory_bytes(Some(-1)), 512 << 20);
        assert_eq!(memory_bytes(Some(i64::MAX)), 512 << 20);
        assert_eq!(memory_bytes(Some(6 << 20)), 128 << 20);
        assert_eq!(memory_bytes(Some(1 << 30)), (1024 + 96) << 20);
    }

    #[test]
    fn what_a_machine_cannot_give_is_named() {
        let refused = |change: &dyn Fn(&mut Spec)| {
            let mut spec = spec(WEB);
            change(&mut spec);
            plan(&spec, Backend::Soft, &[], false).unwrap_err().message
        };
        let joined = refused(&|spec| {
            let linux = spec.linux.as_mut().unwrap();
            linux.namespaces[1].path = Some("/proc/1/ns/net".into());
        });
        assert!(
            joined.contains("Network namespace /proc/1/ns/net"),
            "{joined}"
        );
        let hooks = refused(&|spec| {
            let hook = atoll_spec::Hook::default();
            spec.hooks = Some(atoll_spec::Hooks {
                poststop: vec![hook],
                ..atoll_spec::Hooks::default()
            });
        });
        assert!(hooks.starts_with("hooks: not available"), "{hooks}");
        let card = refused(&|spec| {
            spec.annotations.insert(NETWORK.into(), "{}".into());
        });
        assert!(
            card.contains("bad annotation io.atoll.machine.network"),
            "{card}"
        );
        let idmap = refused(&|spec| spec.mounts[1].options.push("idmap".into()));
        assert!(idmap.contains("/etc/hosts: idmapped"), "{idmap}");
        for (idx, kind) in ["pid", "network", "ipc", "uts"].iter().enumerate() {
            let shared = refused(&|spec| {
                drop(spec.linux.as_mut().unwrap().namespaces.remove(idx));
            });
            assert!(shared.contains(&format!("host's {kind} name")), "{shared}");
        }
    }
}
