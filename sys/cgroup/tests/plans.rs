//! Plans are pure: what they say for a machine that isn't this one.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use atoll_cgroup::{
    CgroupPath, DeviceRate, DeviceRule, Error, Hierarchies, HugepageLimit, RdmaLimit, Resources,
    plan, plan_update,
};

const V1_MOUNTS: &str = "\
1 0 0:1 / /cg/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
2 0 0:2 / /cg/cpuset rw - cgroup cgroup rw,cpuset
3 0 0:3 / /cg/memory rw - cgroup cgroup rw,memory
4 0 0:4 / /cg/devices rw - cgroup cgroup rw,devices
5 0 0:5 / /cg/pids rw - cgroup cgroup rw,pids
6 0 0:6 / /cg/systemd rw - cgroup cgroup rw,name=systemd
7 0 0:7 / /cg/unified rw - cgroup2 cgroup2 rw
";
const V1_OWN: &str = "6:name=systemd:/svc\n5:pids:/\n4:devices:/\n3:memory:/api/x\n2:cpuset:/\n\
                      1:cpu,cpuacct:/\n0::/svc\n";
const V2_MOUNTS: &str = "1 0 0:1 / /cg rw - cgroup2 cgroup2 rw\n";

fn v1() -> Hierarchies {
    Hierarchies::from_parts(V1_MOUNTS, V1_OWN).unwrap()
}

fn v2() -> Hierarchies {
    Hierarchies::from_parts(V2_MOUNTS, "0::/\n").unwrap()
}

fn path(text: &str) -> CgroupPath {
    text.parse().unwrap()
}

fn limits() -> Resources {
    Resources {
        memory_limit_bytes: Some(64 << 20),
        memory_swap_bytes: Some(128 << 20),
        cpu_shares: Some(512),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        cpuset_cpus: Some("0".into()),
        pids_limit: Some(100),
        devices: vec![
            DeviceRule::DENY_ALL,
            DeviceRule::allow_character(1, Some(3)),
            DeviceRule::allow_character(136, None),
        ],
        ..Resources::default()
    }
}

#[test]
fn v1_limits_become_files() {
    let text = plan(&v1(), &path("/docker/a"), &limits())
        .unwrap()
        .to_string();
    assert_eq!(
        text,
        "\
mkdir /cg/cpu,cpuacct/docker/a
mkdir /cg/cpuset/docker/a
inherit cpuset from /cg/cpuset to /cg/cpuset/docker/a
mkdir /cg/memory/docker/a
mkdir /cg/devices/docker/a
mkdir /cg/pids/docker/a
mkdir /cg/systemd/docker/a
mkdir /cg/unified/docker/a
write /cg/cpuset/docker/a/cpuset.cpus = 0
write /cg/cpu,cpuacct/docker/a/cpu.shares = 512
write /cg/cpu,cpuacct/docker/a/cpu.cfs_period_us = 100000
write /cg/cpu,cpuacct/docker/a/cpu.cfs_quota_us = 50000 (either order)
write /cg/memory/docker/a/memory.limit_in_bytes = 67108864
write /cg/memory/docker/a/memory.memsw.limit_in_bytes = 134217728 (if there) (either order)
write /cg/pids/docker/a/pids.max = 100
write /cg/devices/docker/a/devices.deny = a
write /cg/devices/docker/a/devices.allow = c 1:3 rwm
write /cg/devices/docker/a/devices.allow = c 136:* rwm
"
    );
}

#[test]
fn v1_without_limits_is_in_every_hierarchy_and_writes_nothing() {
    let unlimited = Resources {
        memory_limit_bytes: Some(-1),
        pids_limit: Some(-1),
        cpu_shares: Some(0),
        ..Resources::default()
    };
    let text = plan(&v1(), &path("a"), &unlimited).unwrap().to_string();
    assert_eq!(
        text,
        "\
mkdir /cg/cpu,cpuacct/a
mkdir /cg/cpuset/a
inherit cpuset from /cg/cpuset to /cg/cpuset/a
mkdir /cg/memory/api/x/a
mkdir /cg/devices/a
mkdir /cg/pids/a
mkdir /cg/systemd/svc/a
mkdir /cg/unified/svc/a
"
    );
}

#[test]
fn v2_limits_become_files() {
    let text = plan(&v2(), &path("/docker/a"), &limits())
        .unwrap()
        .to_string();
    assert_eq!(
        text,
        "\
enable +cpu +io +memory +pids +cpuset from /cg
mkdir /cg/docker/a
write /cg/docker/a/cpuset.cpus = 0
write /cg/docker/a/cpu.weight = 59
write /cg/docker/a/cpu.max = 50000 100000
write /cg/docker/a/memory.max = 67108864
write /cg/docker/a/memory.swap.max = 67108864 (if there)
write /cg/docker/a/pids.max = 100
device program: deny a
device program: allow c 1:3 rwm
device program: allow c 136:* rwm
"
    );
}

#[test]
fn v2_relative_path_is_beside_our_own_cgroup() {
    let inside = Hierarchies::from_parts(V2_MOUNTS, "0::/user/me\n").unwrap();
    let plan = plan(&inside, &path("a"), &Resources::default()).unwrap();
    assert_eq!(plan.paths[""].to_str().unwrap(), "/cg/user/a");
}

#[test]
fn update_changes_only_what_is_named_and_can_lift_limits() {
    let created = plan(&v1(), &path("a"), &Resources::default()).unwrap();
    let change = Resources {
        pids_limit: Some(-1),
        cpuset_mems: Some("0".into()),
        ..Resources::default()
    };
    let text = plan_update(v1().layout(), &created.paths, &change)
        .unwrap()
        .to_string();
    assert_eq!(
        text,
        "\
write /cg/cpuset/a/cpuset.mems = 0
write /cg/pids/a/pids.max = max
"
    );
    let text = plan_update(
        v2().layout(),
        &BTreeMap::from([(String::new(), "/cg/a".into())]),
        &Resources {
            memory_limit_bytes: Some(-1),
            cpu_quota_us: Some(-1),
            ..Resources::default()
        },
    )
    .unwrap()
    .to_string();
    // What has no limit does not fit below the old limit of memory and swap together.
    assert_eq!(
        text,
        "write /cg/a/cpu.max = max\nwrite /cg/a/memory.max = max\nwrite /cg/a/memory.swap.max = max (if there)\n"
    );
    let lifted = Resources {
        memory_limit_bytes: Some(-1),
        ..Resources::default()
    };
    let text = plan_update(v1().layout(), &created.paths, &lifted).unwrap();
    assert_eq!(
        text.to_string(),
        "\
write /cg/memory/api/x/a/memory.limit_in_bytes = -1
write /cg/memory/api/x/a/memory.memsw.limit_in_bytes = -1 (if there) (either order)
"
    );
}

#[test]
fn what_a_layout_cannot_do_is_refused() {
    let refused = |hierarchies: &Hierarchies, resources: Resources| {
        plan(hierarchies, &path("a"), &resources).unwrap_err()
    };
    let error = refused(
        &v1(),
        Resources {
            blkio_read_bps: vec![DeviceRate {
                major: 8,
                minor: 0,
                rate: 1,
            }],
            ..Resources::default()
        },
    );
    assert_eq!(
        error.to_string(),
        "block I/O limit needs the cgroup controller `blkio`, which is not available"
    );
    assert!(error.hint().is_some());
    let error = refused(
        &v1(),
        Resources {
            memory_limit_bytes: Some(200),
            memory_swap_bytes: Some(100),
            ..Resources::default()
        },
    );
    assert_eq!(
        error.to_string(),
        "memory and swap limit of 100 bytes is below the memory limit of 200 bytes"
    );
    let unified = Resources {
        unified: BTreeMap::from([("memory.high".into(), "1".into())]),
        ..Resources::default()
    };
    assert!(matches!(
        refused(&v1(), unified.clone()),
        Error::Setting { .. }
    ));
    assert!(plan(&v2(), &path("a"), &unified).is_ok());
    let escape = Resources {
        unified: BTreeMap::from([("../memory.max".into(), "1".into())]),
        ..Resources::default()
    };
    assert!(matches!(refused(&v2(), escape), Error::Setting { .. }));
    let huge = Resources {
        hugepage_limits: vec![HugepageLimit {
            page_size: "2MB".into(),
            limit_bytes: 1,
        }],
        ..Resources::default()
    };
    assert!(matches!(
        refused(&v1(), huge),
        Error::NoController { controller, .. } if controller == "hugetlb"
    ));
}

#[test]
fn rdma_devices_are_limited_by_name() {
    let limited = Resources {
        rdma: BTreeMap::from([
            (
                "mlx5_0".into(),
                RdmaLimit {
                    handles: Some(3),
                    objects: Some(10_000),
                },
            ),
            (
                "mlx5_1".into(),
                RdmaLimit {
                    handles: None,
                    objects: Some(0),
                },
            ),
            ("ocrdma1".into(), RdmaLimit::default()),
        ]),
        ..Resources::default()
    };
    let text = plan(&v2(), &path("/a"), &limited).unwrap().to_string();
    assert_eq!(
        text,
        "\
enable +cpu +io +memory +pids +rdma from /cg
mkdir /cg/a
write /cg/a/rdma.max = mlx5_0 hca_handle=3 hca_object=10000
write /cg/a/rdma.max = mlx5_1 hca_object=0
"
    );
    assert_eq!(
        plan(&v1(), &path("a"), &limited).unwrap_err().to_string(),
        "RDMA limit needs the cgroup controller `rdma`, which is not available"
    );
}
