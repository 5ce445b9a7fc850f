//! A container to be made by the program itself.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Where control groups of version 2 are, alone.
pub(super) const CGROUPS: &str = "/sys/fs/cgroup";
/// The one all containers of these tests are below.
const PARENT: &str = "atoll-tests";

/// A bundle with busybox; its container and that one's cgroup are gone when it is dropped.
pub(super) struct Bundle {
    folder: TempDir,
    /// The container's id, and its cgroup's name.
    pub(super) name: String,
}

impl Bundle {
    /// Runs `script` by a shell, as root of the host without a terminal.
    pub(super) fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().file_name().unwrap().to_string_lossy();
        let bundle = Self {
            name: name.trim_start_matches('.').to_owned(),
            folder,
        };
        let rootfs = bundle.path("rootfs");
        for name in ["bin", "proc", "dev", "sys", "tmp", "run", "inner"] {
            fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        // By another process: one that is forked meanwhile would keep the file open for writing.
        let copied = Command::new("cp")
            .arg("/bin/busybox")
            .arg(rootfs.join("bin"))
            .status();
        assert!(copied.unwrap().success());
        for name in [
            "sh", "true", "cat", "sleep", "echo", "mkdir", "mknod", "head", "dd", "grep", "ls",
            "seq",
        ] {
            symlink("busybox", rootfs.join("bin").join(name)).unwrap();
        }
        bundle.ok(&["spec"]);
        bundle.change(|spec| {
            spec["process"]["terminal"] = json!(false);
            spec["process"]["args"] = json!(["sh", "-c", script]);
            spec["root"]["readonly"] = json!(false);
            spec["linux"]["cgroupsPath"] = json!(format!("/{PARENT}/{}", bundle.name));
        });
        bundle
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Changes the configuration.
    pub(super) fn change(&self, edit: impl FnOnce(&mut Value)) {
        let path = self.path("config.json");
        let mut spec = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut spec);
        fs::write(path, spec.to_string()).unwrap();
    }

    /// Makes the container a user namespace, whose root is `host_id` of the host.
    pub(super) fn make_user_namespace(&self, host_id: u32) {
        self.change(|spec| {
            let map = json!([{ "containerID": 0, "hostID": host_id, "size": 65_536 }]);
            spec["linux"]["uidMappings"] = map.clone();
            spec["linux"]["gidMappings"] = map;
            let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.push(json!({ "type": "user" }));
        });
    }

    /// A command of the program, with a state of its own.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let program = std::env::var_os("ATOLL_RUNTIME")
            .unwrap_or_else(|| env!("CARGO_BIN_EXE_atoll-runtime").into());
        let mut command = Command::new(program);
        command.arg("--root").arg(self.path("state"));
        command.args(arguments).current_dir(self.folder.path());
        command.stdin(Stdio::null());
        command
    }

    pub(super) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What a command that must succeed writes.
    #[track_caller]
    pub(super) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// What a command says that must fail with `code`.
    #[track_caller]
    pub(super) fn refused(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        String::from_utf8(output.stderr).unwrap()
    }

    /// Runs without catching output, for processes that outlive the command.
    #[track_caller]
    pub(super) fn detached(&self, arguments: &[&str]) {
        let errors = fs::File::create(self.path("errors")).unwrap();
        let mut command = self.command(arguments);
        let status = command.stdout(Stdio::null()).stderr(errors).status();
        assert!(
            status.unwrap().success(),
            "{arguments:?}: {}",
            self.errors()
        );
    }

    /// What the container or the command that made it complained about, when nothing caught it.
    pub(super) fn errors(&self) -> String {
        fs::read_to_string(self.path("errors")).unwrap_or_default()
    }

    #[track_caller]
    pub(super) fn start(&self) {
        self.detached(&["run", "-d", &self.name]);
    }

    #[track_caller]
    pub(super) fn delete(&self) {
        self.ok(&["delete", "--force", &self.name]);
    }

    /// The container's control group.
    pub(super) fn cgroup(&self) -> PathBuf {
        Path::new(CGROUPS).join(PARENT).join(&self.name)
    }

    /// That there is nothing of the container.
    #[track_caller]
    pub(super) fn assert_clean(&self) {
        let left = fs::read_dir(self.path("state")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "the state is still there");
        assert!(!self.cgroup().exists(), "the cgroup is still there");
    }
}

impl Drop for Bundle {
    #[expect(clippy::print_stderr, reason = "a failing test explains itself")]
    fn drop(&mut self) {
        let output = self.run(&["delete", "--force", &self.name]);
        if std::thread::panicking() {
            eprintln!("complaints of the container: {}", self.errors());
        } else {
            assert!(output.status.success(), "{output:?}");
            self.assert_clean();
        }
    }
}
