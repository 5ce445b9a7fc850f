//! Plans, printed, without root and without looking at the machine.

#![expect(clippy::unwrap_used, reason = "tests")]

use atoll_cgroup::Hierarchies;
use atoll_container::{CreateRequest, HostFacts, plan};
use atoll_resctrl::Resctrl;
use atoll_spec::{IntelRdt, Mount, Namespace, NamespaceKind, Resources, Spec};
use atoll_sys::capability::Set;

const V2: (&str, &str) = (
    "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
    "0::/user.slice",
);
const V1: (&str, &str) = (
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
     35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
     39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids",
    "4:memory:/own\n2:cpu,cpuacct:/own\n1:pids:/own",
);

fn printed(spec: &Spec, (mountinfo, cgroup): (&str, &str)) -> String {
    let request = CreateRequest::new(
        "web".parse().unwrap(),
        "/run/state".into(),
        "/bundle".into(),
    );
    let facts = HostFacts {
        capabilities: Set(u64::MAX >> 23),
        systemd: None,
        hierarchies: Hierarchies::from_parts(mountinfo, cgroup).unwrap(),
        is_in_user_namespace: false,
        has_apparmor: false,
        has_selinux: false,
        resctrl: None,
    };
    plan(spec, &request, &facts).unwrap().to_string()
}

#[test]
fn the_example_on_cgroup_v2() {
    insta::assert_snapshot!(printed(&atoll_spec::example(), V2));
}

#[test]
fn limits_and_mounts_on_cgroup_v1() {
    let mut spec = atoll_spec::example();
    let resources = r#"{"memory":{"limit":67108864},"pids":{"limit":50},"cpu":{"quota":50000,"period":100000}}"#;
    let linux = spec.linux.as_mut().unwrap();
    linux.resources = Some(serde_json::from_str::<Resources>(resources).unwrap());
    linux.cgroups_path = Some("/atoll/web".to_owned());
    linux
        .sysctl
        .insert("net.ipv4.ip_forward".to_owned(), "1".to_owned());
    spec.mounts.push(Mount {
        destination: "/a/../data".into(),
        kind: Some("bind".to_owned()),
        source: Some("volume".into()),
        options: ["rbind", "ro", "rprivate", "rnosuid"]
            .map(str::to_owned)
            .into(),
        ..Mount::default()
    });
    insta::assert_snapshot!(printed(&spec, V1));
}

#[test]
fn labels_and_shares_are_planned_where_the_host_has_them() {
    let mut spec = atoll_spec::example();
    spec.process.as_mut().unwrap().selinux_label = Some("u:r:process_t:s0:c1,c2".to_owned());
    let linux = spec.linux.as_mut().unwrap();
    linux.mount_label = Some("u:r:file_t:s0:c1,c2".to_owned());
    linux.intel_rdt = Some(IntelRdt {
        l3_cache_schema: Some("L3:0=f".to_owned()),
        enable_monitoring: true,
        ..IntelRdt::default()
    });
    let request = CreateRequest::new("web".parse().unwrap(), "/s".into(), "/b".into());
    let mut facts = HostFacts {
        capabilities: Set(u64::MAX),
        systemd: None,
        hierarchies: Hierarchies::from_parts(V2.0, V2.1).unwrap(),
        is_in_user_namespace: false,
        has_apparmor: false,
        has_selinux: true,
        resctrl: Some(Resctrl::with_resources("/sys/fs/resctrl", ["L3"])),
    };
    let printed = plan(&spec, &request, &facts).unwrap().to_string();
    let of_them = |line: &&str| {
        let words = ["resctrl", "selinux", "label", "context="];
        words.iter().any(|word| line.contains(word))
    };
    let lines: Vec<&str> = printed.lines().filter(of_them).collect();
    insta::assert_snapshot!(lines.join("\n"));
    facts.resctrl = None;
    let refused = plan(&spec, &request, &facts).unwrap_err().to_string();
    assert!(refused.starts_with("linux.intelRdt: "), "{refused}");
}

#[test]
fn what_can_not_be_is_refused_by_field() {
    let fault = |change: fn(&mut Spec)| {
        let mut spec = atoll_spec::example();
        change(&mut spec);
        let request = CreateRequest::new("web".parse().unwrap(), "/s".into(), "/b".into());
        let facts = HostFacts {
            capabilities: Set(u64::MAX),
            systemd: None,
            hierarchies: Hierarchies::from_parts(V2.0, V2.1).unwrap(),
            is_in_user_namespace: false,
            has_apparmor: false,
            has_selinux: false,
            resctrl: None,
        };
        plan(&spec, &request, &facts).unwrap_err().to_string()
    };
    assert_eq!(fault(|spec| spec.process = None), "process: is missing");
    let host_net = fault(|spec| {
        let linux = spec.linux.as_mut().unwrap();
        linux
            .namespaces
            .retain(|ns| ns.kind != NamespaceKind::Network);
        linux
            .sysctl
            .insert("net.core.somaxconn".to_owned(), "1".to_owned());
    });
    let expected =
        "linux.sysctl: sysctl \"net.core.somaxconn\" is not allowed in the hosts net namespace";
    assert_eq!(host_net, expected);
    let label = fault(|spec| {
        let linux = spec.linux.as_mut().unwrap();
        linux.mount_label = Some("system_u:object_r:x:s0".to_owned());
    });
    assert!(label.starts_with("linux.mountLabel: selinux"), "{label}");
    let unmapped = fault(|spec| {
        spec.linux.as_mut().unwrap().namespaces.push(Namespace {
            kind: NamespaceKind::User,
            path: None,
        });
    });
    assert!(unmapped.starts_with("linux.uidMappings: "), "{unmapped}");
    let device = fault(|spec| {
        let resources = spec.linux.as_mut().unwrap().resources.as_mut().unwrap();
        resources.devices[0].access = Some("x".to_owned());
    });
    assert!(
        device.starts_with("linux.resources.devices[0]: access"),
        "{device}"
    );
    let path = fault(|spec| spec.linux.as_mut().unwrap().cgroups_path = Some("/a/../b".to_owned()));
    assert!(path.contains(".."), "{path}");
}
