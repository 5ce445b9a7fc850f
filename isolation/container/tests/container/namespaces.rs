//! Namespaces joined, shared, and made with settings.

use std::fs;
use std::process::{Child, Command};

use atoll_spec::{IdMapping, Linux, Namespace, NamespaceKind, TimeOffset};
use atoll_sys::process::Exit;

use crate::support::{Bundle, exec};

fn place(linux: &mut Linux, kind: NamespaceKind, path: Option<String>) {
    linux.namespaces.retain(|ns| ns.kind != kind);
    let path = path.map(Into::into);
    linux.namespaces.push(Namespace { kind, path });
}

fn without_mount_namespace(bundle: &mut Bundle) {
    let linux = bundle.linux();
    linux
        .namespaces
        .retain(|ns| ns.kind != NamespaceKind::Mount);
    linux.masked_paths.clear();
    linux.readonly_paths.clear();
}

#[test]
fn clocks_are_set_forward_for_all_processes() {
    let mut bundle = Bundle::new();
    place(bundle.linux(), NamespaceKind::Time, None);
    let offset = |secs| TimeOffset { secs, nanosecs: 5 };
    bundle.linux().time_offsets = [
        ("monotonic".to_owned(), offset(7200)),
        ("boottime".to_owned(), offset(86_400)),
    ]
    .into();
    bundle.args(&["sleep", "60"]);
    let mut created = bundle.create().unwrap();
    created.init.start().unwrap();
    let process = bundle.process().clone();
    let script = "cat /proc/1/timens_offsets; busybox cut -d. -f1 /proc/uptime";
    let outcome = exec(&created.container, &process, script).unwrap();
    let text = outcome.stdout.split_whitespace().collect::<Vec<_>>();
    assert_eq!(text[..3], ["monotonic", "7200", "5"], "{}", outcome.stderr);
    assert_eq!(text[3..6], ["boottime", "86400", "5"]);
    assert!(text[6].parse::<u64>().unwrap() >= 86_400, "{}", text[6]);
    created.container.delete(true).unwrap();
    bundle.assert_clean();
}

#[test]
fn clocks_that_can_not_be_set_are_refused() {
    let mut bundle = Bundle::new();
    let mut refused = |offset: TimeOffset, clock: &str, own: bool| {
        let linux = bundle.linux();
        linux.namespaces.retain(|ns| ns.kind != NamespaceKind::Time);
        if own {
            place(linux, NamespaceKind::Time, None);
        }
        linux.time_offsets = [(clock.to_owned(), offset)].into();
        let error = bundle.create().unwrap_err().to_string();
        bundle.assert_clean();
        error
    };
    let one = TimeOffset {
        secs: 1,
        nanosecs: 0,
    };
    assert_eq!(
        refused(one.clone(), "monotonic", false),
        "linux.timeOffsets: need a new time namespace"
    );
    assert_eq!(
        refused(one, "realtime", true),
        "linux.timeOffsets: \"realtime\" is not monotonic or boottime"
    );
    let fraction = TimeOffset {
        secs: 0,
        nanosecs: 1_000_000_000,
    };
    assert!(refused(fraction, "boottime", true).contains("a second or more"));
    // No clock may run before 0: the kernel says so, and nothing is left of the go-between.
    let before = TimeOffset {
        secs: -1_000_000_000,
        nanosecs: 0,
    };
    assert_eq!(
        refused(before, "boottime", true),
        "make a time namespace with these linux.timeOffsets: ERANGE (Numerical result out of range)"
    );
}

#[test]
fn a_container_joins_all_namespaces_of_another() {
    let mut first = Bundle::new();
    let map = IdMapping {
        container_id: 0,
        host_id: 100_000,
        size: 65_536,
    };
    let linux = first.linux();
    place(linux, NamespaceKind::User, None);
    linux.uid_mappings = vec![map.clone()];
    linux.gid_mappings = vec![map];
    place(linux, NamespaceKind::Time, None);
    linux.time_offsets = [(
        "boottime".to_owned(),
        TimeOffset {
            secs: 4242,
            nanosecs: 0,
        },
    )]
    .into();
    first.args(&["sleep", "60"]);
    chown_to(&first, 100_000);
    let mut owner = first.create().unwrap();
    owner.init.start().unwrap();

    let mut second = Bundle::new();
    chown_to(&second, 100_000);
    second.spec.hostname = None;
    let kinds = [
        (NamespaceKind::User, "user"),
        (NamespaceKind::Pid, "pid"),
        (NamespaceKind::Network, "net"),
        (NamespaceKind::Ipc, "ipc"),
        (NamespaceKind::Uts, "uts"),
        (NamespaceKind::Time, "time"),
    ];
    for (kind, name) in kinds {
        let path = format!("/proc/{}/ns/{name}", owner.init.pid);
        place(second.linux(), kind, Some(path));
    }
    let names = kinds.map(|(_, name)| name);
    let script = format!(
        "for n in {}; do readlink /proc/self/ns/$n; done; id -u",
        names.join(" ")
    );
    let text = second.output_of(&script);
    let lines: Vec<&str> = text.lines().collect();
    for (name, inside) in names.iter().zip(&lines) {
        let of_first = fs::read_link(format!("/proc/{}/ns/{name}", owner.init.pid)).unwrap();
        assert_eq!(of_first.to_str(), Some(*inside), "{name}");
    }
    assert_eq!(lines[6], "0");
    owner.container.delete(true).unwrap();
    first.assert_clean();
    second.assert_clean();
}

#[test]
fn a_namespace_file_of_another_kind_is_refused_by_name() {
    let mut bundle = Bundle::new();
    place(
        bundle.linux(),
        NamespaceKind::User,
        Some("/proc/self/ns/net".to_owned()),
    );
    let error = bundle.create().unwrap_err().to_string();
    assert_eq!(error, "join the user namespace: EINVAL (Invalid argument)");
    bundle.assert_clean();
}

#[test]
fn without_a_mount_namespace_the_root_is_changed_and_mounts_go_with_the_container() {
    let mut bundle = Bundle::new();
    without_mount_namespace(&mut bundle);
    bundle.args(&["sleep", "60"]);
    let mut created = bundle.create().unwrap();
    created.init.start().unwrap();
    let process = bundle.process().clone();
    let script = "readlink /proc/self/ns/mnt; ls /; test -c /dev/null && touch /left";
    let outcome = exec(&created.container, &process, script).unwrap();
    assert_eq!(outcome.exit, Exit::Code(0), "{}", outcome.stderr);
    let host = fs::read_link("/proc/self/ns/mnt").unwrap();
    assert_eq!(
        outcome.stdout,
        format!(
            "{}\nbin\ndev\netc\nproc\nsys\ntmp\n",
            host.to_str().unwrap()
        )
    );
    created.container.delete(true).unwrap();
    bundle.assert_clean();
    // What was unmounted was not emptied.
    assert!(bundle.rootfs().join("bin/busybox").exists());
    assert!(bundle.rootfs().join("left").exists());
}

#[test]
fn a_failing_start_without_a_mount_namespace_leaves_no_mounts() {
    let mut bundle = Bundle::new();
    without_mount_namespace(&mut bundle);
    bundle.args(&["/nosuch"]);
    assert!(bundle.create().is_err());
    bundle.assert_clean();
    assert!(bundle.rootfs().join("bin/busybox").exists());
}

#[test]
fn masking_needs_a_mount_namespace() {
    let mut bundle = Bundle::new();
    without_mount_namespace(&mut bundle);
    bundle.linux().masked_paths = vec!["/proc/kcore".to_owned()];
    assert_eq!(
        bundle.create().unwrap_err().to_string(),
        "linux.maskedPaths: unable to restrict sys entries without a private MNT namespace"
    );
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_mount_namespace_is_joined_and_its_mounts_stay_its_own() {
    let mut bundle = Bundle::new();
    let mut command = Command::new("unshare");
    let holder = command.args(["-m", "sleep", "60"]).spawn().unwrap();
    let holder = Killed(holder);
    let path = format!("/proc/{}/ns/mnt", holder.0.id());
    let host = fs::read_link("/proc/self/ns/mnt").unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while fs::read_link(&path).unwrap() == host {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
    let joined = fs::read_link(&path).unwrap();
    place(bundle.linux(), NamespaceKind::Mount, Some(path));
    let text = bundle.output_of("readlink /proc/self/ns/mnt; ls / | head -1; ls -l /proc/keys");
    let mut lines = text.lines();
    assert_eq!(lines.next(), joined.to_str());
    assert_eq!(lines.next(), Some("bin"));
    // Masked by the null device.
    assert!(lines.next().unwrap().starts_with('c'), "{text}");
    bundle.assert_clean();
}

#[expect(clippy::unwrap_used, reason = "tests")]
fn chown_to(bundle: &Bundle, id: u32) {
    let mut command = Command::new("chown");
    let path = bundle.rootfs();
    let done = command
        .args(["-hR", &format!("{id}:{id}")])
        .arg(path)
        .status();
    assert!(done.unwrap().success());
    // Whoever is mapped there must reach it.
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(bundle.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn kernel_parameters_are_set_without_a_pid_namespace_of_ones_own() {
    let mut bundle = Bundle::new();
    let map = IdMapping {
        container_id: 0,
        host_id: 100_000,
        size: 65_536,
    };
    let linux = bundle.linux();
    place(linux, NamespaceKind::User, None);
    linux.namespaces.retain(|ns| ns.kind != NamespaceKind::Pid);
    linux.uid_mappings = vec![map.clone()];
    linux.gid_mappings = vec![map];
    let range = ("net.ipv4.ping_group_range".to_owned(), "0 7".to_owned());
    linux.sysctl.extend([range]);
    chown_to(&bundle, 100_000);
    // Such a namespace has no procfs of its own.
    for mount in &mut bundle.spec.mounts {
        if mount.destination.as_os_str() == "/proc" {
            mount.kind = Some("bind".to_owned());
            mount.source = Some("/proc".into());
            mount.options = vec!["rbind".to_owned()];
        }
    }
    let text = bundle.output_of("cat /proc/sys/net/ipv4/ping_group_range");
    assert_eq!(text, "0\t7\n");
    bundle.assert_clean();
}

#[test]
fn a_namespace_of_the_hosts_is_joined_from_a_user_namespace_that_does_not_own_it() {
    let host = atoll_netlink::netns::create().unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&host);
    let mut bundle = Bundle::new();
    let map = IdMapping {
        container_id: 0,
        host_id: 100_000,
        size: 65_536,
    };
    let linux = bundle.linux();
    place(linux, NamespaceKind::User, None);
    let path = format!("/proc/{}/fd/{number}", std::process::id());
    place(linux, NamespaceKind::Network, Some(path));
    linux.uid_mappings = vec![map.clone()];
    linux.gid_mappings = vec![map];
    // It takes the right over the network to mount a sysfs.
    bundle
        .spec
        .mounts
        .retain(|mount| mount.destination.as_os_str() != "/sys");
    bundle
        .spec
        .mounts
        .retain(|mount| mount.destination.as_os_str() != "/sys/fs/cgroup");
    let out = bundle.output_of("readlink /proc/self/ns/net");
    let own = fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
    assert_eq!(out.trim(), own.to_str().unwrap());
}
