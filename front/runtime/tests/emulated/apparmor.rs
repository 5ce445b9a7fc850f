//! AppArmor profiles of processes, under a kernel with the profiles of `xtask/src/nested/labels.apparmor`.

use std::fs;

use serde_json::json;

use super::bundle::Bundle;

/// May not read `/secret`, and is signalled by the unconfined alone.
const PROFILE: &str = "atoll-container";
/// May not read `/private`.
const OTHER: &str = "atoll-other";
/// Shows the profile of whoever executes it.
const OWN: [&str; 2] = ["cat", "/proc/self/attr/current"];

/// A bundle whose process has the profile.
fn bundle(script: &str) -> Bundle {
    let bundle = Bundle::new(script);
    bundle.change(|spec| spec["process"]["apparmorProfile"] = json!(PROFILE));
    for name in ["secret", "private"] {
        fs::write(bundle.path("rootfs").join(name), name).unwrap();
    }
    bundle
}

#[test]
#[ignore = "needs a kernel with AppArmor: cargo xtask nested-labels"]
fn the_process_is_confined_and_what_it_starts_too() {
    let bundle = bundle("cat /proc/self/attr/current /private /secret; echo over");
    for no_new_privileges in [true, false] {
        bundle.change(|spec| spec["process"]["noNewPrivileges"] = json!(no_new_privileges));
        let output = bundle.run(&["run", &bundle.name]);
        let shown = String::from_utf8_lossy(&output.stdout);
        assert_eq!(shown, format!("{PROFILE} (enforce)\nprivateover\n"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("'/secret': Permission denied"), "{said}");
        bundle.assert_clean();
    }
}

#[test]
#[ignore = "needs a kernel with AppArmor: cargo xtask nested-labels"]
fn a_profile_may_be_none_or_several() {
    let bundle = bundle("cat /proc/self/attr/current");
    let several = format!("{PROFILE}//&{OTHER}");
    for (profile, shown) in [
        ("", "unconfined".to_owned()),
        ("unconfined", "unconfined".to_owned()),
        (OTHER, format!("{OTHER} (enforce)")),
        (&several, format!("{several} (enforce)")),
    ] {
        bundle.change(|spec| spec["process"]["apparmorProfile"] = json!(profile));
        assert_eq!(bundle.ok(&["run", &bundle.name]), shown, "{profile}");
    }
    bundle.assert_clean();
}

#[test]
#[ignore = "needs a kernel with AppArmor: cargo xtask nested-labels"]
fn later_processes_have_a_profile_of_their_own_or_the_containers() {
    let bundle = bundle("exec sleep 100");
    let id = bundle.name.as_str();
    bundle.start();
    let of = |arguments: &[&str]| bundle.ok(&[&["exec"], arguments, &[id], &OWN].concat());
    let confined = format!("{PROFILE} (enforce)");
    assert_eq!(of(&[]), confined);
    assert_eq!(of(&["--apparmor", OTHER]), format!("{OTHER} (enforce)"));
    assert_eq!(of(&["--apparmor", "unconfined"]), "unconfined");
    let path = bundle.path("process.json");
    for (profile, shown) in [
        (None, confined),
        (Some(OTHER), format!("{OTHER} (enforce)")),
    ] {
        let process = json!({ "args": OWN, "cwd": "/", "user": { "uid": 0, "gid": 0 }, "env": ["PATH=/bin"],
            "apparmorProfile": profile });
        fs::write(&path, process.to_string()).unwrap();
        let output = bundle.ok(&["exec", "--process", path.to_str().unwrap(), id]);
        assert_eq!(output, shown);
    }
    let said = bundle.refused(&["exec", "--apparmor", "atoll-no-such", id, "true"], 255);
    assert!(said.contains("set the AppArmor profile"), "{said}");
    // Its profile lets nobody else do so: the program that kills it is not confined.
    bundle.ok(&["kill", id, "KILL"]);
    bundle.delete();
    bundle.assert_clean();
}

#[test]
#[ignore = "needs a kernel with AppArmor: cargo xtask nested-labels"]
fn a_profile_that_is_not_loaded_is_refused_and_nothing_is_left() {
    let bundle = bundle("true");
    bundle.change(|spec| spec["process"]["apparmorProfile"] = json!("atoll-no-such"));
    for command in ["run", "create"] {
        let said = bundle.refused(&[command, &bundle.name], 1);
        assert!(said.contains("set the AppArmor profile"), "{said}");
        assert!(
            said.contains("hint: load it with apparmor_parser -r"),
            "{said}"
        );
        bundle.assert_clean();
    }
}

#[test]
#[ignore = "needs a kernel with AppArmor: cargo xtask nested-labels"]
fn hooks_are_confined_as_the_program_or_not_at_all() {
    let bundle = bundle("true");
    let shown = |name: &str| {
        fs::read_to_string(bundle.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    bundle.change(|spec| {
        let hook = |folder: &str, name: &str| {
            let line = format!("/bin/busybox cat /proc/self/attr/current > {folder}/{name}");
            json!([{ "path": "/bin/busybox", "args": ["sh", "-c", line] }])
        };
        let outside = bundle.path("").to_string_lossy().into_owned();
        spec["hooks"] = json!({
            "createRuntime": hook(&outside, "runtime"),
            "createContainer": hook(&outside, "container"),
            "startContainer": hook("", "rootfs-start"),
            "poststop": hook(&outside, "stopped"),
        });
    });
    bundle.ok(&["run", &bundle.name]);
    for name in ["runtime", "container", "stopped"] {
        assert_eq!(shown(name).trim(), "unconfined", "{name}");
    }
    assert_eq!(
        shown("rootfs/rootfs-start").trim(),
        format!("{PROFILE} (enforce)")
    );
    bundle.assert_clean();
}

#[test]
#[ignore = "needs a kernel with AppArmor: cargo xtask nested-labels"]
fn user_namespaces_are_confined_too() {
    let bundle = bundle("cat /proc/self/attr/current /secret");
    bundle.make_user_namespace(0);
    let output = bundle.run(&["run", &bundle.name]);
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(shown, format!("{PROFILE} (enforce)\n"), "{output:?}");
    bundle.assert_clean();
}
