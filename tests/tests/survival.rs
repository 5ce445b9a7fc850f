//! Issue line 5: `kill -9` of the engine and of a shim.

use atoll_tests::{Engine, leaks, waiting};

#[test]
fn containers_outlive_a_killed_engine_and_a_new_one_finds_them() {
    let mut engine = Engine::with_image();
    let id = engine
        .docker(&[
            "run",
            "-d",
            "--name",
            "box",
            "bb",
            "sh",
            "-c",
            "i=0; trap 'exit 4' TERM; while :; do i=$((i+1)); echo $i; sleep 0.05; done",
        ])
        .ok();
    let pid = engine
        .docker(&["inspect", "-f", "{{.State.Pid}}", "box"])
        .ok();
    waiting::until("it printed", || {
        !engine.docker(&["logs", "box"]).ok().is_empty()
    });
    let log = engine.docker(&["inspect", "-f", "{{.LogPath}}", &id]).ok();
    engine.kill();
    let before = std::fs::metadata(&log).unwrap().len();
    waiting::until("output is logged without an engine", || {
        std::fs::metadata(&log).unwrap().len() > before + 500
    });
    engine.restart();
    assert_eq!(
        engine
            .docker(&["inspect", "-f", "{{.State.Pid}} {{.State.Status}}", "box"])
            .ok(),
        format!("{pid} running")
    );
    let logged = engine.docker(&["logs", "box"]).ok();
    let numbers: Vec<usize> = logged.lines().map(|line| line.parse().unwrap()).collect();
    assert!(
        numbers
            .iter()
            .enumerate()
            .all(|(index, number)| *number == index + 1),
        "{numbers:?}"
    );
    assert_eq!(engine.docker(&["exec", "box", "echo", "in"]).ok(), "in");
    let attached = engine
        .sh("timeout -s KILL 1 docker attach --no-stdin --sig-proxy=false box || true")
        .stdout;
    assert!(attached.lines().count() > 3, "{attached}");
    let waiter = engine.sh("docker wait box & sleep 0.2; docker stop box >/dev/null; wait");
    assert_eq!(waiter.ok(), "4");
    engine.docker(&["rm", "box"]).ok();
    engine.assert_no_trace_of(&id);
}

#[test]
fn an_exit_while_the_engine_was_dead_is_reported_with_its_code() {
    let mut engine = Engine::with_image();
    let id = engine
        .docker(&[
            "run",
            "-d",
            "--name",
            "box",
            "bb",
            "sh",
            "-c",
            "sleep 0.5; echo last; exit 6",
        ])
        .ok();
    engine
        .docker(&["run", "-d", "--rm", "--name", "gone", "bb", "sleep", "0.5"])
        .ok();
    engine.kill();
    std::thread::sleep(std::time::Duration::from_millis(900));
    engine.restart();
    assert_eq!(engine.docker(&["wait", "box"]).ok(), "6");
    assert_eq!(engine.docker(&["logs", "box"]).ok(), "last");
    engine.docker(&["start", "box"]).ok();
    assert_eq!(engine.docker(&["wait", "box"]).ok(), "6");
    waiting::until("--rm was kept across the restart", || {
        engine.docker(&["ps", "-aq"]).ok() == id[..12]
    });
}

#[test]
fn a_killed_shim_is_noticed_with_a_reason_and_nothing_leaks() {
    let engine = Engine::with_image();
    let id = engine
        .docker(&["run", "-d", "--name", "box", "bb", "sleep", "1000"])
        .ok();
    let pid: i32 = engine
        .docker(&["inspect", "-f", "{{.State.Pid}}", "box"])
        .ok()
        .parse()
        .unwrap();
    let shims = leaks::processes_naming(&id);
    let (shim, _) = shims
        .iter()
        .find(|(_, line)| line.contains("containerd-shim-atoll-v2"))
        .unwrap();
    let shim = rustix::process::Pid::from_raw(*shim).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    let state = |format: &str| engine.docker(&["inspect", "-f", format, "box"]).ok();
    waiting::until("the container is reported dead", || {
        state("{{.State.Running}}") == "false"
    });
    assert!(
        state("{{.State.Error}}").contains("shim"),
        "{}",
        state("{{json .State}}")
    );
    waiting::until("its process is gone", || {
        !std::path::Path::new(&format!("/proc/{pid}")).exists()
    });
    engine.docker(&["start", "box"]).ok();
    engine.docker(&["rm", "-f", "box"]).ok();
    engine.assert_no_trace_of(&id);
}

#[test]
fn a_shim_killed_while_the_engine_is_dead_is_found_at_the_next_start() {
    let mut engine = Engine::with_image();
    let id = engine
        .docker(&["run", "-d", "--name", "box", "bb", "sleep", "1000"])
        .ok();
    let shims = leaks::processes_naming(&id);
    let (shim, _) = shims
        .iter()
        .find(|(_, line)| line.contains("containerd-shim-atoll-v2"))
        .unwrap();
    engine.kill();
    let shim = rustix::process::Pid::from_raw(*shim).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    engine.restart();
    waiting::until("the container is reported dead", || {
        engine
            .docker(&["inspect", "-f", "{{.State.Running}}", "box"])
            .ok()
            == "false"
    });
    engine.docker(&["rm", "box"]).ok();
    engine.assert_no_trace_of(&id);
}

#[test]
fn stopping_the_engine_politely_leaves_containers_alone() {
    let mut engine = Engine::with_image();
    engine
        .docker(&["run", "-d", "--name", "box", "bb", "sleep", "1000"])
        .ok();
    engine.terminate();
    engine.restart();
    assert_eq!(
        engine
            .docker(&["inspect", "-f", "{{.State.Running}}", "box"])
            .ok(),
        "true"
    );
}
