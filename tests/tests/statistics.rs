//! `atoll-runtime events --stats` tells what runc's does: runc itself is the judge.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use atoll_tests::bundle::Bundle;
use atoll_tests::programs;
use serde_json::{Value, json};

/// Names of all members, with those above; of the kernel's own table, none.
fn names(value: &Value, above: &str, into: &mut BTreeSet<String>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let name = format!("{above}/{name}");
        if !name.ends_with("/raw") {
            names(value, &name, into);
        }
        into.insert(name);
    }
}

fn told(runtime: &Path, bundle: &Bundle, id: &str) -> BTreeSet<String> {
    let command = |arguments: &[&str]| {
        let mut command = Command::new(runtime);
        command
            .arg("--root")
            .arg(bundle.folder.path().join("state"));
        command.args(arguments).current_dir(bundle.folder.path());
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    };
    let ran = command(&["run", "-d", id]).stdout(Stdio::null()).status();
    assert!(ran.unwrap().success(), "{}", runtime.display());
    let events = command(&["events", "--stats", id]).output().unwrap();
    let deleted = command(&["delete", "--force", id]).status();
    assert!(deleted.unwrap().success());
    let event: Value = serde_json::from_slice(&events.stdout).unwrap();
    let mut found = BTreeSet::new();
    names(&event, "", &mut found);
    // Only there when something was counted.
    found.retain(|name| {
        !["/usage", "/max", "/cache"]
            .iter()
            .any(|end| name.ends_with(end))
            || name.matches('/').count() == 3
    });
    found
}

#[test]
fn the_same_members_are_told_as_by_runc() {
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.change(|spec| {
        spec["linux"]["resources"] = json!({
            "memory": { "limit": 64 << 20 }, "pids": { "limit": 10 }, "cpu": { "cpus": "0" },
        });
        let path = spec["linux"]["cgroupsPath"].as_str().unwrap().to_owned();
        spec["linux"]["cgroupsPath"] = json!(format!("/{path}"));
    });
    let ours = told(&programs::ours("atoll-runtime"), &bundle, "ours");
    let runcs = told(Path::new("/usr/sbin/runc"), &bundle, "runcs");
    assert_eq!(ours, runcs);
    assert!(ours.contains("/data/memory/kernelTCP/failcnt") && ours.contains("/data/pids/limit"));
}
