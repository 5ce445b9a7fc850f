//! Issue line 7: the real dockerd runs containers with `--add-runtime atoll=atoll-runtime`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Child, Command, Stdio};

use atoll_tests::terminal::Terminal;
use atoll_tests::{Ran, image, leaks, programs, waiting};
use tempfile::TempDir;

/// A private dockerd whose default runtime is ours; containers go below our own cgroup.
struct Dockerd {
    folder: TempDir,
    child: Child,
}

impl Dockerd {
    fn start() -> Self {
        programs::require_root();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let log = std::fs::File::create(at("log")).unwrap();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own
            .lines()
            .find_map(|line| line.split_once(":memory:"))
            .map_or("/", |(_, path)| path);
        // A network namespace of its own keeps every rule of dockerd's away from the machine.
        let child = Command::new("unshare")
            .args([
                "--net",
                "dockerd",
                "--bridge=none",
                "--iptables=false",
                "--ip6tables=false",
            ])
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .arg(format!("--host=unix://{}", at("sock").display()))
            .arg(format!(
                "--cgroup-parent={}/atoll-dockerd",
                own.trim_end_matches('/')
            ))
            .arg(format!(
                "--add-runtime=atoll={}",
                programs::ours("atoll-runtime").display()
            ))
            .arg("--default-runtime=atoll")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let dockerd = Self { folder, child };
        waiting::until("dockerd answers", || dockerd.docker(&["version"]).code == 0);
        let archive = dockerd.path("bb.tar");
        image::tarball(&archive);
        dockerd
            .docker(&["import", &archive.display().to_string(), "bb"])
            .ok();
        dockerd
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn point(&self, command: &mut Command) {
        command.env(
            "DOCKER_HOST",
            format!("unix://{}", self.path("sock").display()),
        );
        command.env("DOCKER_CONFIG", self.path("config"));
    }

    fn docker(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new("docker");
        self.point(command.args(arguments).stdin(Stdio::null()));
        Ran::of(&mut command)
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        self.docker(&["ps", "-aq"]).stdout.lines().for_each(|id| {
            self.docker(&["rm", "-f", id]);
        });
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
        for mount in leaks::mounts_below(self.folder.path()) {
            let _ = rustix::mount::unmount(Path::new(&mount), rustix::mount::UnmountFlags::DETACH);
        }
    }
}

#[test]
fn dockerd_runs_containers_with_our_runtime() {
    let dockerd = Dockerd::start();
    let run =
        |arguments: &[&str]| dockerd.docker(&[&["run", "--rm", "--net=none"], arguments].concat());
    assert_eq!(run(&["bb", "echo", "hi"]).ok(), "hi");
    run(&["bb", "sh", "-c", "exit 42"]).fails_with(42);
    run(&["bb", "nosuch"]).fails_with(127);
    run(&["bb", "/etc/plain"]).fails_with(126);
    run(&["--privileged", "bb", "true"]).ok();
    assert_eq!(
        run(&["--memory=64m", "-u", "guest", "bb", "id", "-un"]).ok(),
        "guest"
    );
    dockerd
        .docker(&[
            "run",
            "-d",
            "--net=none",
            "--name",
            "box",
            "bb",
            "sh",
            "-c",
            "echo up; exec sleep 100",
        ])
        .ok();
    assert_eq!(dockerd.docker(&["exec", "box", "echo", "in"]).ok(), "in");
    dockerd
        .docker(&["exec", "box", "sh", "-c", "exit 3"])
        .fails_with(3);
    assert!(dockerd.docker(&["top", "box"]).ok().contains("sleep 100"));
    dockerd.docker(&["pause", "box"]).ok();
    dockerd.docker(&["unpause", "box"]).ok();
    assert_eq!(dockerd.docker(&["logs", "box"]).ok(), "up");
    dockerd.docker(&["kill", "-s", "KILL", "box"]).ok();
    assert_eq!(dockerd.docker(&["wait", "box"]).ok(), "137");
    let mut terminal = Terminal::start(
        "docker",
        &["run", "--rm", "-it", "--net=none", "bb", "sh"],
        (31, 98),
        |command| dockerd.point(command),
    );
    terminal.expect("#");
    terminal.type_in("until stty size | grep '31 [9]9'; do sleep 0.1; done; exit 5\r");
    // The CLI gives up when this dockerd is late with the start, and only then waits for SIGWINCH: a size may be lost.
    waiting::until("the container's terminal had the new size", || {
        terminal.resize((31, 98));
        terminal.resize((31, 99));
        std::thread::sleep(std::time::Duration::from_millis(100));
        terminal.text().contains("31 99")
    });
    assert_eq!(terminal.exit_code(), 5);
}
