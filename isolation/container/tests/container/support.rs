//! A bundle with busybox, and containers that are cleaned up.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use atoll_container::{
    Container, ContainerId, CreateRequest, Created, Error, ExecRequest, StdioRequest, create,
};
use atoll_spec::{Process, Root, Spec};
use atoll_sys::process::{self, Exit};

/// A folder with a bundle and a state root; what runs below is killed when it is dropped.
pub(crate) struct Bundle {
    folder: tempfile::TempDir,
    pub(crate) spec: Spec,
    pub(crate) id: ContainerId,
}

/// What a container did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) exit: Exit,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Bundle {
    pub(crate) fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::tempdir().unwrap();
        let rootfs = folder.path().join("rootfs");
        for name in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
            fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        // By another process: a container made by another thread meanwhile would inherit our
        // descriptor, and a file that is open for writing can't be executed (ETXTBSY).
        let mut copy = std::process::Command::new("cp");
        let copied = copy.arg("/bin/busybox").arg(rootfs.join("bin")).status();
        assert!(copied.unwrap().success(), "busybox-static is needed");
        for name in [
            "sh", "true", "cat", "ls", "id", "sleep", "echo", "mount", "hostname", "readlink",
            "stat", "test", "grep", "env", "touch", "kill", "ps", "pwd", "head", "wc", "tty",
            "stty", "mkdir", "ulimit", "chmod", "unshare", "dd", "ip",
        ] {
            symlink("busybox", rootfs.join("bin").join(name)).unwrap();
        }
        fs::write(
            rootfs.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/home/web:\n",
        )
        .unwrap();
        let mut spec = atoll_spec::example();
        spec.root = Some(Root {
            path: "rootfs".into(),
            readonly: false,
        });
        let process = spec.process.as_mut().unwrap();
        process.terminal = false;
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let id = format!("atoll-test-{}-{number}", std::process::id());
        Self {
            folder,
            spec,
            id: id.parse().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    pub(crate) fn state_root(&self) -> PathBuf {
        self.path().join("state")
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        self.spec.process.as_mut().unwrap()
    }

    pub(crate) fn linux(&mut self) -> &mut atoll_spec::Linux {
        self.spec.linux.as_mut().unwrap()
    }

    pub(crate) fn args(&mut self, args: &[&str]) -> &mut Self {
        self.process().args = args.iter().map(|&arg| arg.to_owned()).collect();
        self
    }

    pub(crate) fn script(&mut self, script: &str) -> &mut Self {
        self.args(&["sh", "-c", script])
    }

    pub(crate) fn request(&self) -> CreateRequest {
        CreateRequest::new(self.id.clone(), self.state_root(), self.path().to_owned())
    }

    pub(crate) fn create(&self) -> Result<Created, Error> {
        create(self.request(), &self.spec)
    }

    /// Runs the container to its end.
    pub(crate) fn run(&self) -> Result<Outcome, Error> {
        self.run_request(self.request())
    }

    pub(crate) fn run_request(&self, mut request: CreateRequest) -> Result<Outcome, Error> {
        let (stdio, reader) = piped();
        request.stdio = stdio;
        let mut created = create(request, &self.spec)?;
        created.init.start()?;
        let (stdout, stderr) = reader.read();
        let exit = process::wait(created.init.pidfd.as_fd()).unwrap();
        created.container.delete(false)?;
        Ok(Outcome {
            exit,
            stdout,
            stderr,
        })
    }

    /// The standard output of a script that must succeed.
    pub(crate) fn output_of(&mut self, script: &str) -> String {
        self.script(script);
        let outcome = self.run().unwrap();
        assert_eq!(
            outcome.exit,
            Exit::Code(0),
            "{}{}",
            outcome.stdout,
            outcome.stderr
        );
        outcome.stdout
    }

    /// Nothing of the container is left.
    pub(crate) fn assert_clean(&self) {
        assert!(
            !self.state_root().join(self.id.as_str()).exists(),
            "state folder is left"
        );
        let mut left = Vec::new();
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
            find_named(&hierarchy.unwrap().path(), self.id.as_str(), 3, &mut left);
        }
        assert!(left.is_empty(), "cgroups are left: {left:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let path = self.path().to_str().unwrap();
        assert!(!mounts.contains(path), "mounts are left");
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if let Ok(container) = Container::load(&self.state_root(), &self.id) {
            let _ = container.delete(true);
        }
    }
}

fn find_named(folder: &Path, name: &str, depth: u32, found: &mut Vec<PathBuf>) {
    if depth == 0 {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if entry.file_name().to_str() == Some(name) {
                found.push(entry.path());
            }
            find_named(&entry.path(), name, depth - 1, found);
        }
    }
}

/// The reading ends of a process' streams.
pub(crate) struct Reader {
    stdout: std::io::PipeReader,
    stderr: std::io::PipeReader,
}

impl Reader {
    /// Everything written; both streams are short.
    pub(crate) fn read(mut self) -> (String, String) {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.stdout.read_to_string(&mut stdout).unwrap();
        self.stderr.read_to_string(&mut stderr).unwrap();
        (stdout, stderr)
    }
}

pub(crate) fn piped() -> (StdioRequest, Reader) {
    let (stdout, out) = std::io::pipe().unwrap();
    let (stderr, err) = std::io::pipe().unwrap();
    let stdio = StdioRequest::Fds {
        stdin: File::open("/dev/null").unwrap().into(),
        stdout: out.into(),
        stderr: err.into(),
    };
    (stdio, Reader { stdout, stderr })
}

/// Runs a script in a running container to its end.
pub(crate) fn exec(
    container: &Container,
    process: &Process,
    script: &str,
) -> Result<Outcome, Error> {
    let mut process = process.clone();
    process.args = ["sh", "-c", script].map(str::to_owned).into();
    let (stdio, reader) = piped();
    let mut request = ExecRequest::new(process);
    request.stdio = stdio;
    let exec = container.exec(request)?;
    let (stdout, stderr) = reader.read();
    let exit = process::wait(exec.pidfd.as_fd()).unwrap();
    Ok(Outcome {
        exit,
        stdout,
        stderr,
    })
}
