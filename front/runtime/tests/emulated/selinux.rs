//! SELinux labels of processes, keyrings and mounts, under a kernel that enforces a policy.
//!
//! `cargo xtask nested-labels` runs these in an emulated machine with a stock kernel and the policy
//! `xtask/src/nested/labels.conf`, one after the other: some switch enforcing off and on. `ATOLL_RUNTIME` is the program,
//! and `TMPDIR` a file system whose files have the type `container_file_t`.

use std::fs;

use serde_json::{Value, json};

use super::bundle::Bundle;

const PROCESS: &str = "system_u:system_r:container_t:s0:c1,c2";
const OTHER_PROCESS: &str = "system_u:system_r:jailed_t:s0:c1";
const MOUNT: &str = "system_u:object_r:container_file_t:s0:c1,c2";

/// A bundle whose process and mounts are labelled.
fn bundle(script: &str) -> Bundle {
    let bundle = Bundle::new(script);
    bundle.change(|spec| {
        spec["process"]["selinuxLabel"] = json!(PROCESS);
        spec["linux"]["mountLabel"] = json!(MOUNT);
    });
    bundle
}

/// Makes the container without catching its output: it outlives the command.
#[track_caller]
fn create(bundle: &Bundle) {
    bundle.detached(&["create", &bundle.name]);
}

/// Runs the container to its end, which must be a good one.
#[track_caller]
fn output(bundle: &Bundle) -> String {
    bundle.ok(&["run", &bundle.name])
}

fn enforce(is_on: bool) {
    fs::write("/sys/fs/selinux/enforce", u8::from(is_on).to_string()).unwrap();
}

/// The label a file has by its extended attribute.
fn label_of(path: &str) -> String {
    let mut room = [0; 256];
    let length = rustix::fs::getxattr(path, "security.selinux", &mut room).unwrap();
    let text = String::from_utf8(room[..length].to_vec()).unwrap();
    text.trim_end_matches('\0').to_owned()
}

#[test]
#[ignore = "needs a kernel with SELinux: cargo xtask nested-labels"]
fn without_a_policy_labels_are_refused() {
    let bundle = bundle("true");
    let words = "is specified in config, but selinux is disabled or not supported";
    let said = bundle.refused(&["run", &bundle.name], 1);
    assert!(said.contains(&format!("selinux label {words}")), "{said}");
    bundle.change(|spec| spec["process"]["selinuxLabel"] = json!(""));
    let said = bundle.refused(&["run", &bundle.name], 1);
    assert!(
        said.contains(&format!("selinux mount label {words}")),
        "{said}"
    );
    bundle.assert_clean();
}

#[test]
#[ignore = "needs a kernel with SELinux: cargo xtask nested-labels"]
fn the_process_its_keyring_and_its_mounts_are_labelled() {
    let bundle = bundle(
        "cat /proc/self/attr/current && echo && grep _ses. /proc/keys && cat /proc/self/attr/exec \
         && cat /proc/self/mountinfo",
    );
    fs::create_dir(bundle.path("rootfs/hidden")).unwrap();
    bundle.change(|spec| {
        // Its owner and nobody else may view a key by the policy: only with its label the container sees its own.
        spec["linux"]["maskedPaths"] = json!(["/hidden"]);
    });
    let output = output(&bundle);
    let mut lines = output.lines().map(|line| line.trim_end_matches('\0'));
    assert_eq!(lines.next(), Some(PROCESS));
    let keyring = lines.next().unwrap();
    assert!(
        keyring.contains(&format!("_ses.{}", bundle.name)),
        "{output}"
    );
    let place = |mount: &str| mount.split(' ').nth(4).unwrap_or_default().to_owned();
    let own = ["/dev/shm", "/dev", "/dev/pts", "/proc", "/sys", "/hidden"];
    let mounts: Vec<&str> = lines
        .filter(|mount| own.contains(&place(mount).as_str()))
        .collect();
    assert_eq!(mounts.len(), 6, "{output}");
    for mount in mounts {
        let has_label = mount.contains(&format!("context=\"{MOUNT}\""));
        let labels_itself = matches!(place(mount).as_str(), "/proc" | "/sys");
        assert_eq!(has_label, !labels_itself, "{mount}");
    }
    bundle.assert_clean();
}

#[test]
#[ignore = "needs a kernel with SELinux: cargo xtask nested-labels"]
fn message_queues_are_labelled_at_their_root() {
    let bundle = bundle("sleep 100");
    create(&bundle);
    let state: Value = serde_json::from_str(&bundle.ok(&["state", &bundle.name])).unwrap();
    let root = format!("/proc/{}/root/dev", state["pid"]);
    assert_eq!(label_of(&format!("{root}/mqueue")), MOUNT);
    assert_eq!(label_of(&format!("{root}/null")), MOUNT);
    bundle.ok(&["delete", "--force", &bundle.name]);
    bundle.assert_clean();
}

#[test]
#[ignore = "needs a kernel with SELinux: cargo xtask nested-labels"]
fn later_processes_have_a_label_of_their_own_or_the_containers() {
    let bundle = bundle("sleep 100");
    let id = bundle.name.as_str();
    create(&bundle);
    bundle.ok(&["start", id]);
    let label = "cat /proc/self/attr/current && grep -q _ses. /proc/keys";
    bundle.change(|spec| spec["linux"]["maskedPaths"] = json!([]));
    let of = |arguments: &[&str]| {
        let all = [
            &["exec"],
            arguments,
            &[id, "cat", "/proc/self/attr/current"],
        ]
        .concat();
        bundle.ok(&all).trim_end_matches('\0').to_owned()
    };
    assert_eq!(of(&[]), PROCESS);
    assert_eq!(of(&["--process-label", OTHER_PROCESS]), OTHER_PROCESS);
    // A process given whole that says nothing of labels.
    let process = json!({ "args": ["sh", "-c", label], "cwd": "/", "user": { "uid": 0, "gid": 0 },
        "env": ["PATH=/bin"] });
    let path = bundle.path("process.json");
    fs::write(&path, process.to_string()).unwrap();
    let path = path.to_str().unwrap();
    let output = bundle.run(&["exec", "--process", path, id]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.trim_end_matches(['\0', '\n']), PROCESS);
    let said = bundle.refused(
        &["exec", "--process-label", "no:such:label:s0", id, "true"],
        255,
    );
    assert!(
        said.contains("can't set process label no:such:label:s0"),
        "{said}"
    );
    bundle.ok(&["delete", "--force", id]);
    bundle.assert_clean();
}

#[test]
#[ignore = "needs a kernel with SELinux: cargo xtask nested-labels"]
fn what_the_policy_denies_is_denied() {
    fs::write("/tmp/secret", "of the host\n").unwrap();
    let bundle = bundle("cat /secret; echo a > /mine/a && echo b > /others/b");
    bundle.change(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.push(
            json!({ "destination": "/secret", "type": "bind", "source": "/tmp/secret",
            "options": ["bind"] }),
        );
        mounts.push(json!({ "destination": "/mine", "type": "tmpfs", "source": "tmpfs" }));
        // As podman has it: quoted, because there are commas in it.
        let others = "context=\"system_u:object_r:container_file_t:s0:c2,c3\"";
        mounts.push(
            json!({ "destination": "/others", "type": "tmpfs", "source": "tmpfs",
            "options": [others] }),
        );
    });
    let output = bundle.run(&["run", &bundle.name]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(said.contains("'/secret': Permission denied"), "{said}");
    assert!(said.contains("/others/b: Permission denied"), "{said}");
    assert!(!said.contains("/mine"), "{said}");
    enforce(false);
    let output = bundle.run(&["run", &bundle.name]);
    enforce(true);
    assert_eq!(output.stdout, b"of the host\n");
    assert!(output.status.success(), "{output:?}");
    bundle.assert_clean();
}

#[test]
#[ignore = "needs a kernel with SELinux: cargo xtask nested-labels"]
fn a_label_that_may_not_be_entered_is_refused_by_execve() {
    let bundle = bundle("true");
    bundle.change(|spec| {
        spec["process"]["selinuxLabel"] = json!("system_u:system_r:forbidden_t:s0");
    });
    let said = bundle.refused(&["run", &bundle.name], 1);
    assert!(said.contains("exec: \"sh\": permission denied"), "{said}");
    bundle.assert_clean();
}

#[test]
#[ignore = "needs a kernel with SELinux: cargo xtask nested-labels"]
fn labels_the_policy_does_not_know_are_refused_and_nothing_is_left() {
    let bundle = bundle("true");
    let label = "system_u:system_r:no_such_t:s0";
    bundle.change(|spec| spec["process"]["selinuxLabel"] = json!(label));
    for command in ["run", "create"] {
        let said = bundle.refused(&[command, &bundle.name], 1);
        assert!(
            said.contains(&format!("can't set process label {label}")),
            "{said}"
        );
        assert!(said.contains("EINVAL"), "{said}");
        assert!(
            said.contains("hint: the loaded SELinux policy knows no such"),
            "{said}"
        );
        bundle.assert_clean();
    }
    bundle.change(|spec| {
        spec["process"]["selinuxLabel"] = json!(PROCESS);
        spec["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t:s0:c9");
    });
    let said = bundle.refused(&["run", &bundle.name], 1);
    assert!(said.contains("can't set mount label"), "{said}");
    bundle.assert_clean();
}

#[test]
#[ignore = "needs a kernel with SELinux: cargo xtask nested-labels"]
fn user_namespaces_have_labels_too() {
    let bundle = bundle("cat /proc/self/attr/current && grep ' /dev/shm ' /proc/self/mountinfo");
    bundle.make_user_namespace(0);
    let output = output(&bundle);
    assert!(output.starts_with(PROCESS), "{output}");
    assert!(output.contains(&format!("context=\"{MOUNT}\"")), "{output}");
    bundle.assert_clean();
}

#[test]
#[ignore = "needs a kernel with SELinux: cargo xtask nested-labels"]
fn hooks_before_the_program_are_not_confined_by_its_label() {
    let bundle = bundle("true");
    let note = bundle.path("rootfs/tmp/hook");
    bundle.change(|spec| {
        let write = "cat /proc/self/attr/current > tmp/hook";
        spec["hooks"] = json!({ "createContainer": [
            { "path": "/bin/busybox", "args": ["sh", "-c", format!("cd {} && {write}", bundle.path("rootfs").display())] }
        ]});
    });
    output(&bundle);
    let label = fs::read_to_string(note).unwrap();
    assert!(label.starts_with("system_u:system_r:kernel_t:"), "{label}");
    bundle.assert_clean();
}
