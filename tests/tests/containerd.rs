//! The real containerd with our shim as `io.containerd.atoll.v2`, driven by `ctr`.
//!
//! A containerd of its own with temporary root, state and address; containers in cgroups below our
//! own. Needs root, containerd, busybox-static, util-linux (`script`), a kernel for machines.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use std::ffi::OsString;
use std::fs;
use std::io::{Seek, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use atoll_tests::programs::ours;

const IMAGE: &str = "docker.io/library/bb:latest";
const SHIM: &str = "containerd-shim-atoll-v2";

/// A running containerd with the image in it.
struct Containerd {
    folder: tempfile::TempDir,
    daemon: Child,
}

/// What a finished command said.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Containerd {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir(path.join("bin")).unwrap();
        symlink(ours(SHIM), path.join("bin").join(SHIM)).unwrap();
        let config = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [debug]\n  level = \"warn\"\n\
             [grpc]\n  address = \"{0}/c.sock\"\n[ttrpc]\n  address = \"{0}/c.sock.ttrpc\"\n",
            path.display()
        );
        fs::write(path.join("config.toml"), config).unwrap();
        let daemon = spawn(path);
        let this = Self { folder, daemon };
        wait_until("containerd answers", || this.ctr(&["version"]).code == 0);
        let archive = image(this.folder.path());
        this.ctr(&["image", "import", archive.to_str().unwrap()])
            .ok();
        this
    }

    /// Kills the daemon without warning and starts it again.
    fn restart(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        self.daemon = spawn(self.folder.path());
        wait_until("containerd answers", || self.ctr(&["version"]).code == 0);
    }

    /// Process id of the container's shim.
    fn shim_of(&self, id: &str) -> i32 {
        let address = self.folder.path().join("c.sock").display().to_string();
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_shim = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words[0].ends_with(SHIM.as_bytes())
                && words.contains(&id.as_bytes())
                && words.contains(&address.as_bytes())
        };
        pids.into_iter().find(is_shim).expect("the shim runs")
    }

    fn command(&self, args: &[&str]) -> Command {
        // The limit keeps a hanging shim from hanging the test.
        let mut command = Command::new("timeout");
        command
            .args(["60", "ctr"])
            .args(args)
            .env("CONTAINERD_ADDRESS", self.folder.path().join("c.sock"))
            .stdin(Stdio::null());
        command
    }

    fn ctr(&self, args: &[&str]) -> Ran {
        finish(self.command(args))
    }

    fn ctr_with_input(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut command = self.command(args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            drop(stdin.write_all(&input));
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Ran::from(output)
    }

    /// `ctr` at a terminal of 33 rows and 91 columns; a shell reads the words.
    fn in_terminal(&self, args: &[&str]) -> Ran {
        // ctr has to be in the terminal's foreground process group, or SIGTTOU stops it when it makes
        // the terminal raw. `timeout` makes a group of its own, so it stands outside the terminal.
        let line = format!("stty rows 33 cols 91; exec ctr {}", args.join(" "));
        let mut command = Command::new("timeout");
        command
            .args(["-k", "5", "60", "script", "-qec", &line, "/dev/null"])
            .env("SHELL", "/bin/sh")
            .env("CONTAINERD_ADDRESS", self.folder.path().join("c.sock"))
            .stdin(Stdio::null());
        finish(command)
    }

    /// `ctr run` of the image with our runtime.
    fn run_args<'a>(&self, id: &'a str, flags: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["run", "--runtime", "io.containerd.atoll.v2", "--cgroup", id];
        args.extend(flags);
        args.extend([IMAGE, id]);
        args.extend(command);
        args
    }

    fn status(&self, id: &str) -> String {
        let list = self.ctr(&["task", "ls"]).ok();
        let line = list
            .lines()
            .find(|line| line.split_whitespace().next() == Some(id));
        line.and_then(|line| line.split_whitespace().nth(2))
            .unwrap_or("")
            .to_owned()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let tasks = self.ctr(&["task", "ls", "-q"]).out;
        for id in tasks.lines() {
            self.ctr(&["task", "kill", "-s", "KILL", id]);
            self.ctr(&["task", "delete", "-f", id]);
            self.ctr(&["container", "delete", id]);
        }
        drop(self.daemon.kill());
        drop(self.daemon.wait());
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            println!("containerd's log:\n{log}");
        }
    }
}

impl Ran {
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }
}

impl From<std::process::Output> for Ran {
    fn from(output: std::process::Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

fn finish(mut command: Command) -> Ran {
    Ran::from(command.output().unwrap())
}

fn spawn(folder: &Path) -> Child {
    let mut programs = OsString::from(folder.join("bin"));
    programs.push(":");
    programs.push(std::env::var_os("PATH").unwrap());
    let log = fs::File::create(folder.join("log")).unwrap();
    Command::new("containerd")
        .arg("-c")
        .arg(folder.join("config.toml"))
        .env("PATH", programs)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("containerd is installed")
}

/// Makes a docker-archive of busybox.
fn image(folder: &Path) -> PathBuf {
    let script = r#"
        set -e
        mkdir -p rootfs/bin rootfs/proc rootfs/sys rootfs/dev rootfs/tmp rootfs/etc
        cp /bin/busybox rootfs/bin/
        for name in sh cat echo sleep stty sha256sum true; do ln -s busybox rootfs/bin/$name; done
        tar -C rootfs -cf layer.tar .
        diff=$(sha256sum layer.tar | cut -d' ' -f1)
        printf '{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["sh"]},
            "rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' $diff > config.json
        printf '[{"Config":"config.json","RepoTags":["bb:latest"],"Layers":["layer.tar"]}]' \
            > manifest.json
        tar -cf image.tar manifest.json config.json layer.tar"#;
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(folder);
    finish(command).ok();
    folder.join("image.tar")
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn sha256sum(input: &[u8]) -> String {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(input).unwrap();
    file.rewind().unwrap();
    let mut command = Command::new("sha256sum");
    command.stdin(file);
    finish(command).ok()
}

fn kill(pid: &str) -> Command {
    let mut kill = Command::new("kill");
    kill.args(["-9", pid]);
    kill
}

/// Shims and monitors whose command lines name something in `folder`.
fn processes_with(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    let is_ours = |line: &String| {
        let program = line.split(' ').next().unwrap_or_default();
        (program.ends_with(SHIM) || program.ends_with("atoll-vmm")) && line.contains(folder)
    };
    lines.filter(is_ours).collect()
}

/// A name that no other test has, for container and cgroup.
fn unique(name: &str) -> String {
    format!("atoll-ctd-{name}-{}", std::process::id())
}

fn cgroups_named(part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().contains(part) {
                    found.push(entry.path());
                }
                folders.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn a_container_runs_and_nothing_is_left() {
    let daemon = Containerd::start();
    let id = unique("run");
    let ran = daemon.ctr(&daemon.run_args(&id, &["--rm"], &["sh", "-c", "echo hi; exit 5"]));
    assert_eq!((ran.code, ran.out.as_str()), (5, "hi\n"), "{}", ran.err);
    let ran = daemon.ctr(&daemon.run_args(&id, &["--rm"], &["nosuch"]));
    assert!(
        ran.err
            .contains("exec: \"nosuch\": executable file not found in $PATH"),
        "{}",
        ran.err
    );
    assert_eq!(daemon.ctr(&["task", "ls", "-q"]).ok(), "");
    assert_eq!(cgroups_named(&id), Vec::<PathBuf>::new());
    let states = fs::read_dir("/run/containerd/atoll/default");
    let left = states
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains(&id))
        .count();
    assert_eq!(left, 0);
}

#[test]
fn input_and_terminal_work() {
    let daemon = Containerd::start();
    let id = unique("io");
    let input = b"0123456789abcdef".repeat(1 << 16);
    let args = daemon.run_args(&id, &["--rm"], &["sha256sum"]);
    let hash = daemon.ctr_with_input(&args, &input).ok();
    assert_eq!(hash, sha256sum(&input));

    let ran = daemon.in_terminal(&daemon.run_args(
        &id,
        &["--rm", "-t"],
        &["sh", "-c", "'sleep 0.3; stty size; exit 6'"],
    ));
    assert!(ran.out.contains("33 91"), "{}{}", ran.out, ran.err);
    assert_eq!(ran.code, 6);
}

#[test]
fn tasks_are_listed_paused_measured_killed_and_execed_into() {
    let daemon = Containerd::start();
    let id = unique("task");
    let ctr = |args: &[&str]| daemon.ctr(args);
    ctr(&daemon.run_args(&id, &["-d"], &["sleep", "600"])).ok();
    assert_eq!(daemon.status(&id), "RUNNING");
    assert_eq!(ctr(&["task", "ps", &id]).ok().lines().count(), 2);
    let metrics = ctr(&["task", "metrics", &id]).ok();
    assert!(metrics.contains("pids.current"), "{metrics}");

    ctr(&["task", "pause", &id]).ok();
    assert_eq!(daemon.status(&id), "PAUSED");
    ctr(&["task", "resume", &id]).ok();
    assert_eq!(daemon.status(&id), "RUNNING");

    let exec = [
        "task",
        "exec",
        "--exec-id",
        "e1",
        &id,
        "sh",
        "-c",
        "echo in; exit 7",
    ];
    let ran = ctr(&exec);
    assert_eq!((ran.code, ran.out.as_str()), (7, "in\n"), "{}", ran.err);
    let exec = ["task", "exec", "--exec-id", "e2", &id, "cat"];
    assert_eq!(daemon.ctr_with_input(&exec, b"piped").ok(), "piped");
    let ran = ctr(&["task", "exec", "--exec-id", "e3", &id, "nosuch"]);
    assert!(ran.err.contains("executable file not found"), "{}", ran.err);

    ctr(&["task", "kill", "-s", "KILL", &id]).ok();
    wait_until("the task stops", || daemon.status(&id) == "STOPPED");
    let ran = ctr(&["task", "delete", &id]);
    assert!(ran.err.contains("exit code 137"), "{}", ran.err);
    ctr(&["container", "delete", &id]).ok();
    assert_eq!(cgroups_named(&id), Vec::<PathBuf>::new());
}

#[test]
fn containerd_and_the_shim_may_be_killed() {
    let mut daemon = Containerd::start();
    let id = unique("die");
    daemon
        .ctr(&daemon.run_args(&id, &["-d"], &["sleep", "600"]))
        .ok();
    daemon.restart();
    assert_eq!(daemon.status(&id), "RUNNING");
    let exec = ["task", "exec", "--exec-id", "e", &id, "echo", "still"];
    assert_eq!(daemon.ctr(&exec).ok(), "still\n");

    let list = daemon.ctr(&["task", "ps", &id]).ok();
    let pid = list
        .lines()
        .nth(1)
        .and_then(|line| line.split_whitespace().next());
    let pid = pid.unwrap().to_owned();
    let shim = daemon.shim_of(&id).to_string();
    finish(kill(&shim)).ok();
    wait_until("the dead shim's task is cleaned up", || {
        daemon.status(&id).is_empty() && cgroups_named(&id).is_empty()
    });
    // Whoever adopted it may take its time to reap it: a zombie executes nothing.
    wait_until("the container's process is dead", || {
        fs::read_link(Path::new("/proc").join(&pid).join("exe")).is_err()
    });
    daemon.ctr(&["container", "delete", &id]).ok();
}

/// Annotation that asks for a machine.
const IN_MACHINE: [&str; 2] = ["--annotation", "io.atoll.isolation=vm"];

fn own_kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    release.trim().to_owned()
}

#[test]
fn a_machine_is_chosen_by_annotation_or_option_and_nothing_is_left() {
    let daemon = Containerd::start();
    let id = unique("vm");
    let run = |flags: &[&str], script: &str| {
        let flags = [&["--rm"], flags].concat();
        daemon.ctr(&daemon.run_args(&id, &flags, &["sh", "-c", script]))
    };
    let script = "cat /proc/sys/kernel/osrelease; exit 5";
    let ran = run(&IN_MACHINE, script);
    assert_eq!(ran.code, 5, "{}", ran.err);
    let guest = ran.out.trim().to_owned();
    assert!(!guest.is_empty() && guest != own_kernel(), "{guest}");

    let file = daemon.folder.path().join("vm.json");
    let path = file.to_str().unwrap();
    let option = ["--runtime-config-path", path];
    fs::write(&file, "{\"isolation\": \"vm\"}\n").unwrap();
    let ran = run(&option, script);
    assert_eq!(
        (ran.code, ran.out.trim()),
        (5, guest.as_str()),
        "{}",
        ran.err
    );
    // The bundle wins.
    let process = ["--annotation", "io.atoll.isolation=process"];
    let ran = run(&[&option[..], &process].concat(), script);
    assert_eq!(ran.out.trim(), own_kernel(), "{}", ran.err);

    let refused = |flags: &[&str]| {
        let ran = run(flags, "echo ran");
        assert!(ran.code != 0 && ran.out.is_empty(), "{}", ran.out);
        ran.err
    };
    fs::write(&file, "isolation = \"vm\"\n").unwrap();
    let toml = refused(&option);
    assert!(
        toml.contains(path) && toml.contains("must be JSON"),
        "{toml}"
    );
    fs::write(&file, "{\"isolation\": \"gvisor\"}").unwrap();
    assert!(refused(&option).contains("isolation \"gvisor\""));
    let network = refused(&[&IN_MACHINE[..], &["--net-host"]].concat());
    assert!(
        network.contains("cannot share the host's network namespace"),
        "{network}"
    );
    let joined = ["--with-ns", "ipc:/proc/1/ns/ipc"];
    let joined = refused(&[&IN_MACHINE[..], &joined].concat());
    assert!(joined.contains("Ipc namespace /proc/1/ns/ipc"), "{joined}");
    let device = refused(&[&IN_MACHINE[..], &["--device", "/dev/full"]].concat());
    assert!(device.contains("linux.devices"), "{device}");
    assert!(refused(&["--annotation", "io.atoll.isolation=hyperv"]).contains("\"hyperv\""));

    assert_eq!(daemon.ctr(&["task", "ls", "-q"]).ok(), "");
    assert_eq!(cgroups_named(&id), Vec::<PathBuf>::new());
    assert_eq!(processes_with(daemon.folder.path()), Vec::<String>::new());
    let states = fs::read_dir("/run/containerd/atoll/default");
    let mut left = states.into_iter().flatten().flatten();
    assert!(!left.any(|entry| entry.file_name().to_string_lossy().contains(&id)));
}

#[test]
fn tasks_in_a_machine_answer_as_others_do() {
    let daemon = Containerd::start();
    let id = unique("vm-task");
    let input = b"0123456789abcdef".repeat(1 << 12);
    let flags = [&["--rm"], &IN_MACHINE[..]].concat();
    let args = daemon.run_args(&id, &flags, &["sha256sum"]);
    let hash = daemon.ctr_with_input(&args, &input).ok();
    assert_eq!(hash, sha256sum(&input));
    let ran = daemon.in_terminal(&daemon.run_args(
        &id,
        &[&["--rm", "-t"], &IN_MACHINE[..]].concat(),
        &["sh", "-c", "'sleep 0.3; stty size; exit 6'"],
    ));
    assert!(ran.out.contains("33 91"), "{}{}", ran.out, ran.err);
    assert_eq!(ran.code, 6);

    let ctr = |args: &[&str]| daemon.ctr(args);
    let flags = [
        &["-d", "--memory-limit", "67108864", "--seccomp"],
        &IN_MACHINE[..],
    ]
    .concat();
    ctr(&daemon.run_args(&id, &flags, &["sleep", "600"])).ok();
    assert_eq!(daemon.status(&id), "RUNNING");
    assert_eq!(ctr(&["task", "ps", &id]).ok().lines().count(), 2);
    let metrics = ctr(&["task", "metrics", &id]).ok();
    assert!(metrics.contains("pids.current"), "{metrics}");
    ctr(&["task", "pause", &id]).ok();
    assert_eq!(daemon.status(&id), "PAUSED");
    ctr(&["task", "resume", &id]).ok();
    assert_eq!(daemon.status(&id), "RUNNING");

    let exec = |name: &str, command: &[&str]| {
        let words = [&["task", "exec", "--exec-id", name, &id], command].concat();
        daemon.ctr_with_input(&words, b"piped")
    };
    let ran = exec(
        "e1",
        &["sh", "-c", "cat /proc/sys/kernel/osrelease; exit 7"],
    );
    assert_eq!(ran.code, 7, "{}", ran.err);
    assert_ne!(ran.out.trim(), own_kernel());
    assert_eq!(exec("e2", &["cat"]).ok(), "piped");
    let ran = exec("e3", &["nosuch"]);
    assert!(ran.err.contains("executable file not found"), "{}", ran.err);

    ctr(&["task", "kill", "-s", "KILL", &id]).ok();
    wait_until("the task stops", || daemon.status(&id) == "STOPPED");
    let ran = ctr(&["task", "delete", &id]);
    assert!(ran.err.contains("exit code 137"), "{}", ran.err);
    ctr(&["container", "delete", &id]).ok();
    assert_eq!(cgroups_named(&id), Vec::<PathBuf>::new());
}

#[test]
fn a_machine_outlives_containerd_and_goes_with_its_shim() {
    let mut daemon = Containerd::start();
    let id = unique("vm-die");
    let flags = [&["-d"], &IN_MACHINE[..]].concat();
    let args = daemon.run_args(&id, &flags, &["sleep", "600"]);
    daemon.ctr(&args).ok();
    daemon.restart();
    assert_eq!(daemon.status(&id), "RUNNING");
    let exec = ["task", "exec", "--exec-id", "e", &id, "echo", "still"];
    assert_eq!(daemon.ctr(&exec).ok(), "still\n");
    let shim = daemon.shim_of(&id).to_string();
    finish(kill(&shim)).ok();
    wait_until("the dead shim's machine is cleaned up", || {
        daemon.status(&id).is_empty()
            && cgroups_named(&id).is_empty()
            && processes_with(daemon.folder.path()).is_empty()
    });
    daemon.ctr(&["container", "delete", &id]).ok();
}

#[test]
fn the_vm_object_of_a_bundle_chooses_kernel_and_parameters() {
    let daemon = Containerd::start();
    let id = unique("vm-object");
    let rootfs = daemon.folder.path().join("rootfs");
    let file = daemon.folder.path().join("bundle.json");
    let run = |vm: &str| {
        let kinds = ["pid", "network", "ipc", "uts", "mount"];
        let namespaces = kinds
            .map(|kind| format!("{{\"type\": \"{kind}\"}}"))
            .join(",");
        let config = format!(
            r#"{{"ociVersion": "1.0.2", "root": {{"path": "{}"}}, "vm": {vm},
                "process": {{"args": ["/bin/cat", "/proc/cmdline"], "cwd": "/", "user": {{}}}},
                "mounts": [{{"destination": "/proc", "type": "proc", "source": "proc"}},
                    {{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}}],
                "linux": {{"namespaces": [{namespaces}], "cgroupsPath": "/{id}"}}}}"#,
            rootfs.display()
        );
        fs::write(&file, config).unwrap();
        let mut args = vec![
            "run",
            "--rm",
            "--runtime",
            "io.containerd.atoll.v2",
            "--config",
        ];
        args.extend([file.to_str().unwrap(), &id]);
        daemon.ctr(&args)
    };
    let (kernel, _) = atoll_machine::host::choose(None).unwrap();
    let kernel = kernel.display();
    let words = format!(
        r#"{{"kernel": {{"path": "{kernel}", "parameters": ["foo=bar", "hello world"]}}}}"#
    );
    let said = run(&words).ok();
    assert!(said.contains(" foo=bar hello world -- "), "{said}");
    let refused = |vm: &str| {
        let ran = run(vm);
        assert!(ran.code != 0 && ran.out.is_empty(), "{}", ran.out);
        ran.err
    };
    let missing = refused(r#"{"kernel": {"path": "/nonexistent/vmlinuz"}}"#);
    assert!(missing.contains("/nonexistent/vmlinuz"), "{missing}");
    let none = refused(r#"{"kernel": {"path": "/etc/hostname"}}"#);
    assert!(none.contains("/etc/hostname is not a kernel"), "{none}");
    let hypervisor =
        format!(r#"{{"kernel": {{"path": "{kernel}"}}, "hypervisor": {{"path": "/bin/qemu"}}}}"#);
    assert!(refused(&hypervisor).contains("vm.hypervisor is not available"));
    let initrd = format!(r#"{{"kernel": {{"path": "{kernel}", "initrd": "/i"}}}}"#);
    assert!(refused(&initrd).contains("vm.kernel.initrd is not available"));
    assert_eq!(cgroups_named(&id), Vec::<PathBuf>::new());
}
