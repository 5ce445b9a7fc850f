//! Pods of Kubernetes through our shim: the real containerd's CRI plugin, asked as a kubelet asks.
//!
//! The same pod runs behind every wall. Needs root, containerd, containernetworking-plugins, busybox-static, iproute2,
//! util-linux, a kernel for machines.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod cri;
mod node;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use atoll_tests::leaks::cgroups_named;
use cri::Fields;
use node::{Node, SHIM, entries};

/// Network and IPC of the pod; process ids of each container.
const OWN_PIDS: u64 = 1;
/// Process ids of the pod.
const SHARED_PIDS: u64 = 0;

/// Process ids of the node.
const HOST_PIDS: u64 = 2;
/// No file or folder.
const NOTHING: [PathBuf; 0] = [];

/// What `CreateContainer` wants to hear again of its pod.
struct Pod<'a> {
    node: &'a Node,
    id: String,
    config: Fields,
    pids: u64,
}

/// What a command in a container came to.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    code: u64,
    out: String,
    err: String,
}

impl<'a> Pod<'a> {
    fn run(node: &'a Node, name: &str, handler: &str, pids: u64) -> Self {
        Self::try_run(node, name, handler, pids, &[]).unwrap()
    }

    fn try_run(
        node: &'a Node,
        name: &str,
        handler: &str,
        pids: u64,
        annotations: &[(&str, &str)],
    ) -> Result<Self, String> {
        let metadata = Fields::default()
            .text(1, name)
            .text(2, &format!("uid-{name}"))
            .text(3, "default");
        let options = Fields::default().number(2, pids);
        let security = Fields::default().message(1, &options);
        let linux = Fields::default()
            .text(1, &format!("/{}", node.cgroup()))
            .message(2, &security)
            .message(5, &Fields::default().number(4, 200 << 20));
        let mut config = Fields::default()
            .message(1, &metadata)
            .text(2, &format!("{name}-host"))
            .text(3, node.path().join("logs").to_str().unwrap());
        for annotation in annotations {
            config = config.entry(7, *annotation);
        }
        let config = config.message(8, &linux);
        let request = Fields::default().message(1, &config).text(2, handler);
        let id = node.cri.call("RunPodSandbox", &request)?.text(1);
        Ok(Self {
            node,
            id,
            config,
            pids,
        })
    }

    /// Makes a container that is not started.
    ///
    /// * `resources`: `LinuxContainerResources`.
    fn create(
        &self,
        name: &str,
        command: &[&str],
        resources: &Fields,
        annotations: &[(&str, &str)],
    ) -> Result<String, String> {
        let options = Fields::default().number(2, self.pids);
        let security = Fields::default().message(3, &options);
        let linux = Fields::default()
            .message(1, resources)
            .message(2, &security);
        let config = Fields::default()
            .message(1, &Fields::default().text(1, name))
            .message(2, &Fields::default().text(1, "docker.io/library/bb:latest"))
            .texts(3, command);
        let annotate = |fields: Fields, entry: &(&str, &str)| fields.entry(10, *entry);
        let config = annotations.iter().fold(config, annotate);
        let config = config.text(11, &format!("{name}.log")).message(15, &linux);
        let request = Fields::default()
            .text(1, &self.id)
            .message(2, &config)
            .message(3, &self.config);
        let made = self.node.cri.call("CreateContainer", &request)?;
        Ok(made.text(1))
    }

    /// Runs a container of the pod.
    fn add(&self, name: &str, script: &str) -> String {
        let none = Fields::default();
        let id = self
            .create(name, &["sh", "-c", script], &none, &[])
            .unwrap();
        let request = Fields::default().text(1, &id);
        self.node.call("StartContainer", &request);
        id
    }

    fn exec(&self, id: &str, script: &str) -> Ran {
        let request = Fields::default()
            .text(1, id)
            .texts(2, &["sh", "-c", script])
            .number(3, 30);
        let answer = self.node.call("ExecSync", &request);
        Ran {
            out: answer.text(1),
            err: answer.text(2),
            code: answer.number(3),
        }
    }

    /// What a command said that has to succeed.
    #[track_caller]
    fn said(&self, id: &str, script: &str) -> String {
        let ran = self.exec(id, script);
        assert_eq!(ran.code, 0, "{script}: {ran:?}");
        ran.out.trim().to_owned()
    }

    /// State (1 runs, 2 has ended) and exit code of a container.
    fn status(&self, id: &str) -> (u64, u64) {
        let request = Fields::default().text(1, id);
        let status = self.node.call("ContainerStatus", &request).message(1);
        (status.number(3), status.number(7))
    }

    fn address(&self) -> String {
        let request = Fields::default().text(1, &self.id);
        let status = self.node.call("PodSandboxStatus", &request).message(1);
        status.message(5).text(1)
    }

    fn remove(&self) {
        let request = Fields::default().text(1, &self.id);
        self.node.call("StopPodSandbox", &request);
        self.node.call("RemovePodSandbox", &request);
    }
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "it never held that {what}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// Nothing is left on the node of pods with containers of these ids.
fn nothing_is_left(node: &Node, ids: &[&str]) {
    until("shims and monitors have ended", || {
        node.processes(SHIM).is_empty() && node.processes("atoll-vmm").is_empty()
    });
    let links = node.run(&["ip", "-o", "link"]);
    assert_eq!(links.lines().count(), 1, "{links}");
    let state = node.path().join("state");
    for folder in [
        "netns",
        "io.containerd.runtime.v2.task/k8s.io",
        "io.containerd.grpc.v1.cri/sandboxes",
    ] {
        // What belonged to a killed shim is removed in the background.
        until(folder, || entries(&state.join(folder)).is_empty());
    }
    let mounts = node.run(&["cat", "/proc/self/mountinfo"]);
    let ours = state.display().to_string();
    let left: Vec<_> = mounts.lines().filter(|line| line.contains(&ours)).collect();
    assert!(left.is_empty(), "{left:?}");
    for id in ids {
        let state = Path::new("/run/containerd/atoll/k8s.io").join(id);
        assert!(!state.exists(), "{}", state.display());
        assert_eq!(cgroups_named(id), NOTHING);
    }
}

fn own_kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    release.trim().to_owned()
}

/// A pod of two containers: what they share, what answers, how they end.
fn a_pod_of_two(handler: &str) {
    let mut node = Node::start();
    let pod = Pod::run(&node, "two", handler, OWN_PIDS);
    let web = pod.add(
        "web",
        "mkdir -p /srv; echo from web > /srv/index.html; echo on out; echo on err >&2; \
         exec httpd -f -p 8080 -h /srv",
    );
    let side = pod.add("side", "trap 'exit 9' TERM; while :; do sleep 0.1; done");

    assert_eq!(node.processes(SHIM).len(), 1);
    let in_machine = !handler.is_empty();
    assert_eq!(node.processes("atoll-vmm").len(), usize::from(in_machine));
    let kernel = pod.said(&side, "cat /proc/sys/kernel/osrelease");
    assert_eq!(kernel != own_kernel(), in_machine, "{kernel}");
    if in_machine {
        // The pod's 200 MiB, the guest's 96, and rounding to 320; less what the kernel itself takes.
        let total = pod.said(
            &side,
            "while read name kib rest; do echo $kib; break; done </proc/meminfo",
        );
        let mib = total.parse::<u64>().unwrap() >> 10;
        assert!((270..320).contains(&mib), "{mib}");
    }
    // The pod's address answers from the node, and so does localhost among its containers.
    let address = pod.address();
    assert!(address.starts_with("10.93.0."), "{address}");
    let url = format!("http://{address}:8080/index.html");
    until("the server answers", || {
        pod.exec(
            &side,
            "wget -q -O /dev/null http://127.0.0.1:8080/index.html",
        )
        .code
            == 0
    });
    assert_eq!(
        node.run(&["busybox", "wget", "-q", "-O", "-", &url]),
        "from web\n"
    );
    assert_eq!(
        pod.said(&side, "wget -q -O - http://127.0.0.1:8080/index.html"),
        "from web"
    );
    // Long streams arrive whole, both ways: what is left unfinished on one side is finished on the other.
    pod.said(&web, "seq 1 400000 >/srv/long");
    let long = format!("wget -q -O - http://{address}:8080/long | sha256sum");
    let sum = pod.said(&web, "sha256sum </srv/long");
    assert_eq!(node.run(&["busybox", "sh", "-c", &long]).trim(), sum);
    let server = node.serve(8081);
    let long = "wget -q -O - http://10.93.0.1:8081/image.tar | sha256sum";
    let archive = node.path().join("image.tar").display().to_string();
    let sum = node.run(&["busybox", "sh", "-c", &format!("sha256sum <{archive}")]);
    assert_eq!(pod.said(&side, long), sum.trim());
    drop(server);
    // The node is reached by the routes that CNI made.
    let routes = pod.said(&side, "ip route");
    assert!(routes.contains("default via 10.93.0.1"), "{routes}");
    let mtu = pod.said(&side, "cat /sys/class/net/eth0/mtu");
    assert_eq!(mtu, "1400");

    let both = |script: &str| (pod.said(&web, script), pod.said(&side, script));
    let (one, other) = both("hostname");
    assert_eq!((one.as_str(), other.as_str()), ("two-host", "two-host"));
    for kind in ["net", "ipc", "uts"] {
        let (one, other) = both(&format!("readlink /proc/self/ns/{kind}"));
        assert_eq!(one, other);
    }
    for kind in ["pid", "mnt"] {
        let (one, other) = both(&format!("readlink /proc/self/ns/{kind}"));
        assert_ne!(one, other);
    }
    pod.said(&web, "echo shared > /dev/shm/file");
    assert_eq!(pod.said(&side, "cat /dev/shm/file"), "shared");
    // Their files are their own.
    assert_ne!(pod.exec(&side, "cat /srv/index.html").code, 0);
    let ran = pod.exec(&side, "echo a; echo b >&2; exit 3");
    let expected = Ran {
        code: 3,
        out: "a\n".to_owned(),
        err: "b\n".to_owned(),
    };
    assert_eq!(ran, expected);

    // Other limits leave devices as they are.
    let shares = Fields::default().number(3, 512);
    let update = Fields::default().text(1, &side).message(2, &shares);
    node.call("UpdateContainerResources", &update);
    pod.said(&side, "exec 3<>/dev/null 4</dev/zero 5</dev/urandom");

    let log = node.path().join("logs/web.log");
    until("the log is written", || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        text.contains("stdout F on out") && text.contains("stderr F on err")
    });
    let request = Fields::default().text(1, &side);
    let used = |field: u64| {
        let stats = node.call("ContainerStats", &request).message(1);
        stats.message(field).message(2).number(1)
    };
    assert!(used(2) > 0, "CPU time is measured");
    assert!(used(3) > 0, "memory is measured");

    // One ends by itself when it is asked to, the other goes on.
    let stop = Fields::default().text(1, &side).number(2, 10);
    node.call("StopContainer", &stop);
    assert_eq!(pod.status(&side), (2, 9));
    assert_eq!(pod.status(&web).0, 1);
    node.call("RemoveContainer", &request);
    assert_eq!(
        node.run(&["busybox", "wget", "-q", "-O", "-", &url]),
        "from web\n"
    );
    // Another takes its place.
    let again = pod.add("again", "sleep 1000");
    assert_eq!(
        pod.said(&again, "wget -q -O - http://127.0.0.1:8080/index.html"),
        "from web"
    );

    let (id, config) = (pod.id.clone(), pod.config.clone());
    node.restart();
    let pod = Pod {
        node: &node,
        id,
        config,
        pids: OWN_PIDS,
    };
    assert_eq!(pod.status(&again).0, 1);
    assert_eq!(pod.said(&again, "echo still"), "still");
    let stop = Fields::default().text(1, &again).number(2, 0);
    node.call("StopContainer", &stop);
    assert_eq!(pod.status(&again), (2, 137));
    pod.remove();
    nothing_is_left(&node, &[&pod.id, &web, &side, &again]);
}

#[test]
fn a_pod_of_ordinary_containers_has_one_shim() {
    a_pod_of_two("");
}

/// A pod whose containers see each other's processes.
fn a_pod_that_shares_processes(handler: &str) {
    let node = Node::start();
    let pod = Pod::run(&node, "share", handler, SHARED_PIDS);
    let one = pod.add("one", "exec sleep 4321");
    let two = pod.add("two", "exec sleep 8765");
    let seen = pod.said(&one, "ps");
    for command in ["sleep 100000", "sleep 4321", "sleep 8765"] {
        assert!(seen.contains(command), "{seen}");
    }
    pod.said(
        &two,
        "kill -9 $(ps | grep 'sleep 432[1]' | (read pid rest; echo $pid))",
    );
    until("the killed one has ended", || pod.status(&one) == (2, 137));
    assert_eq!(pod.status(&two).0, 1);
    pod.remove();
    nothing_is_left(&node, &[&pod.id, &one, &two]);
}

#[test]
fn a_pod_of_ordinary_containers_can_share_processes() {
    a_pod_that_shares_processes("");
}

fn a_killed_shim_takes_its_pod_along(handler: &str) {
    let node = Node::start();
    let pod = Pod::run(&node, "die", handler, OWN_PIDS);
    let web = pod.add("web", "exec sleep 1000");
    let shims = node.processes(SHIM);
    let pids: BTreeSet<u32> = shims.iter().map(|(pid, _)| *pid).collect();
    assert_eq!(pids.len(), 1);
    let shim = pids.first().unwrap().to_string();
    node.run(&["kill", "-9", &shim]);
    until("the container has ended", || pod.status(&web).0 == 2);
    pod.remove();
    nothing_is_left(&node, &[&pod.id, &web]);
}

#[test]
fn a_pod_of_containers_in_one_machine() {
    a_pod_of_two("atoll-vm");
}

#[test]
fn a_pod_of_containers_in_a_machine_can_share_processes() {
    a_pod_that_shares_processes("atoll-vm");
}

#[test]
fn a_killed_shim_takes_its_ordinary_containers_along() {
    a_killed_shim_takes_its_pod_along("");
}

#[test]
fn a_killed_shim_takes_its_machine_along() {
    a_killed_shim_takes_its_pod_along("atoll-vm");
}

#[test]
fn a_machine_that_dies_ends_its_pods_containers() {
    let node = Node::start();
    let pod = Pod::run(&node, "lost", "atoll-vm", OWN_PIDS);
    let (one, two) = (
        pod.add("one", "exec sleep 1000"),
        pod.add("two", "exec sleep 1000"),
    );
    let (monitor, _) = node.processes("atoll-vmm")[0];
    node.run(&["kill", "-9", &monitor.to_string()]);
    for id in [&one, &two] {
        until("the container has ended", || pod.status(id) == (2, 137));
    }
    let refused = pod
        .create("late", &["sh"], &Fields::default(), &[])
        .unwrap_err();
    assert!(!refused.is_empty());
    pod.remove();
    nothing_is_left(&node, &[&pod.id, &one, &two]);
}

#[test]
fn what_a_pod_in_a_machine_cannot_have_is_refused_and_the_rest_goes_on() {
    let node = Node::start();
    let process = [("io.atoll.isolation", "process")];
    let pod = Pod::run(&node, "some", "atoll-vm", OWN_PIDS);
    let web = pod.add("web", "exec sleep 1000");
    let shown = || {
        let (shim, _) = node.processes(SHIM)[0];
        let (monitor, _) = node.processes("atoll-vmm")[0];
        [shim, monitor].map(|pid| {
            let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
            let overlays = mounts.lines().filter(|line| line.contains(" - overlay "));
            overlays.filter(|line| line.contains("/pod/")).count()
        })
    };
    until("one container is shown", || shown() == [1, 1]);
    // The folders of the share are not the guest's to change, else it could lead our mounts and removals elsewhere.
    let (monitor, _) = node.processes("atoll-vmm")[0];
    let mounts = fs::read_to_string(format!("/proc/{monitor}/mountinfo")).unwrap();
    let share = mounts.lines().find(|line| line.contains(" /share0 "));
    let share = share.expect("the monitor has the share");
    assert!(share.contains(" ro,"), "{share}");

    let none = Fields::default();
    let sleep = ["sleep", "1000"];
    // containerd makes the task with `StartContainer`.
    let refused = |id: &str| {
        let request = Fields::default().text(1, id);
        let said = node.cri.call("StartContainer", &request).unwrap_err();
        node.call("RemoveContainer", &request);
        said
    };
    let weak = pod.create("weak", &sleep, &none, &process).unwrap();
    let said = refused(&weak);
    assert!(said.contains("pod is in a machine"), "{said}");
    let missing = pod.create("missing", &["nosuch"], &none, &[]).unwrap();
    let said = refused(&missing);
    assert!(said.contains("executable file not found"), "{said}");
    until("the refused are not shown", || shown() == [1, 1]);

    // Limits hold inside, and can be changed.
    let limits = Fields::default().number(4, 64 << 20);
    let small = pod.create("small", &sleep, &limits, &[]).unwrap();
    let request = Fields::default().text(1, &small);
    node.call("StartContainer", &request);
    assert_eq!(
        pod.said(&small, "cat /sys/fs/cgroup/memory.max"),
        "67108864"
    );
    let update = request
        .clone()
        .message(2, &Fields::default().number(4, 32 << 20));
    node.call("UpdateContainerResources", &update);
    assert_eq!(
        pod.said(&small, "cat /sys/fs/cgroup/memory.max"),
        "33554432"
    );
    assert_eq!(shown(), [2, 2]);
    let greedy = pod.exec(&small, "tail /dev/zero");
    assert_eq!(greedy.code, 137, "{greedy:?}");
    assert_eq!(pod.said(&web, "echo still"), "still");
    let many = pod.said(&web, "seq 1 50000");
    assert_eq!(many.lines().count(), 50_000);
    node.call("StopContainer", &request);
    node.call("RemoveContainer", &request);
    until("the removed is not shown", || shown() == [1, 1]);
    pod.remove();
    nothing_is_left(&node, &[&pod.id, &web, &weak, &missing, &small]);

    let host_pids = Pod::try_run(&node, "host", "atoll-vm", HOST_PIDS, &[])
        .err()
        .unwrap();
    assert!(
        host_pids.contains("share the host's pid namespace"),
        "{host_pids}"
    );
    let machine = [("io.atoll.isolation", "vm")];
    let pod = Pod::run(&node, "plain", "", OWN_PIDS);
    let strong = pod.create("strong", &sleep, &none, &machine).unwrap();
    let said = refused(&strong);
    assert!(said.contains("only if its sandbox is"), "{said}");
    pod.remove();
    // The handler's option is what a pod says otherwise.
    let pod = Pod::try_run(&node, "chosen", "atoll-vm", OWN_PIDS, &process).unwrap();
    let web = pod.add("web", "exec sleep 1000");
    assert_eq!(
        pod.said(&web, "cat /proc/sys/kernel/osrelease"),
        own_kernel()
    );
    pod.remove();
    nothing_is_left(&node, &[&pod.id, &strong]);
}
