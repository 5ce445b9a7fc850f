//! Monitors seen from outside: what /proc says about `atoll-vmm` while a guest of a few bytes runs. Needs root.
#![expect(
    clippy::unwrap_used,
    reason = "a test that meets an error fails, and tells how far it came"
)]

mod monitor;

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;

use monitor::{LOOPS, Monitor, RESETS, Stage};

const NAMESPACES: [&str; 5] = ["mnt", "net", "ipc", "uts", "cgroup"];

/// Which of `kinds` the process shares with us.
fn shared<'a>(monitor: &Monitor, kinds: &[&'a str]) -> Vec<&'a str> {
    let of =
        |process: &str, kind: &str| fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap();
    let kinds = kinds.iter().copied();
    kinds
        .filter(|kind| of("self", kind) == of(&monitor.id(), kind))
        .collect()
}

/// A line of its status, without the name.
fn status(monitor: &Monitor, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/status", monitor.id())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{text}"));
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn files_in_root(monitor: &Monitor) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{}/root", monitor.id())).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// What its descriptors from 3 on lead to, numbers left out.
fn descriptors(monitor: &Monitor) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{}/fd", monitor.id())).unwrap();
    let mut links: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| !is_stream(path))
        .map(|path| fs::read_link(path).unwrap().to_str().unwrap().to_owned())
        .map(|link| link.split(":[").next().unwrap().to_owned())
        .collect();
    links.sort();
    links
}

fn is_stream(path: &Path) -> bool {
    ["0", "1", "2"].iter().any(|number| path.ends_with(number))
}

#[test]
fn a_monitor_stands_in_an_empty_room_with_its_own_descriptors_only() {
    let stage = Stage::new();
    fs::write(stage.path("disk"), [0; 4096]).unwrap();
    // What whoever starts it forgot to close.
    let forgotten = File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&forgotten, rustix::io::FdFlags::empty()).unwrap();
    assert!(forgotten.as_raw_fd() > 2);
    let disk = stage.path("disk").display().to_string();
    let monitor = stage.start(LOOPS, &format!(r#","disks":[{{"path":"{disk}"}}]"#));
    assert_eq!(monitor.say(1), "x");

    assert!(shared(&monitor, &NAMESPACES).is_empty());
    assert_eq!(shared(&monitor, &["user", "pid"]), ["user", "pid"]);
    assert!(files_in_root(&monitor).is_empty());
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", monitor.id())).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(mounts.contains(" / / ro,nosuid,nodev,noexec,"), "{mounts}");
    for (name, value) in [
        ("Seccomp:", "2"),
        ("Seccomp_filters:", "1"),
        ("NoNewPrivs:", "1"),
        ("CapInh:", "0000000000000000"),
        ("CapPrm:", "0000000000000000"),
        ("CapEff:", "0000000000000000"),
        ("CapBnd:", "0000000000000000"),
        ("CapAmb:", "0000000000000000"),
        ("Uid:", "65534 65534 65534 65534"),
        ("Gid:", "65534 65534 65534 65534"),
        ("Groups:", ""),
        ("Umask:", "0077"),
    ] {
        assert_eq!(status(&monitor, name), value, "{name}");
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", monitor.id())).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        let mut words = line.unwrap().split_whitespace();
        (
            words.next().unwrap().to_owned(),
            words.next().unwrap().to_owned(),
        )
    };
    assert_eq!(
        limit("Max core file size"),
        ("0".to_owned(), "0".to_owned())
    );
    let (soft, hard) = limit("Max open files");
    assert!(
        soft == hard && soft.parse::<u32>().unwrap() < 2048,
        "{soft}"
    );
    // Kernel, disk (ours, and the device's), memory; the pipe of signals.
    let kernel = stage.path("kernel").display().to_string();
    let expected = [
        &*disk,
        &*disk,
        &*kernel,
        "/memfd:guest-memory (deleted)",
        "socket",
        "socket",
    ];
    let mut expected = expected.map(str::to_owned);
    expected.sort();
    assert_eq!(descriptors(&monitor), expected);
}

#[test]
fn every_thread_is_filtered() {
    let stage = Stage::new();
    let monitor = stage.start(LOOPS, r#","cpus":2"#);
    assert_eq!(monitor.say(1), "x");
    let tasks = fs::read_dir(format!("/proc/{}/task", monitor.id())).unwrap();
    let mut count = 0;
    for task in tasks {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(status.contains("\nSeccomp:\t2\n"), "{status}");
        assert!(status.contains("\nCapEff:\t0000000000000000\n"), "{status}");
        count += 1;
    }
    assert!(count > 3, "{count} threads");
}

#[test]
fn a_guest_resets_in_the_jail_and_a_signal_ends_it() {
    let stage = Stage::new();
    fs::write(stage.path("disk"), [0; 4096]).unwrap();
    fs::create_dir(stage.path("share")).unwrap();
    let path = |name: &str| stage.path(name).display().to_string();
    let more = format!(
        r#","disks":[{{"path":"{}"}}],"shares":[{{"path":"{}","tag":"t","read_only":true}}],
            "sockets":{{"path":"{}"}},"balloon_bytes":0"#,
        path("disk"),
        path("share"),
        path("socket"),
    );
    let mut monitor = stage.start(RESETS, &more);
    assert_eq!(monitor.say(5), "xxxxx");
    assert_eq!(files_in_root(&monitor), ["sockets"]);
    // DAC_OVERRIDE for the sockets, DAC_READ_SEARCH for what is shared.
    assert_eq!(status(&monitor, "CapEff:"), "0000000000000006");
    assert!(stage.path("socket").exists());
    assert_eq!(monitor.end(), (Some(0), String::new()));
    assert!(!stage.path("socket").exists());
}

#[test]
fn kvm_runs_and_resets_in_the_jail() {
    assert!(Path::new("/dev/kvm").exists(), "this test needs /dev/kvm");
    let stage = Stage::new();
    let mut monitor = stage.start(RESETS, r#","backend":"kvm","cpus":2"#);
    assert_eq!(monitor.say(3), "xxx");
    assert_eq!(status(&monitor, "Seccomp:"), "2");
    assert_eq!(monitor.end(), (Some(0), String::new()));
}

#[test]
fn without_privilege_the_jail_is_a_user_namespace() {
    let stage = Stage::new();
    fs::create_dir(stage.path("share")).unwrap();
    let share = stage.path("share").display().to_string();
    let more = format!(r#","shares":[{{"path":"{share}","tag":"t"}}]"#);
    let mut monitor = stage.start_as(Some(1234), RESETS, &more);
    assert_eq!(monitor.say(2), "xx");
    assert!(shared(&monitor, &NAMESPACES).is_empty());
    assert!(shared(&monitor, &["user"]).is_empty());
    assert!(files_in_root(&monitor).is_empty());
    assert_eq!(status(&monitor, "Uid:"), "1234 1234 1234 1234");
    assert_eq!(status(&monitor, "CapEff:"), "0000000000000000");
    assert_eq!(status(&monitor, "Seccomp:"), "2");
    assert_eq!(monitor.end(), (Some(0), String::new()));
}

#[test]
fn the_jail_can_be_a_filter_only_or_off() {
    let stage = Stage::new();
    for (jail, seccomp, capabilities) in [("filter", "2", "0000000000000000"), ("off", "0", "")] {
        let monitor = stage.start(LOOPS, &format!(r#","jail":"{jail}""#));
        assert_eq!(monitor.say(1), "x");
        assert_eq!(shared(&monitor, &NAMESPACES), NAMESPACES);
        assert_eq!(status(&monitor, "Seccomp:"), seccomp);
        assert!(status(&monitor, "CapEff:").contains(capabilities));
    }
}
