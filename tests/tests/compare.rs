//! `atoll compare`: the same image behind each wall, nothing left behind.

use std::io::Read as _;
use std::process::{Command, Stdio};

use atoll_tests::{Engine, Ran, programs, waiting};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn compare(engine: &Engine, arguments: &[&str]) -> Ran {
    engine.atoll(&[&["compare"], arguments].concat())
}

fn wall<'a>(report: &'a Value, name: &str) -> &'a Value {
    let walls = report["walls"].as_array().expect("walls are a list");
    let wall = walls.iter().find(|one| one["wall"] == name);
    wall.expect("each wall is reported")
}

/// Nothing of a comparison is left.
fn assert_no_trace(engine: &Engine) {
    assert_eq!(engine.docker(&["ps", "-aq"]).ok(), "");
    let left = std::fs::read_dir(engine.path("data/containers"));
    let left: Vec<_> = left.into_iter().flatten().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn walls_are_measured_side_by_side_and_leave_nothing() {
    let engine = Engine::with_image();
    let command = [
        "bb",
        "-n",
        "1",
        "--json",
        "--",
        "sh",
        "-c",
        "echo hi; exit 3",
    ];
    let ran = compare(&engine, &command);
    let report: Value = serde_json::from_str(&ran.ok()).unwrap();
    let ours = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(report["rounds"], 1);
    assert_eq!(report["command"][0], "sh");
    let process = wall(&report, "process");
    let machine = wall(&report, "vm:soft");
    assert_eq!(process["kernel"], ours.trim());
    assert_ne!(machine["kernel"], process["kernel"]);
    for (wall, monitor) in [(process, ".atoll-probe"), (machine, "atoll-vmm")] {
        assert_eq!(wall["state"], "works", "{wall}");
        let spreads = [
            "create_s",
            "start_s",
            "output_s",
            "total_s",
            "exit_s",
            "pss_bytes",
            "rss_bytes",
            "system_call_ns",
            "page_fault_ns",
            "integer_ns",
            "copy_ns",
        ];
        for field in spreads {
            let median = wall[field]["median"].as_f64();
            assert!(median.is_some_and(|median| median > 0.0), "{field}: {wall}");
        }
        assert!(wall["first"]["total_s"].as_f64().unwrap() > 0.0);
        assert!(wall["cpu_slowdown"].is_f64());
        assert_eq!(wall["command"]["exit_code"], 3);
        assert_eq!(wall["command"]["last_words"], "hi");
        assert_eq!(wall["processes"][1], monitor, "{wall}");
        assert!(
            wall["processes"][0]
                .as_str()
                .unwrap()
                .starts_with("containerd-shim")
        );
        let consists = wall["consists_of"].to_string();
        assert!(consists.contains("a filter of system calls"), "{consists}");
    }
    assert_eq!(process["made_template"], Value::Null);
    assert_eq!(process["backend"], Value::Null);
    assert_eq!(machine["backend"], "soft");
    assert!(machine["made_template"].is_boolean());
    for name in ["system", "chroot"] {
        let wall = wall(&report, name);
        assert_eq!(
            (&wall["state"], &wall["kernel"]),
            (&process["state"], &process["kernel"])
        );
        assert!(
            wall["total_s"]["median"].is_number() || wall["total_s"].is_object(),
            "{wall}"
        );
    }
    let kvm = wall(&report, "vm:kvm");
    if kvm["state"] != "works" {
        let doctor = Ran::of(Command::new(programs::ours("atoll")).args(["doctor", "--json"]));
        assert!(doctor.ok().contains(kvm["hint"].as_str().unwrap()), "{kvm}");
        assert_eq!(kvm["kernel"], Value::Null);
    }
    assert_no_trace(&engine);
}

#[test]
fn an_image_without_any_program_is_compared_as_well() {
    let engine = Engine::start(&[]);
    engine
        .sh("mkdir $T/root && echo x > $T/root/file && tar -C $T/root -cf $T/e.tar . && docker import $T/e.tar empty")
        .ok();
    let text = compare(&engine, &["empty", "-n", "1"]).ok();
    for row in [
        "kernel ",
        "start ",
        "memory, PSS ",
        "system call ",
        "CPU slowdown ",
    ] {
        assert!(
            text.lines().any(|line| line.starts_with(row)),
            "{row}:\n{text}"
        );
    }
    assert!(
        text.contains("vm:soft consists of\n  a kernel of its own, "),
        "{text}"
    );
    assert!(
        !text.lines().any(|line| line.starts_with("command ")),
        "{text}"
    );
    assert_no_trace(&engine);
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let engine = Engine::with_image();
    compare(&engine, &["nosuch"]).complains(&["No such image", "hint:"]);
    compare(&engine, &["bb", "-n", "0"]).fails_with(125);
    compare(&engine, &["bb", "-n", "x"]).fails_with(125);
    compare(&engine, &["bb", "true"]).fails_with(125);
    compare(&engine, &[]).fails_with(125);
    let missing = compare(&engine, &["bb", "-n", "1", "--", "nosuch"]);
    missing.complains(&[
        "cannot run nosuch in bb",
        "No such file or directory",
        "hint: name a program that the image has",
    ]);
    assert_no_trace(&engine);
}

#[test]
fn walls_that_break_are_told_with_the_engines_reason() {
    let engine = Engine::start(&[]);
    atoll_tests::image::tarball(&engine.path("bb.tar"));
    engine
        .sh("docker import -c 'USER nosuch' $T/bb.tar bb:latest")
        .ok();
    let ran = compare(&engine, &["bb", "-n", "1"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    for wall in ["process", "vm:soft"] {
        let told = format!("{wall} does not work here\n  because: cannot start container\n");
        assert!(ran.stdout.contains(&told), "{}", ran.stdout);
    }
    assert!(ran.stdout.contains("nosuch"), "{}", ran.stdout);
    assert_no_trace(&engine);
}

#[test]
fn an_interrupted_comparison_leaves_nothing() {
    let engine = Engine::with_image();
    let atoll = programs::ours("atoll").display().to_string();
    for (signal, code) in [
        (Signal::INT, Some(130)),
        (Signal::TERM, Some(143)),
        (Signal::KILL, None),
    ] {
        let mut command = engine.client(&atoll);
        command.args(["compare", "bb", "--", "sleep", "1000"]);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        waiting::until("a container runs", || {
            engine
                .docker(&["ps", "--format", "{{.Names}} {{.State}}"])
                .ok()
                .contains(" running")
        });
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = child.wait().unwrap();
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(status.code(), code, "{said}");
        if code.is_some() {
            assert!(said.contains("nothing is left"), "{said}");
        }
        waiting::until("the container is gone", || {
            engine.docker(&["ps", "-aq"]).ok().is_empty()
        });
        assert_no_trace(&engine);
    }
}
