//! SELinux labels of processes, keyrings and mounts, under a kernel that enforces a policy.
//!
//! `cargo xtask nested-labels` runs these in an emulated machine with a stock kernel and the policy
//! `xtask/src/nested/labels.conf`, one after the other: some switch enforcing off and on. `ATOLL_RUNTIME` is the program,
//! and `TMPDIR` a file system whose files have the type `container_file_t`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

const PROCESS: &str = "system_u:system_r:container_t:s0:c1,c2";
const OTHER_PROCESS: &str = "system_u:system_r:jailed_t:s0:c1";
const MOUNT: &str = "system_u:object_r:container_file_t:s0:c1,c2";

/// A bundle with busybox, labelled; its container is gone when it is dropped.
struct Bundle {
    folder: TempDir,
    name: String,
}

impl Bundle {
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().file_name().unwrap().to_string_lossy();
        let bundle = Self {
            name: name.trim_start_matches('.').to_owned(),
            folder,
        };
        let rootfs = bundle.path("rootfs");
        for name in ["bin", "proc", "dev", "sys", "tmp", "run"] {
            fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        let copied = Command::new("cp")
            .arg("/bin/busybox")
            .arg(rootfs.join("bin"))
            .status();
        assert!(copied.unwrap().success());
        for name in ["sh", "true", "cat", "sleep", "grep", "mkdir"] {
            symlink("busybox", rootfs.join("bin").join(name)).unwrap();
        }
        bundle.ok(&["spec"]);
        bundle.change(|spec| {
            spec["process"]["terminal"] = json!(false);
            spec["process"]["args"] = json!(["sh", "-c", script]);
            spec["process"]["selinuxLabel"] = json!(PROCESS);
            spec["root"]["readonly"] = json!(false);
            spec["linux"]["mountLabel"] = json!(MOUNT);
            spec["linux"]["cgroupsPath"] = json!(format!("/atoll-labels/{}", bundle.name));
        });
        bundle
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn change(&self, edit: impl FnOnce(&mut Value)) {
        let path = self.path("config.json");
        let mut spec = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut spec);
        fs::write(path, spec.to_string()).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let program = std::env::var_os("ATOLL_RUNTIME")
            .unwrap_or_else(|| env!("CARGO_BIN_EXE_atoll-runtime").into());
        let mut command = Command::new(program);
        command.arg("--root").arg(self.path("state"));
        command.args(arguments).current_dir(self.folder.path());
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Makes the container without catching its output: it outlives the command.
    #[track_caller]
    fn create(&self) {
        let mut command = self.command(&["create", &self.name]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().unwrap().success());
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// What a command that must fail with `code` says.
    #[track_caller]
    fn refused(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        String::from_utf8(output.stderr).unwrap()
    }

    /// Runs the container to its end, which must be a good one.
    #[track_caller]
    fn output(&self) -> String {
        self.ok(&["run", &self.name])
    }

    fn assert_clean(&self) {
        let left = fs::read_dir(self.path("state")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "the state is still there");
        let cgroup = Path::new("/sys/fs/cgroup/atoll-labels").join(&self.name);
        assert!(!cgroup.exists(), "the cgroup is still there");
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.run(&["delete", "--force", &self.name]);
    }
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
    let bundle = Bundle::new("true");
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
    let bundle = Bundle::new(
        "cat /proc/self/attr/current && echo && grep _ses. /proc/keys && cat /proc/self/attr/exec \
         && cat /proc/self/mountinfo",
    );
    fs::create_dir(bundle.path("rootfs/hidden")).unwrap();
    bundle.change(|spec| {
        // Its owner and nobody else may view a key by the policy: only with its label the container sees its own.
        spec["linux"]["maskedPaths"] = json!(["/hidden"]);
    });
    let output = bundle.output();
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
    let bundle = Bundle::new("sleep 100");
    bundle.create();
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
    let bundle = Bundle::new("sleep 100");
    let id = bundle.name.as_str();
    bundle.create();
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
    let bundle = Bundle::new("cat /secret; echo a > /mine/a && echo b > /others/b");
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
    let bundle = Bundle::new("true");
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
    let bundle = Bundle::new("true");
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
    let bundle =
        Bundle::new("cat /proc/self/attr/current && grep ' /dev/shm ' /proc/self/mountinfo");
    bundle.change(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({ "type": "user" }));
        let map = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
        spec["linux"]["uidMappings"] = map.clone();
        spec["linux"]["gidMappings"] = map;
    });
    let output = bundle.output();
    assert!(output.starts_with(PROCESS), "{output}");
    assert!(output.contains(&format!("context=\"{MOUNT}\"")), "{output}");
    bundle.assert_clean();
}

#[test]
#[ignore = "needs a kernel with SELinux: cargo xtask nested-labels"]
fn hooks_before_the_program_are_not_confined_by_its_label() {
    let bundle = Bundle::new("true");
    let note = bundle.path("rootfs/tmp/hook");
    bundle.change(|spec| {
        let write = "cat /proc/self/attr/current > tmp/hook";
        spec["hooks"] = json!({ "createContainer": [
            { "path": "/bin/busybox", "args": ["sh", "-c", format!("cd {} && {write}", bundle.path("rootfs").display())] }
        ]});
    });
    bundle.output();
    let label = fs::read_to_string(note).unwrap();
    assert!(label.starts_with("system_u:system_r:kernel_t:"), "{label}");
    bundle.assert_clean();
}
