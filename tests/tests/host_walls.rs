//! The walls `system` and `chroot`, of the host's own kernel. A Debian with systemd in it is booted by
//! `bench/systemd.sh`, by hand: here the init is a script that looks at what systemd looks at.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use atoll_tests::terminal::Terminal;
use atoll_tests::{Engine, waiting};

/// Says what it finds, divides its control groups, goes on until it is halted. `$1` is its first process' environment,
/// which a shell changes.
const INIT: &str = r#"#!/bin/sh
trap 'echo halted; exit 0' 37
trap 'echo powered off; exit 3' 30
tr '\0' '\n' < /proc/1/environ | grep ^container
grep -E ' (/run|/run/lock|/tmp|/run/host|/sys/fs/cgroup) ' /proc/mounts | while read what place kind options rest; do
    case $options in ro*) access=ro;; *) access=rw;; esac
    echo mount $place $kind $access
done
cat /run/host/container-manager /run/host/container-uuid
cat /proc/self/uid_map
grep -E '^(0::|[0-9]+:memory:)' /proc/self/cgroup
mkdir /sys/fs/cgroup/init.scope && echo $$ > /sys/fs/cgroup/init.scope/cgroup.procs && echo divided
echo 1 > /proc/sys/net/ipv4/ip_forward && echo forwards
ls -lnd /bin /etc/hosts
echo up
while :; do sleep 0.1; done
"#;

/// An engine with the small image, and with `sys`: the same with an init and without a command.
fn engine() -> Engine {
    let engine = Engine::with_image();
    fs::create_dir_all(engine.path("sys/sbin")).unwrap();
    fs::write(engine.path("sys/sbin/init"), INIT).unwrap();
    engine
        .sh("chmod 755 $T/sys/sbin/init
             cp $T/bb.tar $T/sys.tar && tar -C $T/sys -rf $T/sys.tar ./sbin
             docker import $T/sys.tar sys:latest")
        .ok();
    engine
}

fn boot(engine: &Engine, name: &str, options: &[&str]) -> String {
    let run = ["run", "-d", "--isolation=system", "--name", name];
    let id = engine.docker(&[&run, options, &["sys"]].concat()).ok();
    waiting::until("the system is up", || {
        engine.docker(&["logs", name]).stdout.contains("\nup")
    });
    id
}

fn inspect(engine: &Engine, name: &str, format: &str) -> String {
    engine.docker(&["inspect", "-f", format, name]).ok()
}

#[test]
fn a_system_finds_what_service_managers_expect_and_is_halted() {
    let engine = engine();
    let id = boot(&engine, "one", &[]);
    let said = engine.docker(&["logs", "one"]).ok();
    let uuid = said
        .lines()
        .find_map(|line| line.strip_prefix("container_uuid="))
        .unwrap();
    assert_eq!(uuid.len(), 36);
    assert_eq!(uuid[..8], id[..8]);
    for line in [
        "container=oci",
        "oci",
        uuid,
        "mount /run tmpfs rw",
        "mount /run/lock tmpfs rw",
        "mount /tmp tmpfs rw",
        "mount /sys/fs/cgroup cgroup2 rw",
        "0::/",
        "divided",
        "forwards",
    ] {
        assert!(said.lines().any(|found| found == line), "{line}\n{said}");
    }
    assert!(
        said.contains("mount /run/host ") && said.contains("container_host_id="),
        "{said}"
    );
    // Its files are its root's, on disk the host's root's.
    for path in ["/bin", "/etc/hosts"] {
        let line = said.lines().find(|line| line.ends_with(path)).unwrap();
        let owner: Vec<&str> = line.split_whitespace().skip(2).take(2).collect();
        assert_eq!(owner, ["0", "0"], "{line}");
    }
    engine.docker(&["exec", "one", "touch", "/made"]).ok();
    let made = engine.path(&format!("data/containers/{id}/upper/diff/made"));
    assert_eq!(fs::metadata(made).unwrap().uid(), 0);
    let read = engine.docker(&[
        "exec",
        "one",
        "sh",
        "-c",
        "echo x > /proc/sys/kernel/hostname",
    ]);
    assert_ne!(read.code, 0);
    let facts = "{{.HostConfig.Isolation}} {{.Config.StopSignal}} {{json .Config.Cmd}}";
    assert_eq!(
        inspect(&engine, "one", facts),
        "system SIGRTMIN+3 [\"/sbin/init\"]"
    );
    engine.docker(&["stop", "one"]).ok();
    assert_eq!(inspect(&engine, "one", "{{.State.ExitCode}}"), "0");
    assert!(engine.docker(&["logs", "one"]).ok().ends_with("halted"));
    engine.docker(&["rm", "one"]).ok();
    engine.assert_no_trace_of(&id);
}

#[test]
fn systems_have_users_of_their_own_and_share_files_by_volumes() {
    let mut engine = engine();
    fs::create_dir(engine.path("data-of-host")).unwrap();
    let volume = format!("{}:/data", engine.path("data-of-host").display());
    boot(&engine, "one", &["-v", &volume]);
    boot(&engine, "two", &["-v", &volume, "--stop-signal", "SIGPWR"]);
    let first_user = |name: &str| {
        let map = engine
            .docker(&["exec", name, "cat", "/proc/self/uid_map"])
            .ok();
        let numbers: Vec<u32> = map.split_whitespace().map(|n| n.parse().unwrap()).collect();
        assert_eq!((numbers[0], numbers[2]), (0, 65_536), "{map}");
        numbers[1]
    };
    let (one, two) = (first_user("one"), first_user("two"));
    assert!(one.abs_diff(two) >= 65_536 && one >= 65_536 && two >= 65_536);
    let pid = inspect(&engine, "one", "{{.State.Pid}}");
    assert_eq!(fs::metadata(format!("/proc/{pid}")).unwrap().uid(), one);
    engine.docker(&["exec", "one", "touch", "/data/file"]).ok();
    assert_eq!(
        fs::metadata(engine.path("data-of-host/file"))
            .unwrap()
            .uid(),
        0
    );
    let owner = engine.docker(&["exec", "two", "ls", "-ln", "/data"]).ok();
    assert!(owner.contains(" 0        0 "), "{owner}");
    engine.docker(&["exec", "-u", "guest", "two", "id"]).ok();
    // Another engine goes on with them.
    engine.kill();
    engine.restart();
    engine.docker(&["stop", "two"]).ok();
    assert_eq!(inspect(&engine, "two", "{{.State.ExitCode}}"), "3");
    engine.docker(&["kill", "one"]).ok();
    engine.docker(&["start", "one"]).ok();
    assert_eq!(inspect(&engine, "one", "{{.State.Running}}"), "true");
    let map = engine
        .docker(&["exec", "one", "cat", "/proc/self/uid_map"])
        .ok();
    assert!(map.contains(&one.to_string()), "{map}");
    engine.docker(&["rm", "-f", "one", "two"]).ok();
}

#[test]
fn a_console_is_there_again_when_all_have_closed_it() {
    let engine = engine();
    let script = "exec </dev/null >/dev/null 2>&1; sleep 0.3; echo again > /dev/console; sleep 0.3; echo third > /dev/console";
    for wall in ["system", "process"] {
        let isolation = format!("--isolation={wall}");
        let run = [
            "run", "-d", "-t", "--name", wall, &isolation, "sys", "sh", "-c", script,
        ];
        engine.docker(&run).ok();
        assert_eq!(engine.docker(&["wait", wall]).ok(), "0");
        let said = engine.docker(&["logs", wall]).ok();
        assert_eq!(said.replace('\r', ""), "again\nthird", "{wall}");
    }
    let mut terminal = Terminal::start(
        "docker",
        &["run", "--rm", "-it", "--isolation=system", "sys", "sh"],
        (33, 101),
        |command| engine.point_keeping_stdin(command),
    );
    terminal.expect("#");
    terminal.type_in("stty size < /dev/console; exit 5\r");
    terminal.expect("33 101");
    assert_eq!(terminal.exit_code(), 5);
}

#[test]
fn what_contradicts_a_wall_is_refused_by_name() {
    let engine = engine();
    let refused = |wall: &str, options: &[&str], words: &[&str]| {
        let isolation = format!("--isolation={wall}");
        let run = ["run", "--rm", isolation.as_str()];
        let ran = engine.docker(&[&run, options, &["sys", "true"]].concat());
        let contradiction = format!("contradicts --isolation {wall}");
        ran.complains(&[words, &[contradiction.as_str()]].concat());
    };
    refused("system", &["--pid", "host"], &["--pid host"]);
    refused(
        "system",
        &["--network", "host"],
        &["--network host", "--userns host"],
    );
    refused("system", &["--privileged"], &["--privileged"]);
    refused("chroot", &["-p", "80:80"], &["--publish"]);
    refused("chroot", &["--network", "none"], &["--network none"]);
    refused("chroot", &["--pid", "container:x"], &["--pid container:x"]);
    refused("chroot", &["--hostname", "web"], &["--hostname web"]);
    refused(
        "chroot",
        &["--sysctl", "net.ipv4.ip_forward=1"],
        &["--sysctl"],
    );
    refused("chroot", &["--shm-size", "1m"], &["--shm-size"]);
    // And what it can do without users of its own.
    let host_users = [
        "run",
        "--rm",
        "--isolation=system",
        "--userns",
        "host",
        "--network",
        "host",
    ];
    let map = engine
        .docker(&[&host_users[..], &["sys", "cat", "/proc/self/uid_map"]].concat())
        .ok();
    let map: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(map, ["0", "0", "4294967295"]);
}

#[test]
fn a_chroot_has_its_root_its_limits_and_its_end() {
    let engine = engine();
    let run = ["run", "--rm", "--isolation=chroot"];
    let in_chroot = |arguments: &[&str]| engine.docker(&[&run[..], arguments].concat());
    let own = |kind: &str| {
        let link = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        link.display().to_string()
    };
    // The engine's network is the test's.
    for kind in ["pid", "ipc", "uts", "cgroup", "user"] {
        let link = format!("ls -l /proc/self/ns/{kind}");
        let said = in_chroot(&["bb", "sh", "-c", &link]).ok();
        assert!(said.ends_with(&own(kind)), "{said}");
    }
    in_chroot(&["bb", "sh", "-c", "echo out > /made; cat /made; ls /sbin"]).complains(&["/sbin"]);
    in_chroot(&["--read-only", "bb", "touch", "/x"]).complains(&["Read-only file system"]);
    let limited = in_chroot(&[
        "-m",
        "20m",
        "bb",
        "sh",
        "-c",
        "dd if=/dev/zero of=/dev/null bs=40M count=1",
    ]);
    assert_eq!(limited.code, 137, "{limited}");
    let capabilities = in_chroot(&[
        "--cap-drop",
        "all",
        "bb",
        "grep",
        "CapEff",
        "/proc/self/status",
    ]);
    assert!(capabilities.ok().ends_with("0000000000000000"));
    let start = [
        "run",
        "-d",
        "--isolation=chroot",
        "--name",
        "cage",
        "bb",
        "sh",
        "-c",
    ];
    let id = engine
        .docker(&[&start[..], &["sleep 1234 & exec sleep 1235"]].concat())
        .ok();
    assert_eq!(
        inspect(
            &engine,
            "cage",
            "{{.HostConfig.Isolation}} {{.HostConfig.NetworkMode}}"
        ),
        "chroot host"
    );
    assert_eq!(
        engine.docker(&["exec", "cage", "sh", "-c", "echo in"]).ok(),
        "in"
    );
    assert_eq!(
        engine
            .docker(&["top", "cage"])
            .ok()
            .matches("sleep 123")
            .count(),
        2
    );
    engine.docker(&["pause", "cage"]).ok();
    engine.docker(&["unpause", "cage"]).ok();
    engine.docker(&["kill", "cage"]).ok();
    engine.docker(&["rm", "cage"]).ok();
    engine.assert_no_trace_of(&id);
    let info = engine.docker(&["info", "-f", "{{.SecurityOptions}}"]).ok();
    assert!(
        info.contains("isolation=chroot") && info.contains("isolation=system"),
        "{info}"
    );
}
