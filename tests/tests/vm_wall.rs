//! The wall of a machine: `docker run --isolation=vm`, driven by the docker CLI.

use atoll_tests::{Engine, waiting};

/// Starts a machine called `name` that runs `program` of the image; its id.
fn start(engine: &Engine, name: &str, program: &[&str]) -> String {
    let run = ["run", "-d", "--isolation=vm", "--name", name, "bb"];
    engine.docker(&[&run[..], program].concat()).ok()
}

/// What `docker inspect -f` says of a container.
fn inspect(engine: &Engine, name: &str, format: &str) -> String {
    engine.docker(&["inspect", "-f", format, name]).ok()
}

#[test]
fn a_machine_runs_a_command_with_another_kernel_and_leaves_no_trace() {
    let engine = Engine::with_image();
    let said = engine.docker(&["run", "--rm", "--isolation=vm", "bb", "uname", "-r"]);
    let ours = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let kernel = said.ok();
    assert_ne!(kernel, ours.trim());
    let ran = engine.docker(&[
        "run",
        "--isolation=vm",
        "--name",
        "mach",
        "bb",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    ]);
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (7, "out\n", "err\n")
    );
    assert_eq!(engine.docker(&["logs", "mach"]).stdout, "out\n");
    let id = inspect(&engine, "mach", "{{.Id}}");
    let wall = engine.docker(&[
        "inspect",
        "-f",
        "{{.HostConfig.Isolation}} {{.State.ExitCode}}",
        "mach",
    ]);
    assert_eq!(wall.ok(), "vm 7");
    let machine = engine.docker(&[
        "inspect",
        "-f",
        "{{.Machine.Backend}} {{.Machine.Kernel}}",
        "mach",
    ]);
    let machine = machine.ok();
    assert!(
        machine == format!("soft {kernel}") || machine == format!("kvm {kernel}"),
        "{machine}"
    );
    let info = engine.docker(&["info", "-f", "{{.SecurityOptions}}"]).ok();
    assert!(
        info.contains("isolation=process") && info.contains("isolation=vm:soft"),
        "{info}"
    );
    engine.docker(&["rm", "mach"]).ok();
    engine.assert_no_trace_of(&id);
}

#[test]
fn the_first_machine_rehearses_and_others_are_made_of_it() {
    let engine = Engine::with_image_and_own_cache();
    let looks = |name: &str| {
        start(&engine, name, &["sleep", "100"]);
        let changed = engine.docker(&["exec", name, "sh", "-c", "ls /; ls /dev; cat /proc/mounts"]);
        let id = inspect(&engine, name, "{{.Id}}");
        let log = engine.path("exec/bundles").join(&id).join("shim.log");
        let log = std::fs::read_to_string(log).unwrap();
        assert_eq!(log, "", "what the shim of {name} had to report");
        changed.ok()
    };
    let templates = || {
        let folders = std::fs::read_dir(engine.path("cache/templates")).into_iter();
        let mut folders: Vec<_> = folders
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        folders.sort();
        folders
    };
    assert!(templates().is_empty());
    let first = looks("first");
    let made = templates();
    let [template] = &made[..] else {
        panic!("{made:?}");
    };
    let mut files: Vec<_> = std::fs::read_dir(template)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let soft = ["code", "config.json", "memory", "state.json"];
    // The host's processor has no code to give away.
    assert!(files == soft || files == soft[1..], "{files:?}");
    let code = template.join("code");
    let rehearsed = std::fs::read(&code).ok();
    let second = looks("second");
    assert_eq!(templates(), made);
    // Nothing of the rehearsal is there, in the first machine or another.
    assert_eq!(first, second);
    assert!(!first.contains("rehearsal"), "{first}");
    for name in ["first", "second"] {
        engine.docker(&["rm", "-f", name]).ok();
    }
    if rehearsed.is_some() {
        // A copy that ends before it lets go of code teaches the template what it executed.
        let short = ["run", "--rm", "--isolation=vm", "bb", "true"];
        engine.docker(&short).ok();
        assert!(template.join("taught").exists());
        assert_ne!(std::fs::read(&code).ok(), rehearsed);
        assert_eq!(looks("taught"), first);
        engine.docker(&["rm", "-f", "taught"]).ok();
        // A template whose code is damaged is as good, if slower; so is one that has none.
        let mut bytes = std::fs::read(&code).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xFF;
        std::fs::write(&code, bytes).unwrap();
        looks("third");
        std::fs::remove_file(&code).unwrap();
        looks("fourth");
        assert_eq!(templates(), made);
        engine.docker(&["rm", "-f", "third", "fourth"]).ok();
    }
}

#[test]
fn streams_pass_through_a_machine_whole() {
    let engine = Engine::with_image();
    let sums = engine
        .sh("head -c 5000000 /dev/urandom > $T/data.bin
             sha256sum < $T/data.bin
             docker run -i --rm --isolation=vm bb cat < $T/data.bin | sha256sum
             docker run -i --rm --isolation=vm bb sha256sum < $T/data.bin")
        .ok();
    let sums: Vec<&str> = sums.lines().collect();
    assert_eq!((sums[0], sums[0]), (sums[1], sums[2]));
}

#[test]
fn files_volumes_and_failures_are_as_behind_other_walls() {
    let engine = Engine::with_image();
    std::fs::create_dir(engine.path("shared")).unwrap();
    let run = |arguments: &[&str]| {
        engine.docker(&[&["run", "--rm", "--isolation=vm"], arguments].concat())
    };
    let volume = format!("{}:/v", engine.path("shared").display());
    run(&["-v", &volume, "bb", "sh", "-c", "id -u > /v/from-guest"]).ok();
    let written = std::fs::read_to_string(engine.path("shared/from-guest")).unwrap();
    assert_eq!(written, "0\n");
    let read_only = format!("{volume}:ro");
    let refused = run(&["-v", &read_only, "bb", "touch", "/v/x"]);
    assert!(
        refused.stderr.contains("Read-only file system"),
        "{}",
        refused.stderr
    );
    let hostname = run(&[
        "--hostname",
        "guest1",
        "bb",
        "sh",
        "-c",
        "hostname; cat /etc/hostname",
    ]);
    assert_eq!(hostname.ok(), "guest1\nguest1");
    assert_eq!(run(&["bb", "nope"]).code, 127);
    assert_eq!(run(&["bb", "/etc/plain"]).code, 126);
    assert_eq!(
        run(&[
            "-u",
            "guest",
            "-w",
            "/tmp",
            "-e",
            "A=b c",
            "bb",
            "sh",
            "-c",
            "id -un; pwd; echo $A"
        ])
        .ok(),
        "guest\n/tmp\nb c"
    );
    let contradiction = run(&["--pid", "host", "bb", "true"]);
    assert_eq!(contradiction.code, 125);
    assert!(
        contradiction
            .stderr
            .contains("--pid host contradicts --isolation vm"),
        "{}",
        contradiction.stderr
    );
}

#[test]
fn a_running_machine_takes_execs_signals_and_pauses() {
    let engine = Engine::with_image();
    let script = "trap 'echo got term; exit 3' TERM; echo up; while true; do sleep 1; done";
    let id = engine
        .docker(&[
            "run",
            "-d",
            "--isolation=vm",
            "--name",
            "mach",
            "--memory",
            "64m",
            "bb",
            "sh",
            "-c",
            script,
        ])
        .ok();
    waiting::until("the container is up", || {
        engine.docker(&["logs", "mach"]).stdout == "up\n"
    });
    assert_eq!(
        engine
            .docker(&[
                "exec",
                "mach",
                "sh",
                "-c",
                "echo $$ > /tmp/x; cat /proc/1/comm"
            ])
            .ok(),
        "sh"
    );
    assert_eq!(
        engine.docker(&["exec", "mach", "sh", "-c", "exit 9"]).code,
        9
    );
    assert_eq!(engine.docker(&["exec", "mach", "nope"]).code, 127);
    let top = engine.docker(&["top", "mach"]).ok();
    assert!(top.contains("trap 'echo got term"), "{top}");
    engine.docker(&["pause", "mach"]).ok();
    assert_eq!(inspect(&engine, "mach", "{{.State.Status}}"), "paused");
    engine.docker(&["unpause", "mach"]).ok();
    let stats = engine
        .docker(&[
            "stats",
            "--no-stream",
            "--format",
            "{{.Name}} {{.MemUsage}} {{.PIDs}}",
            "mach",
        ])
        .ok();
    assert!(stats.starts_with("mach "), "{stats}");
    assert!(stats.contains(" / 64MiB "), "{stats}");
    engine.docker(&["stop", "mach"]).ok();
    assert_eq!(engine.docker(&["logs", "mach"]).stdout, "up\ngot term\n");
    assert_eq!(inspect(&engine, "mach", "{{.State.ExitCode}}"), "3");
    engine.docker(&["start", "mach"]).ok();
    engine.docker(&["kill", "mach"]).ok();
    assert_eq!(engine.docker(&["wait", "mach"]).ok(), "137");
    engine.docker(&["rm", "mach"]).ok();
    engine.assert_no_trace_of(&id);
}

#[test]
fn what_ends_a_machine_is_told() {
    let engine = Engine::with_image();
    let run = |name: &str, program: &str| {
        let id = engine
            .docker(&[
                "run",
                "-d",
                "--isolation=vm",
                "--privileged",
                "--name",
                name,
                "bb",
                "sh",
                "-c",
                program,
            ])
            .ok();
        waiting::until("the machine has ended", || {
            inspect(&engine, name, "{{.State.Status}}") == "exited"
        });
        let error = inspect(&engine, name, "{{.State.Error}}");
        engine.docker(&["rm", name]).ok();
        engine.assert_no_trace_of(&id);
        error
    };
    let panic = run(
        "panics",
        "mount -t proc proc /proc; echo c > /proc/sysrq-trigger; sleep 100",
    );
    assert!(panic.contains("machine"), "{panic}");
    let id = start(&engine, "killed", &["sleep", "1000"]);
    let pid = inspect(&engine, "killed", "{{.State.Pid}}");
    engine.sh(&format!("kill -9 {pid}")).ok();
    waiting::until("the machine has ended", || {
        inspect(&engine, "killed", "{{.State.Status}}") == "exited"
    });
    let state = inspect(&engine, "killed", "{{.State.ExitCode}} {{.State.Error}}");
    assert!(
        state.starts_with("137 the machine's monitor was ended by signal 9"),
        "{state}"
    );
    engine.docker(&["rm", "killed"]).ok();
    engine.assert_no_trace_of(&id);
}

#[test]
fn a_machine_that_answers_no_more_is_killed_all_the_same() {
    let engine = Engine::with_image();
    let state = |name: &str| inspect(&engine, name, "{{.State.Status}} {{.State.ExitCode}}");
    for (name, command) in [
        ("stuck", "docker kill stuck"),
        ("stayed", "docker stop -t 1 stayed"),
    ] {
        let id = start(&engine, name, &["sleep", "1000"]);
        let pid = inspect(&engine, name, "{{.State.Pid}}");
        // Neither its agent nor its kernel can do anything from now on.
        engine.sh(&format!("kill -STOP {pid}")).ok();
        engine.sh(command);
        waiting::until("the machine has ended", || state(name) == "exited 137");
        engine.docker(&["rm", name]).ok();
        engine.assert_no_trace_of(&id);
    }
}

#[test]
fn a_full_disk_of_the_host_is_told_in_the_guest() {
    let engine = Engine::with_image();
    // In a mount namespace of its own the engine's shims would not see it.
    let small = engine.path("small");
    std::fs::create_dir(&small).unwrap();
    engine.sh("mount -t tmpfs -o size=2m small $T/small").ok();
    let volume = format!("{}:/v", small.display());
    let ran = engine.docker(&[
        "run",
        "--rm",
        "--isolation=vm",
        "-v",
        &volume,
        "bb",
        "sh",
        "-c",
        "dd if=/dev/zero of=/v/big bs=64k count=64 conv=fsync; echo then $?; rm /v/big; echo fits > /v/small && cat /v/small",
    ]);
    engine.sh("umount $T/small").ok();
    assert!(
        ran.stderr.contains("No space left on device"),
        "{}",
        ran.stderr
    );
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "then 1\nfits\n"));
}

#[test]
fn machines_and_containers_reach_each_other_on_the_bridge() {
    let engine = Engine::with_image();
    start(
        &engine,
        "mach",
        &["nc", "-l", "-p", "80", "-e", "echo", "from the machine"],
    );
    let address = inspect(
        &engine,
        "mach",
        "{{.NetworkSettings.Networks.bridge.IPAddress}}",
    );
    let fetch = format!("until nc {address} 80 2>/dev/null; do sleep 0.1; done");
    assert_eq!(
        engine
            .docker(&["run", "--rm", "bb", "sh", "-c", &fetch])
            .ok(),
        "from the machine"
    );
    engine
        .docker(&[
            "run",
            "-d",
            "--name",
            "cont",
            "bb",
            "nc",
            "-l",
            "-p",
            "81",
            "-e",
            "echo",
            "from the container",
        ])
        .ok();
    let address = inspect(
        &engine,
        "cont",
        "{{.NetworkSettings.Networks.bridge.IPAddress}}",
    );
    let fetch = format!("until nc {address} 81 2>/dev/null; do sleep 0.1; done");
    assert_eq!(
        engine
            .docker(&["run", "--rm", "--isolation=vm", "bb", "sh", "-c", &fetch])
            .ok(),
        "from the container"
    );
    let none = engine.docker(&[
        "run",
        "--rm",
        "--isolation=vm",
        "--network",
        "none",
        "bb",
        "ls",
        "/sys/class/net",
    ]);
    assert_eq!(none.ok(), "lo");
}

#[test]
fn what_a_machine_receives_is_counted_as_such() {
    let engine = Engine::with_image();
    for wall in ["vm", "process"] {
        let give = [
            "nc",
            "-l",
            "-p",
            "81",
            "-e",
            "head",
            "-c",
            "300000",
            "/dev/zero",
        ];
        engine
            .docker(&[&["run", "-d", "--name", "giver", "bb"], &give[..]].concat())
            .ok();
        let address = inspect(
            &engine,
            "giver",
            "{{.NetworkSettings.Networks.bridge.IPAddress}}",
        );
        let take = format!(
            "until nc {address} 81 > /dev/null 2>&1; do sleep 0.1; done; echo done; sleep 1000"
        );
        let isolation = format!("--isolation={wall}");
        engine
            .docker(&[
                "run", "-d", &isolation, "--name", wall, "bb", "sh", "-c", &take,
            ])
            .ok();
        waiting::until("all has come", || {
            engine.docker(&["logs", wall]).stdout == "done\n"
        });
        let answer = engine.raw(&format!(
            "GET /v1.50/containers/{wall}/stats?stream=false&one-shot=true HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        ));
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let begin = body.find('{').unwrap_or_default();
        let mut values = serde_json::Deserializer::from_str(&body[begin..]).into_iter();
        let stats: serde_json::Value = values.next().unwrap().unwrap();
        let card = &stats["networks"]["eth0"];
        let (received, sent) = (card["rx_bytes"].as_u64(), card["tx_bytes"].as_u64());
        assert!(received > Some(300_000), "{wall}: {stats}");
        assert!(sent > Some(0) && sent < Some(100_000), "{wall}: {stats}");
        let limit = stats["memory_stats"]["limit"].as_u64();
        assert_eq!(limit == Some(512 << 20), wall == "vm", "{wall}: {stats}");
        engine.docker(&["rm", "-f", wall, "giver"]).ok();
    }
}

#[test]
fn changes_are_kept_over_restarts_and_seen_by_no_other_machine() {
    let engine = Engine::with_image();
    let script = "if [ -e /new ]; then cat /new; ls /etc; else echo kept > /new; rm /etc/plain; mkdir /etc/deep; touch /etc/deep/er; fi";
    let run = &[
        "run",
        "--isolation=vm",
        "--name",
        "mach",
        "bb",
        "sh",
        "-c",
        script,
    ];
    assert_eq!(engine.docker(run).ok(), "");
    // On the disk of the host, when the machine is gone.
    let upper = engine
        .sh("ls $T/data/containers/*/upper/diff/etc/deep")
        .ok();
    assert_eq!(upper, "er");
    let again = engine.docker(&["start", "-a", "mach"]).ok();
    assert_eq!(again.lines().next(), Some("kept"));
    assert!(
        again.contains("deep") && !again.contains("plain"),
        "{again}"
    );
    let other = engine.docker(&["run", "--rm", "--isolation=vm", "bb", "ls", "/", "/etc"]);
    let other = other.ok();
    assert!(!other.contains("new") && other.contains("plain"), "{other}");
    engine.docker(&["rm", "mach"]).ok();
}

#[test]
fn the_running_system_is_an_image_for_machines_too() {
    let engine = Engine::start(&[]);
    let ours = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let said = engine
        .atoll(&["run", "--rm", "--isolation=vm", "host", "--", "uname", "-r"])
        .ok();
    assert_ne!(said, ours.trim());
    let system = std::fs::read_to_string("/etc/os-release").unwrap();
    let seen = engine.atoll(&[
        "run",
        "--rm",
        "--isolation=vm",
        "host",
        "--",
        "cat",
        "/etc/os-release",
    ]);
    assert_eq!(seen.stdout, system);
}

#[test]
fn machines_outlive_a_killed_engine_and_go_with_their_shim() {
    let mut engine = Engine::with_image();
    let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.2; done";
    let id = engine
        .docker(&[
            "run",
            "-d",
            "--isolation=vm",
            "--name",
            "mach",
            "bb",
            "sh",
            "-c",
            script,
        ])
        .ok();
    let state =
        |engine: &Engine, format: &str| engine.docker(&["inspect", "-f", format, "mach"]).ok();
    let pid = state(&engine, "{{.State.Pid}}");
    let lines = |engine: &Engine| engine.docker(&["logs", "mach"]).ok().lines().count();
    waiting::until("it printed", || lines(&engine) > 0);
    engine.kill();
    engine.restart();
    assert_eq!(
        state(&engine, "{{.State.Pid}} {{.State.Status}}"),
        format!("{pid} running")
    );
    assert_eq!(engine.docker(&["exec", "mach", "echo", "in"]).ok(), "in");
    let before = lines(&engine);
    waiting::until("it goes on", || lines(&engine) > before + 2);
    let shim = engine.sh(&format!("ps -o ppid= -p {pid}")).ok();
    engine.sh(&format!("kill -9 {shim}")).ok();
    waiting::until("it has ended", || {
        state(&engine, "{{.State.Status}}") == "exited"
    });
    let end = state(&engine, "{{.State.ExitCode}} {{.State.Error}}");
    assert!(end.starts_with("137 shim died"), "{end}");
    waiting::until("the monitor is gone", || {
        !std::path::Path::new(&format!("/proc/{pid}")).exists()
    });
    engine.docker(&["rm", "mach"]).ok();
    engine.assert_no_trace_of(&id);
}

#[test]
fn a_guest_without_memory_is_told_apart() {
    let engine = Engine::with_image();
    let script = "x=a; while :; do x=$x$x$x$x; done";
    let ran = engine.docker(&[
        "run",
        "--isolation=vm",
        "--name",
        "mach",
        "--memory",
        "32m",
        "bb",
        "sh",
        "-c",
        script,
    ]);
    let state = engine.docker(&[
        "inspect",
        "-f",
        "{{.State.ExitCode}} {{.State.OOMKilled}}",
        "mach",
    ]);
    assert_eq!((ran.code, state.ok().as_str()), (137, "137 true"));
    engine.docker(&["rm", "mach"]).ok();
}
