//! A real registry (Debian's docker-registry) on loopback inside an engine's network namespace.

use std::fs;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::{Engine, Ran, waiting};

/// A running registry; it ends when dropped.
pub struct Registry {
    child: Child,
    folder: TempDir,
    namespace_pid: u32,
}

impl Registry {
    /// Where it listens, inside the engine's network namespace.
    pub const ADDRESS: &'static str = "127.0.0.1:5000";

    /// Starts an empty registry in the network namespace of `engine`.
    ///
    /// # Panics
    /// When docker-registry is not installed or does not answer.
    pub fn start(engine: &Engine) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {}\n",
            folder.path().join("data").display(),
            Self::ADDRESS
        );
        let file = folder.path().join("config.yml");
        fs::write(&file, config).expect("the temporary folder is writable");
        let namespace_pid = engine.pid();
        let child = Self::inside(namespace_pid, "docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nsenter is installed");
        let registry = Self {
            child,
            folder,
            namespace_pid,
        };
        waiting::until("the registry answers", || {
            let mut probe = Self::inside(namespace_pid, "curl");
            probe.args(["-sf", "-o", "/dev/null", "http://127.0.0.1:5000/v2/"]);
            probe
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        });
        registry
    }

    /// Pushes the docker-archive `archive` (a file that `docker load` would take) as `name`.
    ///
    /// # Panics
    /// When skopeo fails.
    pub fn push(&self, source: &str, name: &str) {
        let mut skopeo = Self::inside(self.namespace_pid, "skopeo");
        skopeo.args([
            "--insecure-policy",
            "copy",
            "-q",
            "--dest-tls-verify=false",
            source,
        ]);
        skopeo.arg(format!("docker://{}/{name}", Self::ADDRESS));
        Ran::of(&mut skopeo).ok();
    }

    /// The folder the registry stores blobs in.
    pub fn storage(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    fn inside(pid: u32, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{pid}/ns/net"))
            .arg("--")
            .arg(program);
        command
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
