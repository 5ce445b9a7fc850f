//! `atoll-runtime` drives a container in a machine as it does any other.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use atoll_tests::bundle::Bundle;
use atoll_tests::terminal::Terminal;
use atoll_tests::{Ran, leaks, programs, waiting};
use serde_json::{Value, json};

/// Ends on SIGTERM with code 5, and says so.
const STAYS: [&str; 3] = [
    "sh",
    "-c",
    "trap 'echo term; exit 5' TERM; echo up; while :; do sleep 0.1; done",
];

fn state(bundle: &Bundle, id: &str) -> Value {
    serde_json::from_str(&bundle.runtime(&["state", id]).ok()).unwrap()
}

fn pid(bundle: &Bundle, id: &str) -> i32 {
    let pid = state(bundle, id)["pid"].as_i64().unwrap();
    i32::try_from(pid).unwrap()
}

/// No machine of the bundle runs; its keeper ends a moment later.
fn nothing_runs(bundle: &Bundle) {
    let folder = bundle.folder.path().to_string_lossy().into_owned();
    waiting::until("nothing of the bundle runs", || {
        leaks::processes_naming(&folder).is_empty()
    });
}

fn host_kernel() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    text.trim().to_owned()
}

#[test]
fn run_passes_streams_and_the_exit_code() {
    let bundle = Bundle::in_machine(&["sh", "-c", "uname -r; cat; echo err >&2; exit 7"]);
    let mut child = bundle
        .command(&["run", "a"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"in\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (kernel, rest) = text.split_once('\n').unwrap();
    assert_ne!(kernel, host_kernel());
    assert_eq!(rest, "in\n");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "err\n");
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(bundle.runtime(&["list", "-q"]).ok(), "");
    nothing_runs(&bundle);
}

#[test]
fn the_life_of_a_container() {
    let bundle = Bundle::in_machine(&STAYS);
    let at = |name: &str| bundle.folder.path().join(name);
    let out = File::create(at("out")).unwrap();
    let mut create = bundle.command(&["create", "--pid-file", "pid", "a"]);
    let made = create.stdout(out.try_clone().unwrap()).stderr(out).status();
    assert!(made.unwrap().success());
    assert_eq!(bundle.status("a"), "created");
    let keeper = fs::read_to_string(at("pid")).unwrap();
    assert_eq!(keeper, pid(&bundle, "a").to_string());
    let second = bundle.runtime(&["create", "a"]);
    second.complains(&["already exists"]);
    assert_eq!(second.code, 1);

    bundle.runtime(&["start", "a"]).ok();
    waiting::until("it is up", || fs::read(at("out")).unwrap() == b"up\n");
    assert_eq!(bundle.status("a"), "running");
    let again = bundle.runtime(&["start", "a"]);
    again.complains(&["has been started"]);
    let listed = bundle.runtime(&["list"]).ok();
    assert!(listed.contains(&keeper) && listed.contains("running"));
    let table = bundle.runtime(&["ps", "a"]).ok();
    assert!(table.contains("trap 'echo term; exit 5' TERM"), "{table}");
    let pids: Vec<u32> =
        serde_json::from_str(&bundle.runtime(&["ps", "-f", "json", "a"]).ok()).unwrap();
    assert!(!pids.is_empty());
    bundle.runtime(&["ps", "a", "-ef"]).fails_with(1);

    bundle.runtime(&["pause", "a"]).ok();
    assert_eq!(bundle.status("a"), "paused");
    bundle
        .runtime(&["exec", "a", "true"])
        .complains(&["cannot exec in a paused container"]);
    bundle.runtime(&["resume", "a"]).ok();
    assert_eq!(bundle.status("a"), "running");

    bundle
        .runtime(&["update", "--cpu-quota", "50000", "a"])
        .ok();
    bundle
        .runtime(&["update", "--memory", "100m", "a"])
        .complains(&["memory of a machine cannot be changed"]);
    let stats = bundle.runtime(&["events", "--stats", "a"]).ok();
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert!(stats["data"]["memory"]["usage"]["usage"].as_u64() > Some(1 << 20));
    bundle
        .runtime(&["delete", "a"])
        .complains(&["that is not stopped"]);

    bundle.runtime(&["kill", "a", "TERM"]).ok();
    waiting::until("it stops", || bundle.status("a") == "stopped");
    assert_eq!(fs::read(at("out")).unwrap(), b"up\nterm\n");
    bundle
        .runtime(&["kill", "a"])
        .complains(&["container not running"]);
    nothing_runs(&bundle);
    bundle
        .runtime(&["exec", "a", "true"])
        .complains(&["cannot exec in", "stopped"]);
    bundle.runtime(&["delete", "a"]).ok();
}

#[test]
fn exec_runs_beside_it() {
    let bundle = Bundle::in_machine(&STAYS);
    bundle.change(|spec| spec["root"]["readonly"] = json!(false));
    bundle.detached(&["create", "a"]);
    bundle
        .runtime(&["exec", "a", "true"])
        .complains(&["container is not running"]);
    bundle.runtime(&["start", "a"]).ok();
    let exec = [
        "exec",
        "-e",
        "X=y",
        "a",
        "sh",
        "-c",
        "echo $X; echo err >&2; exit 3",
    ];
    let ran = bundle.runtime(&exec);
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (3, "y\n", "err\n")
    );
    for words in [&["exec", "a", "nosuch"][..], &["exec", "-d", "a", "nosuch"]] {
        let ran = bundle.runtime(words);
        ran.complains(&["executable file not found"]);
        assert_eq!(ran.code, 255);
    }
    bundle
        .runtime(&["exec", "--preserve-fds", "1", "a", "true"])
        .complains(&["--preserve-fds"]);

    // Detached, somebody stands for it, whom a signal reaches it through.
    let script =
        "trap 'echo hup >>/said; exit 0' HUP; echo up >>/said; while :; do sleep 0.1; done";
    bundle.detached(&["exec", "-d", "--pid-file", "pid", "a", "sh", "-c", script]);
    let said = bundle.folder.path().join("rootfs/said");
    let has_said = |text: &str| fs::read_to_string(&said).is_ok_and(|said| said == text);
    waiting::until("the exec is up", || has_said("up\n"));
    let stand_in = fs::read_to_string(bundle.folder.path().join("pid")).unwrap();
    let kill = Ran::of(Command::new("kill").args(["-HUP", &stand_in]));
    kill.ok();
    waiting::until("the exec hears of it", || has_said("up\nhup\n"));
    waiting::until("its stand-in ends", || {
        let stat = fs::read_to_string(format!("/proc/{stand_in}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z "))
    });
    bundle.runtime(&["delete", "--force", "a"]).ok();
    nothing_runs(&bundle);
}

#[test]
fn a_killed_keeper_takes_the_machine_with_it() {
    let bundle = Bundle::in_machine(&STAYS);
    bundle.detached(&["create", "a"]);
    bundle.runtime(&["start", "a"]).ok();
    let keeper = pid(&bundle, "a").to_string();
    Ran::of(Command::new("kill").args(["-KILL", &keeper])).ok();
    waiting::until("it is stopped", || bundle.status("a") == "stopped");
    nothing_runs(&bundle);
    bundle.runtime(&["delete", "a"]).ok();
    assert_eq!(
        fs::read_dir(bundle.folder.path().join("state"))
            .unwrap()
            .count(),
        0
    );
}

/// Ends the keeper of `a` while the command waits for its answer.
fn asked_while_the_keeper_ends(bundle: &Bundle, arguments: &[&str]) -> Ran {
    let keeper = pid(bundle, "a").to_string();
    let socket = bundle.folder.path().join("state/a/keeper.sock");
    fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let ended = std::thread::spawn(move || {
        let (connection, _) = listener.accept().unwrap();
        Ran::of(Command::new("kill").args(["-KILL", &keeper])).ok();
        drop(connection);
    });
    let ran = bundle.runtime(arguments);
    ended.join().unwrap();
    ran
}

#[test]
fn a_keeper_that_ends_when_it_is_asked_means_a_stopped_container() {
    let cases: [(&[&str], &[&str]); 3] = [
        (&["kill", "a"], &["container not running"]),
        (&["pause", "a"], &["in the stopped state"]),
        (&["delete", "--force", "a"], &[]),
    ];
    for (arguments, words) in cases {
        let bundle = Bundle::in_machine(&STAYS);
        bundle.detached(&["create", "a"]);
        bundle.runtime(&["start", "a"]).ok();
        let ran = asked_while_the_keeper_ends(&bundle, arguments);
        if words.is_empty() {
            ran.ok();
            continue;
        }
        ran.complains(words);
        assert_eq!(bundle.status("a"), "stopped");
        bundle.runtime(&["delete", "a"]).ok();
    }
}

#[test]
fn one_that_was_only_created_is_deleted() {
    let bundle = Bundle::in_machine(&STAYS);
    bundle.detached(&["create", "a"]);
    bundle.runtime(&["delete", "a"]).ok();
    nothing_runs(&bundle);
}

#[test]
fn a_terminal_is_passed_through() {
    let bundle = Bundle::in_machine(&[
        "sh",
        "-c",
        "trap 'stty size' WINCH; stty size; until read word; do :; done; echo got $word; exit 4",
    ]);
    bundle.change(|spec| spec["process"]["terminal"] = json!(true));
    let state = bundle.folder.path().join("state");
    let mut terminal = Terminal::start(
        programs::ours("atoll-runtime").to_str().unwrap(),
        &["--root", state.to_str().unwrap(), "run", "a"],
        (33, 77),
        |command| {
            command.current_dir(bundle.folder.path());
        },
    );
    terminal.expect("33 77");
    terminal.resize((20, 50));
    terminal.expect("20 50");
    terminal.type_in("hello\n");
    terminal.expect("got hello");
    assert_eq!(terminal.exit_code(), 4);
    // What is typed is shown once: the guest's terminal echoes, ours does not.
    assert_eq!(terminal.text().matches("hello\r\n").count(), 2);
    nothing_runs(&bundle);
}

#[test]
fn a_reader_that_goes_away_breaks_the_pipe() {
    let bundle = Bundle::in_machine(&["sh", "-c", "while echo line; do :; done; exit 9"]);
    let mut child = bundle
        .command(&["run", "a"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "line\n");
    // By SIGPIPE, or by the error of a shell that ignores it.
    let code = child.wait().unwrap().code();
    assert!(matches!(code, Some(9 | 141)), "{code:?}");
    nothing_runs(&bundle);
}

#[test]
fn bad_bundles_leave_nothing() {
    let refused = |change: fn(&mut Value), words: &[&str]| {
        let bundle = Bundle::in_machine(&["nosuch"]);
        bundle.change(change);
        let ran = bundle.runtime(&["create", "a"]);
        ran.complains(words);
        assert_eq!(ran.code, 1);
        let state = bundle.folder.path().join("state");
        assert_eq!(fs::read_dir(state).map_or(0, Iterator::count), 0);
        nothing_runs(&bundle);
    };
    refused(|_| (), &["executable file not found"]);
    refused(
        |spec| spec["annotations"]["io.atoll.isolation"] = json!("hyperv"),
        &["isolation \"hyperv\""],
    );
    refused(
        |spec| spec["vm"] = json!({"kernel": {"path": "/no/such/kernel"}}),
        &["/no/such/kernel"],
    );
    refused(
        |spec| {
            let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "network");
        },
        &["a machine cannot share the host's network namespace"],
    );
    refused(
        |spec| {
            spec["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .iter_mut()
                .filter(|namespace| namespace["type"] == "network")
                .for_each(|namespace| namespace["path"] = json!("/proc/self/ns/net"));
        },
        &["a machine cannot have the host's own network"],
    );
}

#[test]
fn the_vm_object_alone_asks_for_a_machine() {
    let bundle = Bundle::new(&[
        "sh",
        "-c",
        "uname -r; grep -o atoll.test=1 /proc/cmdline; nproc",
    ]);
    let kernel = newest_cloud_kernel();
    bundle.change(|spec| {
        spec["vm"] = json!({
            "kernel": {"path": kernel, "parameters": ["atoll.test=1"]},
            "hwConfig": {"vcpus": 2, "memory": 256 << 20},
        });
    });
    let text = bundle.runtime(&["run", "a"]).ok();
    let release = kernel.strip_prefix("/boot/vmlinuz-").unwrap();
    assert_eq!(text, format!("{release}\natoll.test=1\n2"));
}

fn newest_cloud_kernel() -> String {
    let names = fs::read_dir("/boot")
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let kernels = names.filter(|path| path.to_string_lossy().contains("vmlinuz-"));
    let mut kernels: Vec<_> = kernels
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    kernels.sort();
    kernels.pop().expect("a kernel, by cargo xtask setup")
}

/// A network namespace with a link to the host of the test, as a network plugin leaves it; all gone when dropped.
struct Linked(String);

impl Linked {
    fn new() -> Self {
        programs::require_root();
        let name = format!("atollk{}", std::process::id());
        let linked = Self(name.clone());
        let far = format!("{name}f");
        let ip = |words: &str| {
            Ran::of(Command::new("ip").args(words.split(' '))).ok();
        };
        ip(&format!("netns add {name}"));
        ip(&format!("netns add {far}"));
        ip(&format!(
            "-n {name} link add eth0 type veth peer name far0 netns {far}"
        ));
        ip(&format!("-n {name} addr add 10.77.3.2/24 dev eth0"));
        ip(&format!("-n {far} addr add 10.77.3.1/24 dev far0"));
        ip(&format!("-n {name} link set eth0 up"));
        ip(&format!("-n {far} link set far0 up"));
        ip(&format!("-n {name} route add default via 10.77.3.1"));
        linked
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        for name in [self.0.clone(), format!("{}f", self.0)] {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

#[test]
fn a_network_namespace_by_path_becomes_the_machines_card() {
    let linked = Linked::new();
    let bundle = Bundle::in_machine(&STAYS);
    let path = format!("/run/netns/{}", linked.0);
    bundle.change(|spec| {
        spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .filter(|namespace| namespace["type"] == "network")
            .for_each(|namespace| namespace["path"] = json!(path));
        for set in ["bounding", "effective", "permitted"] {
            let set = &mut spec["process"]["capabilities"][set];
            set.as_array_mut().unwrap().push(json!("CAP_NET_RAW"));
        }
    });
    bundle.detached(&["create", "a"]);
    bundle.runtime(&["start", "a"]).ok();
    let inside = bundle.runtime(&["exec", "a", "ping", "-c", "1", "-W", "5", "10.77.3.1"]);
    assert!(inside.ok().contains("1 packets received"), "{inside}");
    let far = format!("{}f", linked.0);
    let outside = [
        "netns",
        "exec",
        &far,
        "busybox",
        "ping",
        "-c",
        "1",
        "-W",
        "5",
        "10.77.3.2",
    ];
    Ran::of(Command::new("ip").args(outside)).ok();
    bundle.runtime(&["delete", "--force", "a"]).ok();
    nothing_runs(&bundle);
    // The link is as it was.
    let shown = ["-n", &linked.0, "-br", "link"];
    let links = Ran::of(Command::new("ip").args(shown)).ok();
    assert!(links.contains("eth0") && !links.contains("tap"), "{links}");
}

#[test]
fn a_root_without_a_file_system_for_devices_works_again_and_gets_nothing_of_ours() {
    let script = "echo x > /dev/null && head -c 3 /dev/zero | wc -c";
    let bundle = Bundle::in_machine(&["sh", "-c", script]);
    bundle.change(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    });
    // The first machine of all rehearses in it.
    let cache = bundle.folder.path().join("cache");
    for name in ["first", "second"] {
        let mut command = bundle.command(&["run", name]);
        let ran = Ran::of(command.env("ATOLL_CACHE_ROOT", &cache));
        assert_eq!(ran.ok(), "3");
    }
    let found = fs::read_dir(bundle.folder.path().join("rootfs/dev")).unwrap();
    let names: Vec<_> = found.map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().any(|name| name == "null"), "{names:?}");
    assert!(
        !names
            .iter()
            .any(|name| name.to_string_lossy().contains("atoll")),
        "{names:?}"
    );
}
