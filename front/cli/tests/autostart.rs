//! An engine is started when none answers. Needs root; the engine has a network namespace of its
//! own and temporary roots.
#![expect(clippy::unwrap_used, reason = "a test that meets an error fails")]

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use atoll_netlink::netns;
use rustix::process::{Pid, Signal, getsid, kill_process, test_kill_process};

const DEADLINE: Duration = Duration::from_secs(10);

/// Temporary roots; the engine that runs on them ends with this.
struct Roots {
    directory: tempfile::TempDir,
    netns: OwnedFd,
}

impl Roots {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            netns: netns::create().unwrap(),
        }
    }

    fn atoll(&self, arguments: &str) -> Output {
        let root = self.directory.path();
        let run = || {
            Command::new(env!("CARGO_BIN_EXE_atoll"))
                .args(arguments.split(' '))
                .env("ATOLL_DATA_ROOT", root.join("data"))
                .env("ATOLL_EXEC_ROOT", root.join("run"))
                .env_remove("ATOLL_HOST")
                .env_remove("DOCKER_HOST")
                .output()
                .unwrap()
        };
        netns::run_inside(self.netns.as_fd(), run).unwrap()
    }

    fn pid(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.directory.path().join("run/atolld.pid")).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }
}

impl Drop for Roots {
    fn drop(&mut self) {
        let Some(pid) = self.pid() else { return };
        let _ = kill_process(pid, Signal::TERM);
        let deadline = Instant::now() + DEADLINE;
        while test_kill_process(pid).is_ok() && !is_zombie(pid) && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

fn is_zombie(pid: Pid) -> bool {
    let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
    std::fs::read_to_string(Path::new(&stat)).is_ok_and(|text| text.contains(") Z "))
}

#[test]
fn the_first_command_starts_an_engine_in_its_own_session_and_the_second_finds_it() {
    let roots = Roots::new();
    let first = roots.atoll("ps -a");
    let errors = String::from_utf8(first.stderr).unwrap();
    assert!(first.status.success(), "{errors}");
    let pid = roots.pid().unwrap();
    let socket = roots.directory.path().join("run/docker.sock");
    let expected = format!(
        "no engine at unix://{}: started one (pid {})\n",
        socket.display(),
        pid.as_raw_nonzero()
    );
    assert_eq!(errors, expected);
    assert_eq!(getsid(Some(pid)).unwrap(), pid);

    let second = roots.atoll("ps -a");
    assert!(second.status.success());
    assert_eq!(String::from_utf8(second.stderr).unwrap(), "");
    assert_eq!(roots.pid(), Some(pid));
}

#[test]
fn an_engine_that_cannot_start_is_quoted() {
    let roots = Roots::new();
    std::fs::write(roots.directory.path().join("data"), "no directory").unwrap();
    let output = roots.atoll("ps");
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let mut lines = errors.lines().skip(1);
    assert_eq!(
        lines.next(),
        Some("error: cannot start an engine"),
        "{errors}"
    );
    assert!(
        lines.next().is_some_and(|line| line.contains("data")),
        "{errors}"
    );
    assert!(
        errors
            .lines()
            .last()
            .is_some_and(|line| line.contains("atolld.log")),
        "{errors}"
    );
}
