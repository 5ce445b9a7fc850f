//! Real cgroups below our own; needs root. Processes are `sleep`, `sh` and `dd`, ended by pid.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use atoll_cgroup::{
    Cgroup, CgroupPath, DeviceRule, Error, Hierarchies, Layout, Plan, Resources, plan, plan_update,
};

/// Ends what is left in the cgroup and removes it.
struct Guard(Cgroup);

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.kill_all());
        if let Err(error) = self.0.remove() {
            panic!("{error}");
        }
        assert!(!self.0.exists());
    }
}

struct Process(Child);

impl Process {
    fn sleep() -> Self {
        Self::shell("exec sleep 600")
    }

    fn shell(script: &str) -> Self {
        let child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        self.0.wait().unwrap();
    }
}

fn hierarchies() -> Hierarchies {
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests need root"
    );
    Hierarchies::detect().unwrap()
}

fn unique(name: &str) -> CgroupPath {
    format!("atoll-test-{name}-{}", std::process::id())
        .parse()
        .unwrap()
}

fn planned(name: &str, resources: &Resources) -> Plan {
    plan(&hierarchies(), &unique(name), resources).unwrap()
}

fn read(cgroup: &Cgroup, controller: &str, file: &str) -> String {
    fs::read_to_string(cgroup.paths()[controller].join(file))
        .unwrap()
        .trim()
        .to_owned()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(8);
    while !done() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn limits_are_set_changed_and_removed() {
    let resources = Resources {
        memory_limit_bytes: Some(64 << 20),
        memory_swap_bytes: Some(64 << 20),
        pids_limit: Some(20),
        cpu_quota_us: Some(20_000),
        cpu_period_us: Some(100_000),
        ..Resources::default()
    };
    let mut guard = Guard(Cgroup::create(&planned("limits", &resources)).unwrap());
    let cgroup = &mut guard.0;
    let process = Process::sleep();
    cgroup.add_pid(process.0.id()).unwrap();
    assert_eq!(cgroup.pids().unwrap(), [process.0.id()]);
    let stats = cgroup.stats();
    assert_eq!(stats.memory.limit_bytes, 64 << 20);
    assert_eq!((stats.pids.current, stats.pids.limit), (1, 20));

    // Both ways across the old values: v1 wants another order for each.
    for limit in [256i64 << 20, 32 << 20] {
        let change = Resources {
            memory_limit_bytes: Some(limit),
            memory_swap_bytes: Some(limit),
            cpuset_cpus: Some("0".into()),
            ..Resources::default()
        };
        let update = plan_update(hierarchies().layout(), cgroup.paths(), &change).unwrap();
        cgroup.apply(&update).unwrap();
        assert_eq!(
            i64::try_from(cgroup.stats().memory.limit_bytes).unwrap(),
            limit
        );
    }
    let status = fs::read_to_string(format!("/proc/{}/status", process.0.id())).unwrap();
    assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
}

#[test]
fn frozen_processes_stand_still_and_can_be_killed() {
    let guard = Guard(Cgroup::create(&planned("freeze", &Resources::default())).unwrap());
    let cgroup = &guard.0;
    let mut process = Process::shell("while :; do :; done");
    cgroup.add_pid(process.0.id()).unwrap();
    cgroup.freeze().unwrap();
    assert!(cgroup.is_frozen());
    let used = cgroup.stats().cpu.usage_ns;
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(cgroup.stats().cpu.usage_ns, used);
    cgroup.thaw().unwrap();
    wait_until("cpu time", || cgroup.stats().cpu.usage_ns > used);
    cgroup.freeze().unwrap();
    cgroup.kill_all().unwrap();
    assert!(process.0.try_wait().unwrap().is_some());
    assert!(!cgroup.is_frozen());
}

#[test]
fn kill_all_ends_a_forking_crowd_in_nested_cgroups() {
    let guard = Guard(Cgroup::create(&planned("crowd", &Resources::default())).unwrap());
    let cgroup = &guard.0;
    let nested = cgroup.paths().values().next().unwrap().join("inner");
    fs::create_dir(&nested).unwrap();
    let mut child = Command::new("sh")
        .args([
            "-c",
            "read go; for i in 1 2 3 4 5 6; do (while :; do sleep 0.01; done) & done; wait",
        ])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    cgroup.add_pid(child.id()).unwrap();
    drop(child.stdin.take());
    wait_until("forks", || cgroup.pids().unwrap().len() > 6);
    fs::write(nested.join("cgroup.procs"), child.id().to_string()).unwrap();
    cgroup.kill_all().unwrap();
    child.wait().unwrap();
    assert!(cgroup.pids().unwrap().is_empty());
}

#[test]
fn join_self_puts_a_thread_in() {
    let guard = Guard(Cgroup::create(&planned("join", &Resources::default())).unwrap());
    let cgroup = guard.0.clone();
    let handles = cgroup.join_handles().unwrap();
    let hybrid = hierarchies().layout() != Layout::V2;
    std::thread::spawn(move || {
        handles.join_self().unwrap();
        let own = fs::read_to_string("/proc/thread-self/cgroup").unwrap();
        for line in own.lines().filter(|line| hybrid && line.contains("pids")) {
            assert!(line.contains("atoll-test-join"), "{own}");
        }
    })
    .join()
    .unwrap();
}

#[test]
fn failed_creation_leaves_nothing() {
    let mut plan = planned("undo", &Resources::default());
    let folder = plan.paths.values().next().unwrap().clone();
    plan.steps
        .push(atoll_cgroup::Step::Write(atoll_cgroup::Write {
            file: folder.join("no.such.file"),
            values: vec!["1".into()],
            optional: false,
        }));
    assert!(matches!(Cgroup::create(&plan), Err(Error::Write { .. })));
    assert!(!Cgroup::open(plan.paths).exists());
}

#[test]
fn a_cgroup_with_processes_is_not_taken_over() {
    let plan = planned("taken", &Resources::default());
    let guard = Guard(Cgroup::create(&plan).unwrap());
    // Empty: fine, as after a crash.
    Cgroup::create(&plan).unwrap();
    let process = Process::sleep();
    guard.0.add_pid(process.0.id()).unwrap();
    assert!(matches!(Cgroup::create(&plan), Err(Error::InUse { .. })));
    assert!(guard.0.exists());
}

#[test]
fn device_rules_hold() {
    let mut devices = vec![DeviceRule::DENY_ALL];
    devices.extend(DeviceRule::defaults());
    let resources = Resources {
        devices,
        ..Resources::default()
    };
    let guard = Guard(Cgroup::create(&planned("devices", &resources)).unwrap());
    check_devices(&guard.0);
    if hierarchies().layout() != Layout::V2 {
        assert!(read(&guard.0, "devices", "devices.list").contains("c 1:3 rwm"));
    }
}

/// The eBPF program, on the cgroup2 mount of whatever layout this machine has.
#[test]
fn device_program_holds_on_cgroup2() {
    let found = hierarchies();
    let Some(unified) = found.v2() else {
        panic!("no cgroup2 mount on this machine");
    };
    let folder = unified
        .mount
        .join(&unified.own)
        .join(unique("program").to_string());
    let mut rules = vec![DeviceRule::DENY_ALL];
    rules.extend(DeviceRule::defaults());
    let plan = Plan {
        directories: vec![atoll_cgroup::Directory {
            base: unified.mount.clone(),
            path: folder.clone(),
            inherit_cpuset: false,
            enable: Vec::new(),
        }],
        steps: Vec::new(),
        device_program: Some(rules.clone()),
        paths: BTreeMap::from([(String::new(), folder)]),
    };
    let guard = Guard(Cgroup::create(&plan).unwrap());
    check_devices(&guard.0);
    // Replaced, not added: a program more would still deny.
    rules.push(DeviceRule::allow_character(1, Some(11)));
    let update = Plan {
        directories: Vec::new(),
        device_program: Some(rules),
        ..plan
    };
    guard.0.apply(&update).unwrap();
    assert!(can_open(&guard.0, "/dev/kmsg"));
    check_freeze_and_kill(&guard.0);
}

fn check_freeze_and_kill(cgroup: &Cgroup) {
    let mut process = Process::sleep();
    cgroup.add_pid(process.0.id()).unwrap();
    cgroup.freeze().unwrap();
    assert!(cgroup.is_frozen());
    cgroup.kill_all().unwrap();
    wait_until("the kill", || process.0.try_wait().unwrap().is_some());
}

fn check_devices(cgroup: &Cgroup) {
    assert!(can_open(cgroup, "/dev/null"));
    assert!(!can_open(cgroup, "/dev/kmsg"));
}

/// Whether a process of the cgroup can open `device` for reading.
fn can_open(cgroup: &Cgroup, device: &str) -> bool {
    assert!(Path::new(device).exists(), "{device} is missing");
    let mut child = Command::new("sh")
        .args(["-c", &format!("read go; exec 3<{device}")])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    cgroup.add_pid(child.id()).unwrap();
    drop(child.stdin.take());
    child.wait().unwrap().success()
}

#[test]
fn out_of_memory_is_counted_and_announced() {
    let resources = Resources {
        memory_limit_bytes: Some(8 << 20),
        memory_swap_bytes: Some(8 << 20),
        ..Resources::default()
    };
    let guard = Guard(Cgroup::create(&planned("oom", &resources)).unwrap());
    let notifier = guard.0.oom_notifier().unwrap();
    assert_eq!(guard.0.oom_kills(), 0);
    let mut child = Command::new("sh")
        .args([
            "-c",
            "read go; exec dd if=/dev/zero of=/dev/null bs=64M count=1",
        ])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    guard.0.add_pid(child.id()).unwrap();
    drop(child.stdin.take());
    assert!(!child.wait().unwrap().success());
    wait_until("the count", || guard.0.oom_kills() == 1);
    let mut poll = [rustix::event::PollFd::new(
        &notifier,
        rustix::event::PollFlags::IN,
    )];
    let limit = rustix::event::Timespec {
        tv_sec: 5,
        tv_nsec: 0,
    };
    assert_eq!(rustix::event::poll(&mut poll, Some(&limit)).unwrap(), 1);
    notifier.drain();
}

#[test]
fn a_frozen_folder_is_not_taken_over() {
    let plan = planned("frozen", &Resources::default());
    let guard = Guard(Cgroup::create(&plan).unwrap());
    let process = Process::sleep();
    guard.0.add_pid(process.0.id()).unwrap();
    guard.0.freeze().unwrap();
    let error = Cgroup::create(&plan).unwrap_err().to_string();
    assert!(
        error.contains("frozen") || error.contains("not empty"),
        "{error}"
    );
    guard.0.kill_all().unwrap();
    drop(process);
    guard.0.freeze().unwrap();
    let error = Cgroup::create(&plan).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("container's cgroup unexpectedly frozen: /"),
        "{error}"
    );
    guard.0.thaw().unwrap();
    Cgroup::create(&plan).unwrap();
}

#[test]
fn a_limit_of_no_processes_is_one() {
    let resources = Resources {
        pids_limit: Some(0),
        ..Resources::default()
    };
    let guard = Guard(Cgroup::create(&planned("none", &resources)).unwrap());
    assert_eq!(read(&guard.0, "pids", "pids.max"), "1");
}
