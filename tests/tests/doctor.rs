//! `atoll doctor`: what works on this host, found out without an engine.

use std::path::Path;
use std::process::Command;

use atoll_tests::{Ran, leaks, programs, waiting};
use serde_json::Value;

fn finding<'a>(report: &'a Value, name: &str) -> &'a Value {
    let findings = report["findings"].as_array().expect("findings are a list");
    findings
        .iter()
        .find(|one| one["name"] == name)
        .expect("each thing is reported")
}

fn report(command: &mut Command) -> (i32, Value) {
    let ran = Ran::of(command.args(["doctor", "--json"]));
    let report = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"));
    (ran.code, report)
}

/// Nothing is left in `folder`, where it works, nor of its containers and links.
fn assert_no_trace(folder: &Path) {
    let left = std::fs::read_dir(folder)
        .expect("the test's folder is there")
        .flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    // Another test's may be there for a moment.
    waiting::until("no cgroup is left", || {
        leaks::cgroups_named("atoll-doctor-").is_empty()
    });
    let links = Ran::of(Command::new("ip").args(["-o", "link"])).ok();
    assert!(!links.contains("doctor"), "{links}");
}

#[test]
fn every_wall_is_tried_without_an_engine_and_without_a_trace() {
    programs::require_root();
    let folder = tempfile::tempdir().unwrap();
    let atoll = programs::ours("atoll");
    let mut command = Command::new(&atoll);
    command.env("TMPDIR", folder.path());
    command.env("ATOLL_DATA_ROOT", folder.path().join("not/yet"));
    // No engine could be reached or started.
    command.env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
    let (code, report) = report(&mut command);
    assert_eq!(code, 0, "{report}");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(report["kernel"], kernel.trim());
    for name in ["process", "system", "chroot", "vm:soft", "network"] {
        assert_eq!(finding(&report, name)["state"], "works", "{report}");
    }
    let kvm = finding(&report, "vm:kvm");
    match kvm["state"].as_str() {
        Some("works") => assert_eq!(kvm["hint"], Value::Null),
        _ => {
            assert!(kvm["because"][0].as_str().unwrap().contains("KVM") && kvm["hint"].is_string());
        }
    }
    let text = Ran::of(Command::new(&atoll).arg("doctor")).ok();
    assert!(
        text.contains("process   works (the default wall)"),
        "{text}"
    );
    assert_no_trace(folder.path());
}

#[test]
fn without_privilege_reasons_and_hints_are_told() {
    programs::require_root();
    let folder = tempfile::tempdir().unwrap();
    readable(folder.path());
    let atoll = programs::ours("atoll");
    for name in [
        "atoll",
        "atoll-runtime",
        "atoll-probe",
        "atoll-vmm",
        "atoll-guest",
    ] {
        let to = folder.path().join(name);
        std::fs::copy(atoll.with_file_name(name), &to).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    let (code, report) = report(command.arg(folder.path().join("atoll")));
    assert_eq!(code, 1, "{report}");
    for name in ["process", "vm:soft", "network"] {
        let finding = finding(&report, name);
        assert_eq!(finding["state"], "fails", "{report}");
        assert!(
            finding["hint"].as_str().unwrap().contains("as root"),
            "{report}"
        );
    }
}

#[test]
fn a_missing_program_is_named() {
    programs::require_root();
    let folder = tempfile::tempdir().unwrap();
    let atoll = folder.path().join("atoll");
    std::fs::copy(programs::ours("atoll"), &atoll).unwrap();
    let (code, report) = report(Command::new(&atoll).env("PATH", "/usr/bin:/bin"));
    assert_eq!(code, 1, "{report}");
    for (name, program) in [("process", "atoll-runtime"), ("vm:soft", "atoll-vmm")] {
        let finding = finding(&report, name);
        assert_eq!(finding["because"][0], format!("cannot find {program}"));
        assert_eq!(
            finding["hint"],
            "install all of Atoll's programs in one folder"
        );
    }
}

fn readable(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))
        .expect("it is the test's own");
}
