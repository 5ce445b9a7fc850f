//! Issue line 3: `docker run` and its flags.

use atoll_tests::{Engine, waiting};

#[test]
fn run_prints_and_leaves_no_trace() {
    let engine = Engine::with_image();
    assert_eq!(
        engine.docker(&["run", "--rm", "bb", "echo", "hi"]).ok(),
        "hi"
    );
    assert_eq!(engine.docker(&["ps", "-aq"]).ok(), "");
    let id = engine.docker(&["run", "-d", "bb", "true"]).ok();
    assert_eq!(engine.docker(&["wait", &id]).ok(), "0");
    engine.docker(&["rm", &id]).ok();
    engine.assert_no_trace_of(&id);
    assert_eq!(engine.sh("ls $T/data/containers").ok(), "");
}

#[test]
fn standard_error_stays_apart_and_lines_keep_their_order() {
    let engine = Engine::with_image();
    let ran = engine.docker(&["run", "--rm", "bb", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((ran.ok().as_str(), ran.stderr.as_str()), ("out", "err\n"));
    let many = engine
        .docker(&["run", "--rm", "bb", "seq", "1", "100000"])
        .ok();
    assert_eq!(many.lines().count(), 100_000);
    assert!(
        many.lines()
            .enumerate()
            .all(|(index, line)| line == (index + 1).to_string())
    );
}

#[test]
fn a_hundred_megabytes_pass_through_standard_input_whole() {
    let engine = Engine::with_image();
    let sums = engine
        .sh("head -c 100000000 /dev/urandom > $T/data.bin
             sha256sum < $T/data.bin
             docker run -i --rm bb cat < $T/data.bin | sha256sum
             docker run -i --rm bb sha256sum < $T/data.bin")
        .ok();
    let sums: Vec<&str> = sums.lines().collect();
    assert_eq!((sums[0], sums[0]), (sums[1], sums[2]));
}

#[test]
fn closing_standard_input_reaches_the_container_while_output_goes_on() {
    let engine = Engine::with_image();
    let said = engine
        .sh("printf 'a\\nb\\n' | docker run -i --rm bb sh -c 'wc -l; sleep 0.3; echo later'")
        .ok();
    assert_eq!(said, "2\nlater");
}

#[test]
fn environment_directory_user_and_entrypoint_are_honoured() {
    let engine = Engine::with_image();
    let run = |arguments: &[&str]| engine.docker(&[&["run", "--rm"], arguments].concat()).ok();
    assert_eq!(run(&["-e", "A=b c", "bb", "sh", "-c", "echo $A"]), "b c");
    assert_eq!(
        run(&["-w", "/made/on/demand", "bb", "pwd"]),
        "/made/on/demand"
    );
    assert_eq!(
        run(&["bb", "id"]),
        "uid=0(root) gid=0(root) groups=0(root),10(wheel)"
    );
    assert_eq!(
        run(&["-u", "guest", "bb", "id"]),
        "uid=1000(guest) gid=1000(guest) groups=10(wheel),1000(guest)"
    );
    assert_eq!(
        run(&["-u", "1234:5678", "bb", "sh", "-c", "id -u; id -g"]),
        "1234\n5678"
    );
    assert_eq!(
        run(&["-u", "guest", "bb", "sh", "-c", "echo $HOME"]),
        "/home/guest"
    );
    assert_eq!(run(&["--entrypoint", "/bin/echo", "bb", "x", "y"]), "x y");
    assert_eq!(
        run(&["--hostname", "atoll.test", "bb", "hostname"]),
        "atoll.test"
    );
    assert_eq!(
        run(&["bb", "sh", "-c", "echo $PATH"]),
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    );
}

#[test]
fn bind_mounts_and_read_only_roots_are_honoured() {
    let engine = Engine::with_image();
    engine
        .sh("mkdir $T/src && echo from-host > $T/src/file")
        .ok();
    let source = engine.path("src").display().to_string();
    let run = |arguments: &[&str]| engine.docker(&[&["run", "--rm"], arguments].concat());
    assert_eq!(
        run(&[
            "-v",
            &format!("{source}:/srv/deep"),
            "bb",
            "cat",
            "/srv/deep/file"
        ])
        .ok(),
        "from-host"
    );
    run(&[
        "-v",
        &format!("{source}:/srv"),
        "bb",
        "sh",
        "-c",
        "echo back > /srv/back",
    ])
    .ok();
    assert_eq!(engine.sh("cat $T/src/back").ok(), "back");
    let read_only = format!("{source}:/srv:ro");
    run(&["-v", &read_only, "bb", "touch", "/srv/x"]).complains(&["Read-only file system"]);
    run(&["--read-only", "bb", "touch", "/x"]).complains(&["Read-only file system"]);
    run(&[
        "--read-only",
        "--tmpfs",
        "/scratch",
        "bb",
        "touch",
        "/scratch/x",
    ])
    .ok();
    run(&[
        "--mount",
        "type=bind,src=/no/such/source,dst=/srv",
        "bb",
        "true",
    ])
    .complains(&["/no/such/source"]);
}

#[test]
fn limits_are_what_the_cgroup_enforces() {
    let engine = Engine::with_image();
    let id = engine
        .docker(&[
            "run",
            "-d",
            "--memory",
            "64m",
            "--cpus",
            "0.5",
            "--pids-limit",
            "20",
            "bb",
            "sleep",
            "100",
        ])
        .ok();
    // Seen from the host in the container's own cgroups.
    let cgroup = |controller: &str, file: &str| {
        let pid = engine
            .docker(&["inspect", "-f", "{{.State.Pid}}", &id])
            .ok();
        let script = format!(
            "p=$(sed -n 's/^[0-9]*:{controller}://p' /proc/{pid}/cgroup); cat /sys/fs/cgroup/{controller}$p/{file}"
        );
        engine.sh(&script).ok()
    };
    assert_eq!(cgroup("memory", "memory.limit_in_bytes"), "67108864");
    assert_eq!(cgroup("cpu", "cpu.cfs_quota_us"), "50000");
    assert_eq!(cgroup("cpu", "cpu.cfs_period_us"), "100000");
    assert_eq!(cgroup("pids", "pids.max"), "20");
    engine.docker(&["rm", "-f", &id]).ok();
    engine.assert_no_trace_of(&id);
    let eater = engine.docker(&[
        "run",
        "--name",
        "eater",
        "--memory",
        "16m",
        "bb",
        "sh",
        "-c",
        "yes | tr -d '\\n' | head -c 200000000 | grep x",
    ]);
    assert_eq!(eater.code, 137, "{eater}");
    assert_eq!(
        engine
            .docker(&["inspect", "-f", "{{.State.OOMKilled}}", "eater"])
            .ok(),
        "true"
    );
}

#[test]
fn capabilities_are_dockers_and_can_be_changed() {
    let engine = Engine::with_image();
    let effective = |arguments: &[&str]| {
        let arguments = [
            &["run", "--rm"],
            arguments,
            &["bb", "grep", "CapEff", "/proc/self/status"],
        ]
        .concat();
        let line = engine.docker(&arguments).ok();
        u64::from_str_radix(line.rsplit_once('\t').unwrap().1, 16).unwrap()
    };
    let default = effective(&[]);
    assert_eq!(default, 0x0000_0000_a804_25fb);
    assert_eq!(effective(&["--cap-drop", "ALL"]), 0);
    assert_eq!(
        effective(&["--cap-drop", "ALL", "--cap-add", "NET_RAW"]),
        1 << 13
    );
    assert_eq!(effective(&["--cap-drop", "chown"]), default & !1);
    assert_eq!(effective(&["--cap-add", "SYS_ADMIN"]), default | 1 << 21);
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:\t"))
        .unwrap();
    let own = u64::from_str_radix(own, 16).unwrap();
    assert_eq!(
        effective(&["--privileged"]),
        own,
        "privileged is what the host's root has"
    );
    engine
        .docker(&["run", "--cap-add", "NOSUCH", "bb", "true"])
        .complains(&["NOSUCH"]);
}

#[test]
fn the_wall_is_dockers_default_one() {
    let engine = Engine::with_image();
    let sh = |script: &str| engine.docker(&["run", "--rm", "bb", "sh", "-c", script]);
    assert_eq!(sh("grep Seccomp: /proc/self/status").ok(), "Seccomp:\t2");
    sh("mount -t tmpfs x /tmp").complains(&["ermi"]);
    assert_eq!(sh("cat /proc/kcore | wc -c").ok(), "0");
    sh("echo 1 > /proc/sys/kernel/hostname").complains(&["Read-only"]);
    assert_eq!(
        sh("ls -A /proc/scsi /sys/firmware 2>/dev/null | grep -v : | tr -d '\\n'").ok(),
        ""
    );
    assert_eq!(
        sh("ls /proc/self/fd | wc -l").ok(),
        "4",
        "0, 1, 2 and ls's own"
    );
    assert_eq!(sh("echo $$").ok(), "1");
    assert_eq!(
        sh("ls /dev | grep -v core | tr '\\n' ' '")
            .ok()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" "),
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
}

#[test]
fn detached_containers_are_listed_logged_stopped_started_and_removed() {
    let engine = Engine::with_image();
    let id = engine
        .docker(&[
            "run",
            "-d",
            "--name",
            "web",
            "bb",
            "sh",
            "-c",
            "echo up; trap 'echo bye; exit 3' TERM; while :; do sleep 0.05; done",
        ])
        .ok();
    assert_eq!(id.len(), 64, "{id}");
    assert_eq!(
        engine
            .docker(&["ps", "--format", "{{.Names}} {{.State}}"])
            .ok(),
        "web running"
    );
    waiting::until("the line is logged", || {
        engine.docker(&["logs", "web"]).ok() == "up"
    });
    engine.docker(&["stop", "web"]).ok();
    assert_eq!(
        engine
            .docker(&[
                "inspect",
                "-f",
                "{{.State.Status}} {{.State.ExitCode}}",
                "web"
            ])
            .ok(),
        "exited 3"
    );
    assert_eq!(engine.docker(&["logs", "web"]).ok(), "up\nbye");
    engine.docker(&["start", "web"]).ok();
    waiting::until("the second start is logged", || {
        engine.docker(&["logs", "web"]).ok() == "up\nbye\nup"
    });
    engine.docker(&["kill", "-s", "KILL", "web"]).ok();
    assert_eq!(engine.docker(&["wait", "web"]).ok(), "137");
    engine
        .docker(&["run", "--name", "web", "bb", "true"])
        .fails_with(125);
    engine.docker(&["rm", "-f", "web"]).ok();
    engine.docker(&["inspect", "web"]).complains(&["No such"]);
    engine.assert_no_trace_of(&id);
}

#[test]
fn following_logs_ends_with_the_container() {
    let engine = Engine::with_image();
    engine
        .docker(&[
            "run",
            "-d",
            "--name",
            "box",
            "bb",
            "sh",
            "-c",
            "for i in 1 2 3; do echo $i; sleep 0.2; done; echo e >&2",
        ])
        .ok();
    let followed = engine.docker(&["logs", "-f", "box"]);
    assert_eq!(
        (followed.ok().as_str(), followed.stderr.as_str()),
        ("1\n2\n3", "e\n")
    );
    assert_eq!(engine.docker(&["logs", "--tail", "1", "box"]).stderr, "e\n");
    assert_eq!(engine.docker(&["logs", "-n", "2", "box"]).stdout, "3\n");
    let stamped = engine.docker(&["logs", "-t", "box"]).ok();
    assert!(
        stamped.lines().next().unwrap().ends_with("Z 1"),
        "{stamped}"
    );
}

#[test]
fn exec_runs_beside_the_main_process() {
    let engine = Engine::with_image();
    engine
        .docker(&[
            "run", "-d", "--name", "box", "-e", "A=1", "bb", "sleep", "100",
        ])
        .ok();
    let exec = |arguments: &[&str]| engine.docker(&[&["exec"], arguments].concat());
    assert_eq!(exec(&["box", "echo", "hi"]).ok(), "hi");
    assert_eq!(
        exec(&["-e", "B=2", "box", "sh", "-c", "echo $A$B"]).ok(),
        "12"
    );
    assert_eq!(exec(&["-w", "/tmp", "box", "pwd"]).ok(), "/tmp");
    assert_eq!(exec(&["-u", "guest", "box", "whoami"]).ok(), "guest");
    exec(&["box", "sh", "-c", "exit 7"]).fails_with(7);
    exec(&["box", "nosuch"]).fails_with(127);
    exec(&["box", "/etc/plain"]).fails_with(126);
    assert_eq!(
        engine.sh("echo piped | docker exec -i box cat").ok(),
        "piped"
    );
    exec(&["-d", "box", "touch", "/tmp/mark"]).ok();
    waiting::until("the detached exec ran", || {
        exec(&["box", "ls", "/tmp/mark"]).code == 0
    });
    assert_eq!(
        exec(&["box", "grep", "Seccomp:", "/proc/self/status"]).ok(),
        "Seccomp:\t2"
    );
    let sums = engine
        .sh("head -c 20000000 /dev/urandom > $T/data.bin; sha256sum < $T/data.bin; docker exec -i box sha256sum < $T/data.bin")
        .ok();
    let (first, second) = sums.split_once('\n').unwrap();
    assert_eq!(first, second);
}
