//! Podman runs containers with our runtime, of a user without privilege and of root. runc judges: the same command lines
//! come to the same ends with it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use atoll_tests::{Ran, image, leaks, programs};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A user nobody else is.
const USER: u32 = 54_321;
/// The first id that he is lent.
const LENT: u32 = 300_000;
const RUNC: &str = "/usr/sbin/runc";

/// A podman with a store, a runtime folder and settings of its own, and an image `bb`.
struct Podman {
    folder: TempDir,
    user: u32,
    runtime: PathBuf,
}

impl Podman {
    /// * `user`: whose it is; 0 for root.
    /// * `runtime`: copied to where he may execute it, by the same name.
    fn new(user: u32, runtime: &Path) -> Self {
        programs::require_root();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        let copy = path.join(runtime.file_name().unwrap());
        // By another process: a container made by another thread meanwhile would keep it open for writing.
        Ran::of(Command::new("cp").arg(runtime).arg(&copy)).ok();
        image::tarball(&path.join("bb.tar"));
        let write = |name: &str, text: &str| fs::write(path.join(name), text).unwrap();
        // Limits that root may set without CAP_SYS_RESOURCE, and locks that are nobody else's.
        let limits = "[containers]\ndefault_ulimits = [\"nofile=500:1000\", \"nproc=1000:1000\"]\n";
        let pod = "infra_image = \"localhost/bb\"\n";
        write(
            "conf",
            &format!("{limits}[engine]\nlock_type = \"file\"\n{pod}"),
        );
        write("subids", &format!("{USER}:{LENT}:65536\n"));
        let lender = format!("lender:x:{USER}:{USER}::/:/bin/sh\n");
        write("passwd", &format!("root:x:0:0::/root:/bin/sh\n{lender}"));
        for name in ["home", "run", "tmp"] {
            fs::create_dir(path.join(name)).unwrap();
            chown(path.join(name), Some(user), Some(user)).unwrap();
        }
        fs::set_permissions(path.join("run"), fs::Permissions::from_mode(0o700)).unwrap();
        let podman = Self {
            runtime: copy,
            folder,
            user,
        };
        let archive = podman.place("bb.tar");
        podman.run(&["import", "-q", &archive, "bb"]).ok();
        podman
    }

    fn place(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Runs a command line, where the user has a name and ids from [`LENT`] on, in a mount namespace of its own.
    fn run(&self, arguments: &[&str]) -> Ran {
        let (subids, passwd) = (self.place("subids"), self.place("passwd"));
        let script = format!(
            "mount --bind {subids} /etc/subuid && mount --bind {subids} /etc/subgid && mount --bind {passwd} /etc/passwd \
             && exec \"$@\""
        );
        let user = self.user.to_string();
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script, "sh"]);
        if self.user != 0 {
            command.args([
                "setpriv",
                "--reuid",
                &user,
                "--regid",
                &user,
                "--clear-groups",
            ]);
        }
        command
            .args([
                "podman",
                "--storage-driver=vfs",
                "--cgroup-manager=cgroupfs",
            ])
            .arg(format!("--runtime={}", self.runtime.display()));
        if self.user == 0 {
            command
                .args(["--root", &self.place("home")])
                .args(["--runroot", &self.place("tmp")])
                .args(["--tmpdir", &self.place("run")]);
        }
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.place("home"))
            .env("XDG_RUNTIME_DIR", self.place("run"))
            .env("CONTAINERS_CONF", self.place("conf"))
            .env("USER", if self.user == 0 { "root" } else { "lender" })
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        Ran::of(&mut command)
    }

    /// `podman run` with `options`, in a control group below our own.
    fn container(&self, options: &[&str]) -> Ran {
        let parent = format!("--cgroup-parent={}", self.cgroup());
        let mut words = vec!["run"];
        if self.user == 0 {
            words.extend(["--cgroups=no-conmon", &parent]);
        }
        words.extend(options);
        self.run(&words)
    }

    /// As of the memory controller, in which a host's tests are kept where they are in one.
    fn cgroup(&self) -> String {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own
            .lines()
            .find_map(|line| line.split_once(":memory:"))
            .map_or("/", |(_, path)| path);
        let name = self.folder.path().file_name().unwrap().to_string_lossy();
        format!("{}/atoll-podman-{name}", own.trim_end_matches('/'))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.run(&["rm", "-af", "-t", "0"]);
        // It keeps the user's namespaces.
        let pause = fs::read_to_string(self.place("run/libpod/tmp/pause.pid"));
        let pause = pause.ok().and_then(|text| text.trim().parse().ok());
        if let Some(pid) = pause.and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let name = self.folder.path().file_name().unwrap();
        for folder in leaks::cgroups_named(&format!("atoll-podman-{}", name.to_string_lossy())) {
            let _ = fs::remove_dir(folder);
        }
        if !std::thread::panicking() {
            assert_eq!(
                leaks::mounts_below(self.folder.path()),
                Vec::<String>::new()
            );
        }
    }
}

/// What comes of everything that is done to containers, a line each.
fn life(podman: &Podman) -> Vec<String> {
    let mut lines = Vec::new();
    let mut note = |what: &str, ran: &Ran| {
        lines.push(format!("{what}: {} {}", ran.code, ran.stdout.trim_end()));
    };
    let run = |options: &[&str]| podman.container(&[&["--rm", "--network=none"], options].concat());
    let sees = "id -u; cat /proc/self/uid_map; grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; hostname; ls /dev; ls -a /";
    note("sees", &run(&["--hostname=here", "bb", "sh", "-c", sees]));
    let bind = format!("--volume={}:/v:ro", podman.place("passwd"));
    let writes = "touch /x || touch /v || touch /t/x && head -n 1 /v && mount | grep -c ' /t '";
    note(
        "read-only",
        &run(&["--read-only", "--tmpfs=/t", &bind, "bb", "sh", "-c", writes]),
    );
    note(
        "host's pids",
        &run(&[
            "--pid=host",
            "bb",
            "cat",
            "/proc/sys/net/ipv4/ping_group_range",
        ]),
    );
    note(
        "exit code",
        &run(&["--user=33:44", "bb", "sh", "-c", "id -u; id -g; exit 42"]),
    );
    note("no such command", &run(&["bb", "nosuch"]));
    note("no command", &run(&["bb", "/etc/plain"]));
    if podman.user != 0 {
        // He may make no control groups: those he is in are shown.
        let groups = "ls /sys/fs/cgroup; mkdir /sys/fs/cgroup/pids/x || echo refused";
        note("control groups", &run(&["bb", "sh", "-c", groups]));
    }
    if podman.user == 0 {
        let finds = "ls /sys/fs/cgroup; echo $container; grep -c ' /run ' /proc/mounts";
        note(
            "for systemd",
            &run(&["--systemd=always", "bb", "sh", "-c", finds]),
        );
    }
    let detached = podman.container(&["-d", "--name=x", "--network=none", "bb", "sleep", "100"]);
    detached.ok();
    let exec = "id -u; pwd; echo $A; exit 7";
    let words = [
        "exec", "-u=33:44", "-w=/tmp", "-e=A=b", "x", "sh", "-c", exec,
    ];
    note("exec", &podman.run(&words));
    note("exec of nothing", &podman.run(&["exec", "x", "nosuch"]));
    let joins = [
        "--rm",
        "--network=container:x",
        "--pid=container:x",
        "--ipc=container:x",
    ];
    let joined = podman.container(
        &[
            &joins[..],
            &["bb", "sh", "-c", "ps | grep -c 'sleep 10[0]'"],
        ]
        .concat(),
    );
    note("joined", &joined);
    note("kill", &podman.run(&["kill", "x"]));
    note("wait", &podman.run(&["wait", "x"]));
    note("start", &podman.run(&["start", "x"]));
    note("stop", &podman.run(&["stop", "-t=0", "x"]));
    note("rm", &podman.run(&["rm", "x"]));
    if podman.user == 0 {
        lines.extend(pod(podman));
    }
    let left = podman.run(&["ps", "-aq"]);
    lines.push(format!("left: {} {}", left.code, left.stdout));
    lines
}

/// The same of a pod. What podman writes are ids.
fn pod(podman: &Podman) -> Vec<String> {
    let parent = format!("--cgroup-parent={}", podman.cgroup());
    let make = [
        "pod",
        "create",
        "--name=p",
        "--network=none",
        "--infra-command=sleep 100",
        "--share=pid,ipc,uts",
        "--hostname=pod",
        &parent,
    ];
    podman.run(&make).ok();
    let mut lines = Vec::new();
    let member = podman.container(&["-d", "--pod=p", "--name=a", "bb", "sleep", "100"]);
    lines.push(format!("a: {}", member.code));
    // That of the pod, and the other container's.
    let sees = "ps | grep -c 'sleep 10[0]'; hostname; ls /proc/1/root/bin/sh";
    let member = podman.container(&["--rm", "--pod=p", "bb", "sh", "-c", sees]);
    assert!(member.stdout.starts_with("2\npod\n"), "{member:?}");
    lines.push(format!("b: {} {}", member.code, member.stdout));
    for words in [
        &["pause"][..],
        &["unpause"],
        &["stop", "-t=0"],
        &["start"],
        &["kill"],
        &["rm", "-f"],
    ] {
        let code = podman.run(&[&["pod"], words, &["p"]].concat()).code;
        lines.push(format!("pod {}: {code}", words[0]));
    }
    lines
}

fn assert_same(user: u32) {
    let ours = programs::ours("atoll-runtime");
    let (judged, judge) = std::thread::scope(|scope| {
        let judge = scope.spawn(|| life(&Podman::new(user, Path::new(RUNC))));
        let podman = Podman::new(user, &ours);
        let judged = life(&podman);
        if user != 0 {
            // The user's states are his own, though he seems to be root where podman calls the runtime.
            let states = fs::read_dir(podman.place("run/atoll-runtime")).unwrap();
            assert_eq!(states.count(), 0);
        }
        (judged, judge.join().unwrap())
    });
    assert_eq!(judged.len(), judge.len());
    for (judged, judge) in judged.iter().zip(&judge) {
        assert_eq!(judged, judge);
    }
    assert!(judged[0].starts_with("sees: 0 0\n"), "{}", judged[0]);
}

#[test]
fn a_users_podman_does_the_same_with_us_as_with_runc() {
    assert_same(USER);
}

#[test]
fn roots_podman_does_the_same_with_us_as_with_runc() {
    assert_same(0);
}
