//! Issue line 7: `atoll-runtime` has runc's command line.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use atoll_tests::bundle::Bundle;
use atoll_tests::terminal::Terminal;
use atoll_tests::{Ran, programs, waiting};
use serde_json::{Value, json};

#[test]
fn run_passes_streams_and_the_exit_code() {
    let bundle = Bundle::new(&["sh", "-c", "echo out; echo err >&2; exit 7"]);
    let ran = bundle.runtime(&["run", "a"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (7, "out\n", "err\n")
    );
    assert_eq!(bundle.runtime(&["list", "-q"]).ok(), "");
}

#[test]
fn a_terminal_passes_line_ends_on_as_they_are() {
    let bundle = Bundle::new(&["echo", "at once"]);
    bundle.change(|spec| spec["process"]["terminal"] = json!(true));
    for name in ["a", "b", "c"] {
        let ran = bundle.runtime(&["run", name]);
        assert_eq!((ran.stdout.as_str(), ran.code), ("at once\n", 0));
    }
    bundle.change(|spec| {
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(["sleep", "100"]);
    });
    bundle.detached(&["run", "-d", "d"]);
    for _ in 0..5 {
        let ran = bundle.runtime(&["exec", "-t", "d", "echo", "at once"]);
        assert_eq!((ran.stdout.as_str(), ran.code), ("at once\n", 0));
    }
    // The terminal's end is not the program's.
    let ran = bundle.runtime(&["exec", "-t", "d", "nosuch"]);
    assert_eq!(ran.code, 255);
    assert!(
        ran.stderr.contains("executable file not found"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_terminal_begins_with_the_size_of_where_it_is_shown() {
    let bundle = Bundle::new(&["sh", "-c", "stty size >/tmp/size"]);
    bundle.change(|spec| {
        spec["process"]["terminal"] = json!(true);
        spec["process"]["consoleSize"] = json!({"height": 10, "width": 110});
        spec["root"]["readonly"] = json!(false);
    });
    let folder = bundle.folder.path().to_owned();
    let path = folder.join("socket");
    let socket = UnixListener::bind(&path).unwrap();
    let shown = std::thread::spawn(move || {
        let (stream, _) = socket.accept().unwrap();
        let (_, fds) = atoll_sys::unix::recv_fds(&stream, &mut [0; 4096]).unwrap();
        fds
    });
    let program = programs::ours("atoll-runtime");
    let run = |size: (u16, u16), arguments: &[&str]| {
        let all = [&["--root", "state", "run"], arguments].concat();
        let mut terminal = Terminal::start(program.to_str().unwrap(), &all, size, |command| {
            command.current_dir(&folder);
        });
        assert_eq!(terminal.exit_code(), 0, "{}", terminal.text());
        fs::read_to_string(folder.join("rootfs/tmp/size")).unwrap()
    };
    let id = folder.file_name().unwrap().to_str().unwrap();
    // A terminal that never was told its size has none to give.
    assert_eq!(run((0, 0), &[id]), "10 110\n");
    // One that is handed out is shown by whoever takes it, not by ours.
    let with_socket = ["--console-socket", path.to_str().unwrap(), id];
    assert_eq!(run((24, 80), &with_socket), "10 110\n");
    assert_eq!(shown.join().unwrap().len(), 1);
}

#[test]
fn what_is_left_out_is_said_although_the_container_cannot_be_made() {
    let bundle = Bundle::new(&["true"]);
    bundle.change(|spec| {
        // Nothing may be inherited that is not in the bounding set.
        spec["process"]["capabilities"] = json!({
            "bounding": ["TEST_CAP"], "effective": [], "permitted": ["CAP_KILL"], "inheritable": ["CAP_KILL"],
        });
    });
    let ran = bundle.runtime(&["run", "a"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let warning = "ignoring unknown or unavailable capabilities: [TEST_CAP]";
    let (first, rest) = ran.stderr.split_once('\n').unwrap();
    assert!(first.contains(warning), "{first}");
    assert!(rest.contains("set capabilities"), "{rest}");
}

#[test]
fn create_start_kill_delete_go_through_the_states() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.detached(&["create", "--pid-file", "pid", "a"]);
    assert_eq!(bundle.status("a"), "created");
    let pid = fs::read_to_string(bundle.folder.path().join("pid")).unwrap();
    assert!(PathBuf::from(format!("/proc/{pid}")).exists());
    bundle
        .runtime(&["create", "a"])
        .complains(&["already exists"]);
    bundle.runtime(&["start", "a"]).ok();
    assert_eq!(bundle.status("a"), "running");
    bundle.runtime(&["start", "a"]).fails_with(1);
    bundle.runtime(&["delete", "a"]).complains(&["running"]);
    assert!(bundle.runtime(&["list"]).ok().contains("running"));
    assert!(bundle.runtime(&["ps", "a"]).ok().contains("sleep 1000"));
    assert_eq!(
        bundle.runtime(&["ps", "-f", "json", "a"]).ok(),
        format!("[{pid}]")
    );
    bundle.runtime(&["pause", "a"]).ok();
    assert_eq!(bundle.status("a"), "paused");
    bundle.runtime(&["resume", "a"]).ok();
    bundle.runtime(&["kill", "a", "KILL"]).ok();
    atoll_tests::waiting::until("it stopped", || bundle.status("a") == "stopped");
    bundle
        .runtime(&["kill", "a", "KILL"])
        .complains(&["container not running"]);
    bundle.runtime(&["delete", "a"]).ok();
    bundle
        .runtime(&["state", "a"])
        .complains(&["does not exist"]);
    bundle.runtime(&["delete", "--force", "a"]).ok();
}

#[test]
fn exec_joins_the_container() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.detached(&["run", "-d", "a"]);
    let exec = |arguments: &[&str]| bundle.runtime(&[&["exec"], arguments].concat());
    assert_eq!(
        exec(&["a", "cat", "/proc/1/cmdline"]).ok(),
        "sleep\u{0}1000\u{0}"
    );
    assert_eq!(
        exec(&[
            "--env",
            "A=1",
            "--cwd",
            "/tmp",
            "a",
            "sh",
            "-c",
            "echo $A; pwd"
        ])
        .ok(),
        "1\n/tmp"
    );
    assert_eq!(exec(&["--user", "1000:1000", "a", "id", "-u"]).ok(), "1000");
    exec(&["a", "sh", "-c", "exit 9"]).fails_with(9);
    assert!(
        exec(&["a", "nosuch"])
            .fails_with(255)
            .contains("executable file not found")
    );
    fs::write(
        bundle.folder.path().join("p.json"),
        r#"{"args":["echo","from","file"],"cwd":"/","env":["PATH=/bin"]}"#,
    )
    .unwrap();
    assert_eq!(exec(&["--process", "p.json", "a"]).ok(), "from file");
    bundle.runtime(&["update", "--pids-limit", "33", "a"]).ok();
    bundle
        .runtime(&["update", "a"])
        .complains(&["nothing to change"]);
    // What nobody knows is no error, what cannot be read is.
    let from_file = |text: &str| {
        fs::write(bundle.folder.path().join("limits.json"), text).unwrap();
        bundle.runtime(&["update", "-r", "limits.json", "a"])
    };
    from_file("{\"nobody\": {\"knows\": 1}}").ok();
    from_file("{\"pids\": 1}").complains(&["limits.json holds no OCI resources"]);
}

#[test]
fn bad_bundles_get_one_clear_line_and_leave_nothing() {
    let bundle = Bundle::new(&["true"]);
    bundle
        .runtime(&["run", "--bundle", "/no/such", "a"])
        .complains(&["/no/such"]);
    bundle
        .runtime(&["run", "a/b"])
        .complains(&["invalid container id"]);
    bundle.change(|spec| spec["process"]["args"] = json!(["nosuch"]));
    bundle
        .runtime(&["--log", "log", "--log-format", "json", "run", "a"])
        .complains(&["executable file not found in $PATH"]);
    let log = fs::read_to_string(bundle.folder.path().join("log")).unwrap();
    assert!(
        log.contains("\"level\":\"error\"") && log.contains("executable file not found"),
        "{log}"
    );
    bundle.change(|spec| spec["mounts"][0]["source"] = json!("/no/such/source"));
    bundle.change(|spec| spec["mounts"][0]["type"] = json!("bind"));
    bundle.change(|spec| spec["mounts"][0]["options"] = json!(["bind"]));
    bundle
        .runtime(&["run", "a"])
        .complains(&["/no/such/source"]);
    fs::write(bundle.config(), "{\n \"process\": {\"cwd\": 7}\n}").unwrap();
    bundle
        .runtime(&["run", "a"])
        .complains(&["config.json", "line 2, column"]);
    assert_eq!(bundle.runtime(&["list", "-q"]).ok(), "");
    assert!(fs::read_dir(bundle.folder.path().join("state")).map_or(0, Iterator::count) == 0);
}

#[test]
fn the_runtimes_program_cannot_be_overwritten_from_inside() {
    // CVE-2019-5736: open our own program file through /proc and write to it.
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.detached(&["create", "a"]);
    let before = fs::read(programs::ours("atoll-runtime")).unwrap();
    let pid: Value =
        serde_json::from_str(&bundle.runtime(&["ps", "-f", "json", "a"]).ok()).unwrap();
    // The waiting init still is our program. The attack keeps it open until nobody executes it, which other tests may.
    let script = format!(
        "exec 3< /proc/{}/exe; {} --root state delete a
         for turn in $(seq 1000); do
             said=$({{ echo x >> /proc/self/fd/3; }} 2>&1) && exit 0
             case $said in *busy*) sleep 0.01;; *) break;; esac
         done
         echo \"$said\" >&2; exit 2",
        pid[0],
        programs::ours("atoll-runtime").display()
    );
    let mut attack = Command::new("sh");
    let ran = Ran::of(
        attack
            .args(["-c", &script])
            .current_dir(bundle.folder.path()),
    );
    ran.complains(&["Read-only file system"]);
    // The container makes us execute ourselves.
    bundle.detached(&["run", "-d", "a"]);
    bundle.runtime(&["exec", "a", "/proc/self/exe", "x"]);
    assert_eq!(fs::read(programs::ours("atoll-runtime")).unwrap(), before);
}

#[test]
fn features_and_version_name_the_specification() {
    let bundle = Bundle::new(&["true"]);
    let features: Value = serde_json::from_str(&bundle.runtime(&["features"]).ok()).unwrap();
    assert_eq!(features["ociVersionMax"], "1.3.0");
    assert!(bundle.runtime(&["--version"]).ok().contains("spec: 1.3.0"));
}

/// Sends `message` to the socket that the container `id` has for its words to the service manager.
fn say(bundle: &Bundle, id: &str, message: &[u8]) {
    let state: Value = serde_json::from_str(&bundle.runtime(&["state", id]).ok()).unwrap();
    let path = format!("/proc/{}/root/run/notify/notify.sock", state["pid"]);
    let socket = UnixDatagram::unbound().unwrap();
    waiting::until("the container has its socket", || {
        socket.connect(&path).is_ok()
    });
    socket.send(message).unwrap();
}

fn told(manager: &UnixDatagram) -> String {
    let mut room = [0; 100];
    let count = manager.recv(&mut room).unwrap();
    String::from_utf8_lossy(&room[..count]).into_owned()
}

#[test]
fn a_service_says_that_it_is_ready() {
    let bundle = Bundle::new(&["sh", "-c", "test -S $NOTIFY_SOCKET && exec sleep 100"]);
    let address = bundle.folder.path().join("manager");
    let manager = UnixDatagram::bind(&address).unwrap();
    let limit = std::time::Duration::from_secs(10);
    manager.set_read_timeout(Some(limit)).unwrap();
    let service = |arguments: &[&str]| {
        let mut command = bundle.command(arguments);
        command.env("NOTIFY_SOCKET", &address);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    for (id, arguments) in [("a", ["run", "-d", "a"].as_slice()), ("b", &["start", "b"])] {
        if arguments == ["start", "b"] {
            assert!(service(&["create", "b"]).status().unwrap().success());
        }
        let mut command = service(arguments).spawn().unwrap();
        waiting::until("the container runs", || {
            let ran = bundle.runtime(&["state", id]);
            ran.code == 0 && ran.stdout.contains("\"running\"")
        });
        say(&bundle, id, b"STATUS=nearly\n");
        say(&bundle, id, b"READY=1\nSTATUS=yes");
        let state: Value = serde_json::from_str(&bundle.runtime(&["state", id]).ok()).unwrap();
        assert_eq!(told(&manager), "READY=1\n");
        assert_eq!(told(&manager), format!("MAINPID={}\n", state["pid"]));
        // Its descriptor is closed with it.
        assert_eq!(told(&manager), "BARRIER=1");
        assert!(command.wait().unwrap().success());
        bundle.runtime(&["delete", "--force", id]).ok();
    }
    // One that ends without a word is waited for no longer.
    bundle.change(|spec| spec["process"]["args"] = json!(["true"]));
    assert!(service(&["run", "-d", "c"]).status().unwrap().success());
}

#[test]
fn sockets_of_the_service_manager_reach_the_container() {
    let bundle = Bundle::new(&["sh", "-c", "echo $LISTEN_FDS $LISTEN_PID; cat <&3; cat <&4"]);
    for name in ["one", "two"] {
        fs::write(bundle.folder.path().join(name), format!("{name}\n")).unwrap();
    }
    let run = |preserved: &str| {
        let script = format!(
            "exec 3<one 4<two; export LISTEN_FDS=1 LISTEN_PID=$$; exec {} --root state run --preserve-fds {preserved} a",
            programs::ours("atoll-runtime").display()
        );
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &script])
            .current_dir(bundle.folder.path());
        Ran::of(&mut shell)
    };
    assert_eq!(run("1").ok(), "1 1\none\ntwo");
    let refused = run("2");
    assert!(
        refused
            .stderr
            .contains("unable to stat preserved-fd 1 (of 2)"),
        "{}",
        refused.stderr
    );
    // Those for another process are left alone.
    let mut command = bundle.command(&["run", "a"]);
    command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    assert!(Ran::of(&mut command).stdout.starts_with("\n"));
}
