//! An engine on roots of its own, ended when the test does.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A running engine.
pub(crate) struct Engine {
    child: Child,
    roots: tempfile::TempDir,
}

impl Engine {
    /// Starts one without a bridge and waits until it answers.
    pub(crate) fn start() -> Self {
        let roots = tempfile::tempdir().unwrap();
        let child = Self::command(roots.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let engine = Self { child, roots };
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(engine.socket()).is_err() {
            assert!(Instant::now() < deadline, "the engine doesn't come up");
            std::thread::sleep(Duration::from_millis(5));
        }
        engine
    }

    /// The command that starts an engine on `roots`.
    pub(crate) fn command(roots: &Path) -> Command {
        let program = std::env::current_exe().unwrap();
        let program = program
            .parent()
            .unwrap()
            .parent()
            .unwrap()
            .join("examples/atolld");
        let mut command = Command::new(program);
        command.arg("--data-root").arg(roots.join("data"));
        command.arg("--exec-root").arg(roots.join("run"));
        command.args(["--bridge", "none"]);
        command
    }

    /// Its roots' parent.
    pub(crate) fn roots(&self) -> &Path {
        self.roots.path()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.roots.path().join("run/docker.sock")
    }

    /// Sends `request` as it is and reads to the end of the answer.
    pub(crate) fn raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        // A refused request may end in a reset after its answer.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Sends a request without a body; answers head and body.
    pub(crate) fn request(&self, method: &str, target: &str) -> (String, String) {
        let answer = self.raw(&format!(
            "{method} {target} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"
        ));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_ascii_lowercase(), body.to_owned())
    }

    /// Sends a JSON body by POST; answers head and body.
    pub(crate) fn post(&self, target: &str, json: &str) -> (String, String) {
        let answer = self.raw(&format!(
            "POST {target} HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{json}",
            json.len()
        ));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_ascii_lowercase(), body.to_owned())
    }

    /// A bollard client.
    pub(crate) fn client(&self) -> bollard::Docker {
        let socket = self.socket();
        bollard::Docker::connect_with_unix(
            socket.to_str().unwrap(),
            20,
            bollard::API_DEFAULT_VERSION,
        )
        .unwrap()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
