//! A private engine: temporary roots, a network namespace of its own, gone when dropped.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::{Ran, image, leaks, programs, waiting};

/// A running engine that only this test knows.
pub struct Engine {
    folder: TempDir,
    child: Child,
    /// Holds the network namespace while the engine is dead.
    namespace: Child,
    extra: Vec<String>,
    own_cache: bool,
}

impl Engine {
    /// Starts an engine and imports the small image as `bb`.
    pub fn with_image() -> Self {
        Self::start(&[]).import_image()
    }

    /// The same, with a cache of its own: no kernel, ramdisk or template is there.
    pub fn with_image_and_own_cache() -> Self {
        Self::start_with(&[], true).import_image()
    }

    fn import_image(self) -> Self {
        let engine = self;
        let archive = engine.path("bb.tar");
        image::tarball(&archive);
        engine
            .docker(&["import", &archive.display().to_string(), "bb:latest"])
            .ok();
        engine
    }

    /// Starts an engine with `extra` flags and waits until it answers.
    ///
    /// # Panics
    /// When it does not answer within ten seconds.
    pub fn start(extra: &[&str]) -> Self {
        Self::start_with(extra, false)
    }

    fn start_with(extra: &[&str], own_cache: bool) -> Self {
        programs::require_root();
        let folder = tempfile::Builder::new()
            .prefix("atoll-test-")
            .tempdir()
            .expect("a temporary folder can be made");
        let namespace = Command::new("unshare")
            .args([
                "--net",
                "sh",
                "-c",
                "ip link set lo up && exec sleep 100000",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("unshare is installed");
        let loopback_is_up = || {
            let mut ip = Self::inside(namespace.id(), Path::new("ip"));
            ip.args(["-o", "link", "show", "up", "dev", "lo"]);
            // Before `unshare` ran, the namespace is still the machine's own.
            let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
            of(&namespace.id().to_string()) != of("self") && !Ran::of(&mut ip).stdout.is_empty()
        };
        waiting::until("the network namespace is ready", loopback_is_up);
        Self::wrap_docker(folder.path());
        let extra: Vec<String> = extra.iter().map(|&flag| flag.to_owned()).collect();
        let child = Self::spawn(folder.path(), namespace.id(), &extra, own_cache);
        let engine = Self {
            folder,
            child,
            namespace,
            extra,
            own_cache,
        };
        engine.wait_until_it_answers();
        engine
    }

    fn inside(namespace_pid: u32, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{namespace_pid}/ns/net"))
            .arg("--")
            .arg(program);
        command
    }

    fn spawn(folder: &Path, namespace_pid: u32, extra: &[String], own_cache: bool) -> Child {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join("engine.log"))
            .expect("the temporary folder is writable");
        let mut command = if Self::is_peer() {
            let mut command = Self::inside(namespace_pid, Path::new("dockerd"));
            command.arg("--pidfile").arg(folder.join("pid"));
            command
        } else {
            let mut command = Self::inside(namespace_pid, &programs::ours("atoll"));
            command.arg("engine");
            command
        };
        command.arg("--data-root").arg(folder.join("data"));
        command.arg("--exec-root").arg(folder.join("exec"));
        command
            .arg("-H")
            .arg(format!("unix://{}", folder.join("docker.sock").display()));
        command.args(extra).stdin(Stdio::null());
        if own_cache {
            command.env("ATOLL_CACHE_ROOT", folder.join("cache"));
        }
        command
            .stdout(log.try_clone().expect("a descriptor can be copied"))
            .stderr(log);
        command.spawn().expect("nsenter is installed")
    }

    /// Whether the real dockerd is judged instead of our engine (`ATOLL_TEST_PEER=dockerd`).
    ///
    /// A way to learn whether a test's expectation is Docker's behaviour or a wish of ours.
    fn is_peer() -> bool {
        std::env::var_os("ATOLL_TEST_PEER").is_some_and(|peer| peer == "dockerd")
    }

    /// With `ATOLL_TEST_ISOLATION=vm`, every `docker run` and `create` of a test is behind that wall.
    ///
    /// A way to learn what differs there.
    fn wrap_docker(folder: &Path) {
        let Some(wall) = std::env::var_os("ATOLL_TEST_ISOLATION") else {
            return;
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let docker = std::env::split_paths(&path)
            .map(|folder| folder.join("docker"))
            .find(|path| path.is_file())
            .expect("the docker CLI is installed");
        let docker = docker.display();
        let wall = wall.display();
        let script = format!(
            "#!/bin/sh\ncase $1 in run|create) verb=$1; shift; exec {docker} $verb --isolation={wall} \"$@\";; esac\nexec {docker} \"$@\"\n"
        );
        let wrapped = folder.join("wrapped");
        std::fs::create_dir(&wrapped).expect("the temporary folder is writable");
        let wrapper = wrapped.join("docker");
        std::fs::write(&wrapper, script).expect("the temporary folder is writable");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&wrapper, mode).expect("it is ours");
    }

    #[track_caller]
    fn wait_until_it_answers(&self) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while self
            .sh("curl -sf --unix-socket $SOCKET http://d/_ping")
            .code
            != 0
        {
            assert!(
                std::time::Instant::now() < deadline,
                "no answer\n{}",
                self.log()
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// A file or folder of this test's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The engine's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process that holds the engine's network namespace, also while the engine is dead.
    pub fn namespace_pid(&self) -> u32 {
        self.namespace.id()
    }

    /// What the engine logged until now.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("engine.log")).unwrap_or_default()
    }

    /// The engine's address as `DOCKER_HOST` wants it.
    pub fn address(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    /// Runs the docker CLI against this engine.
    pub fn docker(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.client("docker").args(arguments))
    }

    /// Runs our own `atoll` against this engine.
    pub fn atoll(&self, arguments: &[&str]) -> Ran {
        let program = programs::ours("atoll");
        Ran::of(self.client(&program.display().to_string()).args(arguments))
    }

    /// Runs a shell script with `docker` and `atoll` speaking to this engine.
    ///
    /// `$T` is the test's folder, `$SOCKET` the engine's socket.
    pub fn sh(&self, script: &str) -> Ran {
        Ran::of(self.client("sh").args(["-ec", script]))
    }

    /// Sends raw bytes to the engine's socket and returns what comes back within half a second.
    ///
    /// # Panics
    /// When the socket can't be connected.
    pub fn raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.path("docker.sock")).expect("it listens");
        stream
            .write_all(request.as_bytes())
            .expect("the engine reads");
        let pause = Some(Duration::from_millis(500));
        stream
            .set_read_timeout(pause)
            .expect("half a second is a valid time-out");
        let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            answer.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// A command with the environment of [`Engine::sh`].
    pub fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        self.point(&mut command);
        command
    }

    /// Gives `command` the environment of [`Engine::sh`] and an empty standard input.
    pub fn point(&self, command: &mut Command) {
        self.point_keeping_stdin(command);
        command.stdin(Stdio::null());
    }

    /// Gives `command` the environment of [`Engine::sh`].
    pub fn point_keeping_stdin(&self, command: &mut Command) {
        let bin = programs::ours("atoll");
        let bin = bin
            .parent()
            .map(|folder| folder.display().to_string())
            .unwrap_or_default();
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("DOCKER_HOST", self.address())
            .env("DOCKER_CONFIG", self.path("docker-config"))
            .env(
                "PATH",
                format!("{}:{bin}:{path}", self.path("wrapped").display()),
            )
            .env("SOCKET", self.path("docker.sock"))
            .env("T", self.folder.path());
    }

    /// Ends the engine with SIGKILL; containers go on.
    ///
    /// # Panics
    /// When it can't be killed.
    pub fn kill(&mut self) {
        self.child.kill().expect("the engine is ours");
        self.child.wait().expect("the engine is ours");
    }

    /// Asks the engine to end with SIGTERM and waits for it.
    ///
    /// # Panics
    /// When it does not end within ten seconds.
    pub fn terminate(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is ours");
        waiting::until("the engine ended", || {
            self.child.try_wait().expect("the engine is ours").is_some()
        });
    }

    /// Starts another engine on the same roots.
    ///
    /// # Panics
    /// When it does not answer within ten seconds.
    pub fn restart(&mut self) {
        self.child = Self::spawn(
            self.folder.path(),
            self.namespace.id(),
            &self.extra,
            self.own_cache,
        );
        self.wait_until_it_answers();
    }

    /// Prints what engine and shims logged, for a failed test's reader.
    #[expect(clippy::print_stderr, reason = "a failing test explains itself")]
    fn report(&self) {
        eprintln!("--- engine log\n{}", self.log());
        for bundle in std::fs::read_dir(self.path("exec/bundles"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let log = std::fs::read_to_string(bundle.path().join("shim.log")).unwrap_or_default();
            eprintln!("--- shim log of {}\n{log}", bundle.path().display());
        }
    }

    /// Asserts that nothing of a container is left but what the engine records on purpose.
    ///
    /// # Panics
    /// When a mount, a cgroup or a process of it is found.
    #[track_caller]
    pub fn assert_no_trace_of(&self, id: &str) {
        assert!(!id.is_empty(), "a container's id is wanted");
        waiting::until("no process names the container", || {
            leaks::processes_naming(id).is_empty()
        });
        assert_eq!(leaks::cgroups_named(id), Vec::<PathBuf>::new());
        assert_eq!(
            leaks::mounts_below(self.folder.path()),
            Vec::<String>::new()
        );
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.report();
        }
        if self.child.try_wait().is_ok_and(|status| status.is_some()) {
            if std::thread::panicking() {
                // The engine may be what fails: its containers are ended by their marks.
                leaks::end_processes_naming(&self.folder.path().display().to_string());
                let records = std::fs::read_dir(self.path("data/containers"));
                for record in records.into_iter().flatten().flatten() {
                    leaks::end_processes_in_cgroup(&record.file_name().to_string_lossy());
                }
            } else {
                self.restart();
            }
        }
        let _ = self.sh("docker ps -aq | xargs -r docker rm -f");
        let folder = self.folder.path().display().to_string();
        if !std::thread::panicking() {
            // A client hears of the end before the engine has put the shim away.
            waiting::until("every shim ended", || {
                let left = leaks::processes_naming(&folder);
                !left
                    .iter()
                    .any(|(_, line)| line.contains("containerd-shim-atoll-v2"))
            });
        }
        if Self::is_peer() && !std::thread::panicking() {
            self.terminate();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.namespace.kill();
        let _ = self.namespace.wait();
        if std::thread::panicking() {
            return;
        }
        let left = leaks::processes_naming(&folder);
        assert!(left.is_empty(), "processes left behind: {left:?}");
        let left = leaks::mounts_below(self.folder.path());
        assert!(left.is_empty(), "mounts left behind: {left:?}");
    }
}
