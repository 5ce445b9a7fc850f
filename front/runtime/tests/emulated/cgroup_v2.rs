//! Control groups of version 2 alone: limits, device programs, freezing, killing, statistics, division.
//!
//! Hosts that have controllers on version 1 can't run these: `cargo xtask nested-cgroups` does so in an emulated machine
//! with a stock kernel, where `ATOLL_RUNTIME` is the program.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bundle::{Bundle, CGROUPS};

/// A bundle for a kernel that has every controller.
fn bundle(script: &str) -> Bundle {
    let controllers = fs::read_to_string(format!("{CGROUPS}/cgroup.controllers"));
    let controllers = controllers.expect("this test needs cgroup v2 at /sys/fs/cgroup");
    for name in ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"] {
        assert!(
            controllers.contains(name),
            "no controller {name}: {controllers}"
        );
    }
    Bundle::new(script)
}

/// A control file of a container's.
fn file(bundle: &Bundle, name: &str) -> String {
    let path = bundle.cgroup().join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    text.trim().to_owned()
}

fn status(bundle: &Bundle) -> String {
    let state: Value = serde_json::from_str(&bundle.ok(&["state", &bundle.name])).unwrap();
    state["status"].as_str().unwrap().to_owned()
}

#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[ignore = "needs cgroup v2: cargo xtask nested-cgroups"]
fn every_resource_is_a_control_file() {
    let bundle = bundle("sleep 1000");
    bundle.change(|spec| {
        spec["linux"]["resources"] = json!({
            "memory": { "limit": 64 << 20, "reservation": 16 << 20, "swap": 96 << 20 },
            "cpu": { "shares": 512, "quota": 50_000, "period": 100_000, "burst": 10_000, "cpus": "0", "mems": "0" },
            "pids": { "limit": 20 },
            "hugepageLimits": [{ "pageSize": "2MB", "limit": 4 << 20 }],
            "blockIO": {
                "weight": 300,
                "throttleReadBpsDevice": [{ "major": 1, "minor": 0, "rate": 1_048_576 }],
                "throttleWriteIOPSDevice": [{ "major": 1, "minor": 0, "rate": 100 }],
            },
            "unified": { "memory.high": "50331648", "cgroup.max.descendants": "7" },
        });
    });
    bundle.start();
    let shown = |files: &[(&str, &str)]| {
        for (name, value) in files {
            assert_eq!(file(&bundle, name), *value, "{name}");
        }
    };
    shown(&[
        ("memory.max", "67108864"),
        ("memory.low", "16777216"),
        ("memory.high", "50331648"),
        ("memory.swap.max", "33554432"),
        ("cpu.weight", "59"),
        ("cpu.max", "50000 100000"),
        ("cpu.max.burst", "10000"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
        ("pids.max", "20"),
        ("hugetlb.2MB.max", "4194304"),
        ("hugetlb.2MB.rsvd.max", "4194304"),
        ("io.max", "1:0 rbps=1048576 wbps=max riops=max wiops=100"),
        ("cgroup.max.descendants", "7"),
    ]);
    assert_eq!(file(&bundle, "io.weight"), "default 2930");
    let stats: Value =
        serde_json::from_str(&bundle.ok(&["events", "--stats", &bundle.name])).unwrap();
    let (memory, pids) = (&stats["data"]["memory"], &stats["data"]["pids"]);
    assert_eq!(memory["usage"]["limit"], 64 << 20);
    assert_eq!(memory["swap"]["limit"], 96 << 20);
    assert!(memory["psi"]["some"]["total"].is_u64(), "{memory}");
    assert!(stats["data"]["hugetlb"]["2MB"]["failcnt"] == 0, "{stats}");
    assert!(memory["usage"]["usage"].as_u64().unwrap() > 0);
    assert!(memory["raw"]["anon"].is_u64(), "{memory}");
    assert_eq!((&pids["current"], &pids["limit"]), (&json!(1), &json!(20)));
    assert!(stats["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0);

    let change = json!({
        "memory": { "limit": 80 << 20, "swap": 80 << 20, "reservation": -1 },
        "cpu": { "shares": 1024, "quota": -1, "period": 100_000, "burst": 0 },
        "pids": { "limit": -1 },
    });
    fs::write(bundle.path("change"), change.to_string()).unwrap();
    bundle.ok(&["update", "--resources", "change", &bundle.name]);
    shown(&[
        ("memory.max", "83886080"),
        ("memory.swap.max", "0"),
        ("memory.low", "max"),
        ("cpu.weight", "100"),
        ("cpu.max", "max 100000"),
        ("pids.max", "max"),
        ("cpuset.cpus", "0"),
    ]);
    bundle.ok(&["update", "--cpu-idle", "1", &bundle.name]);
    shown(&[("cpu.idle", "1")]);
    let refused = bundle.run(&["update", "--cpu-rt-runtime", "1000", &bundle.name]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("does not exist on cgroup v2"),
        "{said}"
    );
}

#[test]
#[ignore = "needs cgroup v2: cargo xtask nested-cgroups"]
fn devices_are_forbidden_by_a_program_that_updates_leave() {
    let bundle = bundle("mknod /kmsg c 1 11 && mknod /zero c 1 5 && sleep 1000");
    bundle.change(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            let capabilities = spec["process"]["capabilities"][set].as_array_mut();
            capabilities.unwrap().push(json!("CAP_MKNOD"));
        }
        spec["linux"]["resources"] = json!({ "devices": [
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 1, "minor": 11, "access": "w" },
        ] });
    });
    bundle.start();
    let can = |script: &str| {
        let output = bundle.run(&["exec", &bundle.name, "sh", "-c", script]);
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    until("the nodes are made", || bundle.path("rootfs/zero").exists());
    let done = (true, String::new());
    for _ in 0..2 {
        let usual = "head -c 1 /zero && head -c 1 /dev/zero && echo x > /dev/null && head -c 1 /dev/urandom";
        assert_eq!(can(usual), done);
        assert_eq!(can("echo '<7>written' > /kmsg"), done);
        let (could, said) = can("head -c 1 < /kmsg");
        assert!(!could && said.contains("Operation not permitted"), "{said}");
        // Another set of limits leaves the program.
        bundle.ok(&["update", "--pids-limit", "50", &bundle.name]);
    }
}

#[test]
#[ignore = "needs cgroup v2: cargo xtask nested-cgroups"]
fn processes_are_frozen_and_killed_with_their_cgroup() {
    let bundle = bundle("for n in $(seq 20); do sleep 1000 & done; sleep 1000");
    bundle.change(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
    });
    bundle.start();
    let pids = || file(&bundle, "cgroup.procs").lines().count();
    until("all are there", || pids() >= 21);
    bundle.ok(&["pause", &bundle.name]);
    assert_eq!(status(&bundle), "paused");
    assert!(file(&bundle, "cgroup.events").contains("frozen 1"));
    bundle.ok(&["resume", &bundle.name]);
    assert_eq!(status(&bundle), "running");
    bundle.ok(&["pause", &bundle.name]);
    // Frozen processes die as well.
    bundle.ok(&["kill", "--all", &bundle.name, "KILL"]);
    until("it is stopped", || status(&bundle) == "stopped");
    until("all are gone", || pids() == 0);
    bundle.ok(&["delete", &bundle.name]);
    assert!(!bundle.cgroup().exists());
}

/// A child that is ended when the test is.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs cgroup v2: cargo xtask nested-cgroups"]
fn running_out_of_memory_is_an_event() {
    let eats = "while ! [ -e /go ]; do sleep 0.1; done; dd if=/dev/zero of=/dev/null bs=64M count=1; sleep 1000";
    let bundle = bundle(eats);
    bundle.change(|spec| {
        spec["linux"]["resources"] = json!({ "memory": { "limit": 16 << 20, "swap": 16 << 20 } });
    });
    bundle.start();
    let out = fs::File::create(bundle.path("events")).unwrap();
    let mut events = bundle.command(&["events", "--interval", "60s", &bundle.name]);
    let events = Ended(events.stdout(out).spawn().unwrap());
    let said = || fs::read_to_string(bundle.path("events")).unwrap();
    until("the first statistics are there", || {
        said().lines().count() == 1
    });
    fs::write(bundle.path("rootfs/go"), "").unwrap();
    until("the event is there", || {
        said()
            .lines()
            .any(|line| line == format!("{{\"type\":\"oom\",\"id\":\"{}\"}}", bundle.name))
    });
    drop(events);
    assert!(file(&bundle, "memory.events").contains("oom_kill 1"));
    assert_eq!(status(&bundle), "running");
}

/// What an init does with control groups that are its own.
const DIVIDES: &str = "cd /sys/fs/cgroup && mkdir init.scope && echo $$ > init.scope/cgroup.procs \
    && echo +memory +pids > cgroup.subtree_control && mkdir svc && echo 8M > svc/memory.max && echo 5 > svc/pids.max \
    && (echo 1 > memory.max) 2>/dev/null; echo $? > /tmp/own-limit; sleep 1000";

#[test]
#[ignore = "needs cgroup v2: cargo xtask nested-cgroups"]
fn a_system_divides_its_cgroup_and_others_still_join_it() {
    let bundle = bundle(DIVIDES);
    bundle.make_user_namespace(700_000);
    bundle.change(|spec| {
        spec["annotations"] = json!({ "io.atoll.isolation": "system" });
        spec["linux"]["resources"] = json!({ "memory": { "limit": 64 << 20 } });
    });
    bundle.start();
    let exec = |script: &str| bundle.ok(&["exec", &bundle.name, "sh", "-c", script]);
    until("it is divided", || {
        bundle.cgroup().join("svc/pids.max").exists()
    });
    until("the limits are written", || {
        file(&bundle, "svc/pids.max") == "5"
    });
    assert_eq!(file(&bundle, "svc/memory.max"), "8388608");
    assert_eq!(file(&bundle, "cgroup.subtree_control"), "memory pids");
    // Its own limit is the host's to change.
    until("it has tried", || !exec("cat /tmp/own-limit").is_empty());
    assert_ne!(exec("cat /tmp/own-limit"), "0");
    assert_eq!(file(&bundle, "memory.max"), "67108864");
    let owner = |name: &str| fs::metadata(bundle.cgroup().join(name)).unwrap().uid();
    assert_eq!(
        (owner("cgroup.procs"), owner("memory.max"), owner("svc")),
        (700_000, 0, 700_000)
    );
    // Its cgroup has controllers now, so nobody may be in it: later processes go where the first is.
    assert_eq!(exec("cat /proc/self/cgroup"), "0::/init.scope");
    assert_eq!(file(&bundle, "cgroup.procs"), "");
    let processes = bundle.ok(&["ps", "-f", "json", &bundle.name]);
    assert!(
        processes.contains(&file(&bundle, "init.scope/cgroup.procs")),
        "{processes}"
    );
    bundle.ok(&["kill", &bundle.name, "KILL"]);
    until("it is stopped", || status(&bundle) == "stopped");
}

#[test]
#[ignore = "needs cgroup v2: cargo xtask nested-cgroups"]
fn a_runtime_inside_a_container_makes_containers() {
    let inner = bundle("cat /proc/self/cgroup; exec 3< /sys/fs/cgroup/memory.max; cat <&3");
    inner.change(|spec| {
        spec["linux"]["cgroupsPath"] = json!("/inner");
        spec["linux"]["resources"] = json!({ "memory": { "limit": 8 << 20 } });
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "cgroup");
        namespaces.push(json!({ "type": "cgroup" }));
    });
    // First as the only process of its cgroup, which then can't have controllers for others.
    let script = "/runtime --root /tmp/state run --bundle /inner x; \
        mkdir /sys/fs/cgroup/init && echo $$ > /sys/fs/cgroup/init/cgroup.procs && \
        exec /runtime --root /tmp/state run --bundle /inner x";
    let outer = Bundle::new(script);
    let program = std::env::var("ATOLL_RUNTIME").unwrap();
    outer.change(|spec| {
        let all: Vec<Value> = atoll_sys::capability::NAMES.iter().map(|&name| json!(name)).collect();
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(all);
        }
        spec["process"]["noNewPrivileges"] = json!(false);
        spec["linux"]["maskedPaths"] = json!([]);
        spec["linux"]["readonlyPaths"] = json!([]);
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "cgroup");
        namespaces.push(json!({ "type": "cgroup" }));
        let mounts = spec["mounts"].as_array_mut().unwrap();
        for mount in mounts.iter_mut().filter(|mount| mount["type"] == "cgroup") {
            mount["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
        }
        let bind = |from: &str, to: &str| json!({ "type": "bind", "source": from, "destination": to, "options": ["rbind"] });
        mounts.push(bind(&program, "/runtime"));
        mounts.push(bind(&inner.path("").display().to_string(), "/inner"));
        mounts.push(json!({ "type": "tmpfs", "source": "tmpfs", "destination": "/tmp" }));
        spec["linux"]["resources"] = json!({ "memory": { "limit": 64 << 20 } });
    });
    let output = outer.run(&["run", &outer.name]);
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(out.trim(), "0::/\n8388608", "{err}");
    assert!(
        err.contains("hint: move the processes of this cgroup"),
        "{err}"
    );
    assert!(output.status.success(), "{err}");
}
