//! Issue line 6: `atoll`'s own verbs, and the image `host`.

use atoll_tests::terminal::Terminal;
use atoll_tests::{Engine, programs, waiting};

#[test]
fn atoll_has_dockers_verbs() {
    let engine = Engine::start(&[]);
    atoll_tests::image::tarball(&engine.path("bb.tar"));
    engine
        .sh("atoll import $T/bb.tar bb || atoll import - bb < $T/bb.tar")
        .ok();
    assert!(engine.atoll(&["images"]).ok().contains("bb"));
    assert_eq!(
        engine.atoll(&["run", "--rm", "bb", "echo", "hi"]).ok(),
        "hi"
    );
    engine
        .atoll(&["run", "--rm", "bb", "sh", "-c", "exit 3"])
        .fails_with(3);
    engine
        .atoll(&["run", "--rm", "bb", "nosuch"])
        .fails_with(127);
    engine
        .atoll(&["run", "--rm", "bb", "/etc/plain"])
        .fails_with(126);
    engine
        .atoll(&["run", "--rm", "-u", "nosuch", "bb", "true"])
        .fails_with(125);
    assert_eq!(engine.sh("echo in | atoll run -i --rm bb cat").ok(), "in");
    let id = engine
        .atoll(&[
            "run",
            "-d",
            "--name",
            "box",
            "bb",
            "sh",
            "-c",
            "echo up; exec sleep 100",
        ])
        .ok();
    assert_eq!(id.len(), 64);
    assert!(engine.atoll(&["ps"]).ok().contains("box"));
    waiting::until("logged", || engine.atoll(&["logs", "box"]).ok() == "up");
    assert_eq!(engine.atoll(&["exec", "box", "echo", "in"]).ok(), "in");
    engine
        .atoll(&["exec", "box", "sh", "-c", "exit 9"])
        .fails_with(9);
    engine.atoll(&["stop", "-t", "0", "box"]).ok();
    engine.atoll(&["rm", "box"]).ok();
    assert_eq!(engine.atoll(&["ps", "-aq"]).ok(), "");
    engine
        .atoll(&["rm", "box"])
        .complains(&["error:", "No such container: box"]);
}

#[test]
fn atoll_run_has_a_terminal() {
    let engine = Engine::with_image();
    let atoll = programs::ours("atoll").display().to_string();
    let mut terminal = Terminal::start(
        &atoll,
        &["run", "--rm", "-it", "bb", "sh"],
        (21, 77),
        |command| {
            engine.point_keeping_stdin(command);
        },
    );
    terminal.expect("#");
    terminal.type_in("stty size\r");
    terminal.expect("21 77");
    terminal.type_in("exit 4\r");
    assert_eq!(terminal.exit_code(), 4);
}

#[test]
fn the_host_image_needs_no_image_and_shows_no_homes() {
    let engine = Engine::start(&[]);
    let seen = engine.atoll(&["run", "--rm", "host", "--", "ls", "/"]).ok();
    for folder in ["bin", "etc", "usr", "var"] {
        assert!(seen.lines().any(|line| line == folder), "{seen}");
    }
    assert_eq!(
        engine
            .atoll(&["run", "--rm", "host", "--", "ls", "-A", "/root", "/home"])
            .ok(),
        "/home:\n\n/root:"
    );
    // The writable layer is thrown away.
    engine
        .atoll(&["run", "--rm", "host", "--", "touch", "/usr/atoll-was-here"])
        .ok();
    assert!(!std::path::Path::new("/usr/atoll-was-here").exists());
    engine
        .atoll(&["run", "--rm", "host", "--", "ls", "/usr/atoll-was-here"])
        .complains(&["No such file"]);
    assert_eq!(
        engine.docker(&["run", "--rm", "host", "echo", "same"]).ok(),
        "same"
    );
}

#[test]
fn atoll_run_starts_an_engine_when_none_answers() {
    let mut engine = Engine::start(&[]);
    engine.kill();
    let pid = engine.namespace_pid();
    let script = format!(
        "nsenter --net=/proc/{pid}/ns/net env -u DOCKER_HOST ATOLL_DATA_ROOT=$T/own/data ATOLL_EXEC_ROOT=$T/own/exec \
         atoll -H unix://$T/own.sock run --rm host -- echo hi"
    );
    let ran = engine.sh(&script);
    let engines =
        atoll_tests::leaks::processes_naming(&engine.path("own.sock").display().to_string());
    for (pid, _) in engines {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    assert_eq!(ran.ok(), "hi");
}
