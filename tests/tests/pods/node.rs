//! A node of its own: containerd with its CRI plugin in a network and a mount namespace of its own.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use atoll_tests::leaks::cgroups_named;
use atoll_tests::programs::ours;

use crate::cri::{Cri, Fields, Message};

pub(crate) const SHIM: &str = "containerd-shim-atoll-v2";

/// Where CNI keeps what it did; the node's is its own.
const CNI_STATE: &str = "/var/lib/cni";

/// A running containerd with images of busybox, one of which sleeps for pods.
pub(crate) struct Node {
    folder: tempfile::TempDir,
    daemon: Child,
    pub(crate) cri: Cri,
}

impl Node {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        for name in ["bin", "cni", "logs"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        symlink(ours(SHIM), path.join("bin").join(SHIM)).unwrap();
        fs::write(path.join("vm.json"), "{\"isolation\": \"vm\"}").unwrap();
        fs::write(path.join("config.toml"), config(path)).unwrap();
        fs::write(path.join("cni/10-ptp.conflist"), NETWORK).unwrap();
        let daemon = spawn(path, &[]);
        let cri = Cri::at(&path.join("c.sock"));
        let this = Self {
            folder,
            daemon,
            cri,
        };
        this.wait_for_answer();
        this.import();
        this
    }

    /// Kills the daemon without warning and starts it again, where it was.
    pub(crate) fn restart(&mut self) {
        let namespaces = Namespaces::of(self.daemon.id());
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        self.daemon = spawn(self.folder.path(), &namespaces.enter());
        self.wait_for_answer();
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Name of the control group of this node's pods, which a kubelet would make and remove.
    pub(crate) fn cgroup(&self) -> String {
        let name = self.path().file_name().unwrap().to_string_lossy();
        format!("atoll-pods-{}", name.trim_start_matches('.'))
    }

    /// Runs a command where the daemon is.
    pub(crate) fn run(&self, words: &[&str]) -> String {
        let pid = self.daemon.id().to_string();
        let mut command = Command::new("timeout");
        command.args(["30", "nsenter", "-m", "-n", "-t", &pid]);
        said(command.args(words).output().unwrap())
    }

    /// Serves the node's folder by HTTP where the daemon is, once it answers.
    pub(crate) fn serve(&self, port: u16) -> Server {
        let pid = self.daemon.id().to_string();
        let mut command = Command::new("nsenter");
        command
            .args(["-n", "-t", &pid, "busybox", "httpd", "-f", "-p"])
            .arg(port.to_string())
            .arg("-h")
            .arg(self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = Server(command.spawn().unwrap());
        let look = format!(
            "until busybox wget -q -O /dev/null http://127.0.0.1:{port}/vm.json; do busybox sleep 0.02; done"
        );
        self.run(&["busybox", "sh", "-c", &look]);
        server
    }

    pub(crate) fn ctr(&self, words: &[&str]) -> String {
        let mut command = Command::new("timeout");
        command
            .args(["60", "ctr", "-n", "k8s.io"])
            .env("CONTAINERD_ADDRESS", self.folder.path().join("c.sock"))
            .stdin(Stdio::null());
        said(command.args(words).output().unwrap())
    }

    /// Calls the runtime service and takes no refusal.
    #[track_caller]
    pub(crate) fn call(&self, method: &str, request: &Fields) -> Message {
        let answer = self.cri.call(method, request);
        answer.unwrap_or_else(|message| panic!("{method}: {message}"))
    }

    /// Process ids and command lines of shims and monitors of this node.
    pub(crate) fn processes(&self, program: &str) -> Vec<(u32, String)> {
        let folder = self.folder.path().to_str().unwrap();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let is_it = line
                .split(' ')
                .next()
                .is_some_and(|word| word.ends_with(program));
            if is_it && line.contains(folder) {
                found.push((pid, line));
            }
        }
        found
    }

    fn wait_for_answer(&self) {
        let request = Fields::default();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            // Ready, and so is its network.
            let status = self.cri.call("Status", &request);
            if let Ok(status) = &status {
                let conditions = status.message(1).messages(1);
                if conditions.len() == 2 && conditions.iter().all(|one| one.number(2) == 1) {
                    return;
                }
            }
            assert!(Instant::now() < deadline, "{status:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn import(&self) {
        let script = r#"
            set -e
            mkdir -p rootfs/bin rootfs/proc rootfs/sys rootfs/dev rootfs/tmp rootfs/etc
            cp /bin/busybox rootfs/bin/
            for name in sh cat echo sleep true hostname ip httpd wget ps ls kill mkdir readlink seq \
                ipcs touch tail sha256sum; do
                ln -s busybox rootfs/bin/$name
            done
            tar -C rootfs -cf layer.tar .
            diff=$(sha256sum layer.tar | cut -d' ' -f1)
            config() {
                printf '{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":[%s]},
                    "rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$1" $diff
            }
            config '"sh"' > bb.json
            config '"sleep","100000"' > pause.json
            printf '[{"Config":"bb.json","RepoTags":["bb:latest"],"Layers":["layer.tar"]},
                {"Config":"pause.json","RepoTags":["pause:latest"],"Layers":["layer.tar"]}]' \
                > manifest.json
            tar -cf image.tar manifest.json bb.json pause.json layer.tar"#;
        let mut command = Command::new("sh");
        let made = command
            .args(["-c", script])
            .current_dir(self.path())
            .output();
        said(made.unwrap());
        let archive = self.path().join("image.tar");
        self.ctr(&["images", "import", archive.to_str().unwrap()]);
        // The plugin hears of images by events.
        let request = Fields::default();
        let deadline = Instant::now() + Duration::from_secs(20);
        let is_there = |name: &str| {
            let images = self.cri.call("ListImages", &request);
            images.is_ok_and(|images| images.holds(name))
        };
        while !(is_there("bb:latest") && is_there("pause:latest")) {
            assert!(Instant::now() < deadline, "the images never came");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for method in ["StopPodSandbox", "RemovePodSandbox"] {
            for sandbox in self.ctr_quiet(&["containers", "ls", "-q"]).lines() {
                drop(self.cri.call(method, &Fields::default().text(1, sandbox)));
            }
        }
        drop(self.daemon.kill());
        drop(self.daemon.wait());
        for folder in cgroups_named(&self.cgroup()) {
            drop(fs::remove_dir(folder));
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path().join("log")).unwrap_or_default();
            let from = log.len().saturating_sub(6000);
            let tail = log.get(from..).unwrap_or(&log);
            println!("containerd's log:\n{tail}");
        }
    }
}

impl Node {
    fn ctr_quiet(&self, words: &[&str]) -> String {
        let mut command = Command::new("timeout");
        command
            .args(["20", "ctr", "-n", "k8s.io"])
            .env("CONTAINERD_ADDRESS", self.path().join("c.sock"));
        let output = command.args(words).output();
        output.map_or_else(
            |_| String::new(),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }
}

/// A server that ends when it is dropped.
pub(crate) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The namespaces of a process that is about to end, held open.
struct Namespaces(Vec<(String, fs::File)>);

impl Namespaces {
    fn of(pid: u32) -> Self {
        let open = |kind: &str| {
            let file = fs::File::open(format!("/proc/{pid}/ns/{kind}")).unwrap();
            (kind.to_owned(), file)
        };
        Self(["mnt", "net"].map(open).into())
    }

    /// `nsenter` into them.
    fn enter(&self) -> Vec<String> {
        use std::os::fd::AsRawFd;
        let own = std::process::id();
        let flag = |(kind, file): &(String, fs::File)| {
            let flag = if kind == "mnt" { "--mount" } else { "--net" };
            format!("{flag}=/proc/{own}/fd/{}", file.as_raw_fd())
        };
        let mut words = vec!["nsenter".to_owned()];
        words.extend(self.0.iter().map(flag));
        words
    }
}

/// What a command that has to succeed said.
#[track_caller]
pub(crate) fn said(output: Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn spawn(folder: &Path, enter: &[String]) -> Child {
    let mut programs = OsString::from(folder.join("bin"));
    programs.push(":");
    programs.push(std::env::var_os("PATH").unwrap());
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .unwrap();
    let config = folder.join("config.toml");
    let mut command;
    if let Some((program, words)) = enter.split_first() {
        command = Command::new(program);
        command.args(words).arg("containerd");
    } else {
        // CNI's state is the node's own.
        let script = format!(
            "mkdir -p {CNI_STATE} && mount -t tmpfs cni {CNI_STATE} && ip link set lo up && exec \"$@\""
        );
        command = Command::new("unshare");
        command.args([
            "-m",
            "-n",
            "--propagation",
            "slave",
            "sh",
            "-c",
            &script,
            "sh",
            "containerd",
        ]);
    }
    command
        .arg("-c")
        .arg(config)
        .env("PATH", programs)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("containerd is installed")
}

const NETWORK: &str = r#"{
    "cniVersion": "0.4.0", "name": "pods",
    "plugins": [{"type": "ptp", "ipMasq": false, "mtu": 1400, "ipam": {
        "type": "host-local", "ranges": [[{"subnet": "10.93.0.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}]}}]}"#;

fn config(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[debug]
  level = "info"
[grpc]
  address = "{folder}/c.sock"
[ttrpc]
  address = "{folder}/c.sock.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/pause:latest"
  netns_mounts_under_state_dir = true
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "atoll"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.atoll]
      runtime_type = "io.containerd.atoll.v2"
      pod_annotations = ["io.atoll.*"]
      container_annotations = ["io.atoll.*"]
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.atoll-vm]
      runtime_type = "io.containerd.atoll.v2"
      pod_annotations = ["io.atoll.*"]
      container_annotations = ["io.atoll.*"]
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.atoll-vm.options]
        ConfigPath = "{folder}/vm.json"
"#
    )
}

/// Entries of a folder; none when it is not there.
pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
