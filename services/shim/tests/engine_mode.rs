//! The shim as the engine starts it: real containers below our own cgroup; needs root and
//! busybox-static.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use atoll_container::Container;
use atoll_shim_protocol::{
    AttachRequest, ExitRecord, FRAME_HEADER_LEN, Framing, LogConfig, LogDriver, StdioUri,
    StreamKind, parse_frame_header, spawn, start_error_exit_code,
};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::{Client, TaskClient, api};
use ttrpc::context;

use common::program;

/// A shim with a bundle; removed with everything in it when dropped.
struct Bundle {
    id: String,
    folder: tempfile::TempDir,
    shim: Child,
    task: TaskClient,
    has_log: bool,
}

impl Bundle {
    /// A bundle whose process is `sh -c script`.
    fn new(script: &str) -> Self {
        Self::with(&["/bin/sh", "-c", script], false)
    }

    fn with(args: &[&str], terminal: bool) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root"
        );
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("atoll-shim-test-{}-{count}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path();
        make_rootfs(&bundle.join("rootfs"));
        fs::write(bundle.join("config.json"), config(&id, args, terminal)).unwrap();
        let listener = UnixListener::bind(bundle.join(spawn::SHIM_SOCKET)).unwrap();
        let log = fs::File::create(bundle.join(spawn::LOG_FILE)).unwrap();
        let mut command = Command::new(program());
        command
            .args(["-namespace", spawn::NAMESPACE, "-id", &id, "-bundle"])
            .arg(bundle)
            .current_dir(bundle)
            .env(spawn::STATE_ROOT_ENV, bundle.join("state"))
            .env_remove("TTRPC_ADDRESS")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        atoll_sys::spawn::detach_with_fd(&mut command, listener.into(), spawn::LISTEN_FD);
        let shim = command.spawn().unwrap();
        let address = format!("unix://{}", bundle.join(spawn::SHIM_SOCKET).display());
        let task = TaskClient::new(Client::connect(&address).unwrap());
        Self {
            id,
            folder,
            shim,
            task,
            has_log: true,
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Edits the configuration.
    fn change(&self, edit: impl FnOnce(&mut serde_json::Value)) {
        let path = self.path().join("config.json");
        let text = fs::read(&path).unwrap();
        let mut config: serde_json::Value = serde_json::from_slice(&text).unwrap();
        edit(&mut config);
        fs::write(&path, config.to_string()).unwrap();
    }

    fn stdio(&self) -> StdioUri {
        StdioUri {
            attach_socket: self.path().join(spawn::ATTACH_SOCKET),
            log: self.has_log.then(|| LogConfig {
                driver: LogDriver::JsonFile,
                path: self.path().join("c.log"),
                max_size_bytes: None,
                max_files: 1,
            }),
            open_stdin: true,
            stdin_once: true,
        }
    }

    fn try_create(&self, terminal: bool) -> ttrpc::Result<u32> {
        let request = api::CreateTaskRequest {
            id: self.id.clone(),
            bundle: self.path().to_str().unwrap().to_owned(),
            terminal,
            stdout: self.stdio().to_string(),
            ..Default::default()
        };
        let created = self
            .task
            .create(context::with_timeout(20_000_000_000), &request)?;
        Ok(created.pid)
    }

    fn create(&self) -> u32 {
        self.try_create(false).unwrap()
    }

    fn start(&self, exec_id: &str) -> u32 {
        self.try_start(exec_id).unwrap()
    }

    fn try_start(&self, exec_id: &str) -> ttrpc::Result<u32> {
        let request = api::StartRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            ..Default::default()
        };
        let started = self
            .task
            .start(context::with_timeout(20_000_000_000), &request)?;
        Ok(started.pid)
    }

    fn wait(&self, exec_id: &str) -> u32 {
        let request = api::WaitRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            ..Default::default()
        };
        let answer = self
            .task
            .wait(context::with_timeout(60_000_000_000), &request);
        answer.unwrap().exit_status
    }

    fn exec(&self, exec_id: &str, script: &str) {
        let process = serde_json::json!({
            "args": ["/bin/sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
        });
        let stdio = StdioUri {
            attach_socket: spawn::exec_attach_socket(self.path(), exec_id),
            log: None,
            open_stdin: true,
            stdin_once: false,
        };
        let request = api::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            stdout: stdio.to_string(),
            spec: MessageField::some(Any {
                value: process.to_string().into_bytes(),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.task
            .exec(context::with_timeout(20_000_000_000), &request)
            .unwrap();
    }

    fn kill(&self, signal: i32) {
        let request = api::KillRequest {
            id: self.id.clone(),
            signal: signal.cast_unsigned(),
            ..Default::default()
        };
        self.task
            .kill(context::with_timeout(20_000_000_000), &request)
            .unwrap();
    }

    fn delete(&self, exec_id: &str) -> ttrpc::Result<api::DeleteResponse> {
        let request = api::DeleteRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            ..Default::default()
        };
        self.task
            .delete(context::with_timeout(20_000_000_000), &request)
    }

    fn shutdown(&mut self) {
        let request = api::ShutdownRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        self.task
            .shutdown(context::with_timeout(20_000_000_000), &request)
            .unwrap();
        wait_until("the shim's end", || self.shim.try_wait().unwrap().is_some());
    }

    /// What was logged, without the wrapping.
    fn logged(&self) -> String {
        fs::read_to_string(self.path().join("c.log"))
            .unwrap()
            .lines()
            .map(|line| {
                let value: serde_json::Value = serde_json::from_str(line).unwrap();
                value["log"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    fn exit_record(&self) -> ExitRecord {
        ExitRecord::parse(&fs::read(self.path().join(spawn::EXIT_FILE)).unwrap()).unwrap()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        drop(self.shim.kill());
        drop(self.shim.wait());
        if let Ok(container) =
            Container::load(&self.path().join("state"), &self.id.parse().unwrap())
        {
            container.delete(true).unwrap();
        }
        if thread::panicking() {
            let log = fs::read_to_string(self.path().join(spawn::LOG_FILE));
            eprintln!("shim.log: {}", log.unwrap_or_default());
        }
    }
}

fn make_rootfs(root: &Path) {
    for folder in ["bin", "proc", "dev", "tmp"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    // By another process: a shim started by another thread meanwhile would inherit our descriptor,
    // and a file that is open for writing can't be executed (ETXTBSY).
    let mut copy = std::process::Command::new("cp");
    let copied = copy.arg("/bin/busybox").arg(root.join("bin")).status();
    assert!(
        copied.is_ok_and(|status| status.success()),
        "busybox-static is needed"
    );
    for name in [
        "sh", "cat", "dd", "echo", "sleep", "head", "stty", "true", "sync", "wc", "yes", "trap",
    ] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
}

fn config(id: &str, args: &[&str], terminal: bool) -> String {
    serde_json::json!({
        "ociVersion": "1.2.0",
        "process": {
            "args": args, "cwd": "/", "env": ["PATH=/bin"], "terminal": terminal,
            "user": {"uid": 0, "gid": 0},
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},
        ],
        "linux": {
            "cgroupsPath": id,
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}],
        },
    })
    .to_string()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Attaches to everything.
fn attach(socket: &Path, framing: Framing) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    let request = AttachRequest {
        stdin: true,
        stdout: true,
        stderr: true,
        framing,
    };
    stream.write_all(request.to_line().as_bytes()).unwrap();
    let mut reply = String::new();
    // One byte at a time: output may follow at once.
    while !reply.ends_with('\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        reply.push(char::from(byte[0]));
    }
    assert_eq!(reply, "{\"ok\":true}\n");
    stream
}

/// Everything until the end, by stream.
fn read_frames(stream: impl Read) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut stream = BufReader::with_capacity(1 << 20, stream);
    while !stream.fill_buf().unwrap().is_empty() {
        let mut header = [0; FRAME_HEADER_LEN];
        stream.read_exact(&mut header).unwrap();
        let (kind, len) = parse_frame_header(header).unwrap();
        let into = match kind {
            StreamKind::Stdout => &mut out,
            StreamKind::Stderr => &mut err,
        };
        let count = (&mut stream).take(len.into()).read_to_end(into).unwrap();
        assert_eq!(count, usize::try_from(len).unwrap());
    }
    (out, err)
}

#[test]
fn output_reaches_log_and_clients_and_the_exit_is_recorded() {
    let mut bundle = Bundle::new("echo out; echo err >&2; printf end; exit 3");
    let pid = bundle.create();
    let socket = bundle.path().join(spawn::ATTACH_SOCKET);
    let clients = [
        attach(&socket, Framing::Multiplexed),
        attach(&socket, Framing::Multiplexed),
    ];
    assert_eq!(bundle.start(""), pid);
    for client in clients {
        let (out, err) = read_frames(client);
        assert_eq!(out, b"out\nend");
        assert_eq!(err, b"err\n");
    }
    assert_eq!(bundle.wait(""), 3);
    let record = bundle.exit_record();
    assert_eq!((record.pid, record.exit_code), (pid, 3));
    assert!(!record.oom_killed && record.signal.is_none());
    assert_eq!(bundle.logged().len(), "out\nerr\nend".len());
    // Late clients are answered and sent away.
    let (out, _) = read_frames(attach(&socket, Framing::Multiplexed));
    assert!(out.is_empty());
    let deleted = bundle.delete("").unwrap();
    assert_eq!((deleted.exit_status, deleted.pid), (3, pid));
    assert!(!socket.exists());
    bundle.shutdown();
}

#[test]
fn a_hundred_megabytes_go_through_cat_unharmed() {
    const BLOCK: usize = 1 << 20;
    let bundle = Bundle::with(&["/bin/cat"], false);
    bundle.create();
    let socket = bundle.path().join(spawn::ATTACH_SOCKET);
    let mut client = attach(&socket, Framing::Raw);
    bundle.start("");
    let mut sender = client.try_clone().unwrap();
    let block = |number: u8| {
        let mut block = vec![b'x'; BLOCK];
        block[0] = number;
        block[BLOCK - 1] = b'\n';
        block
    };
    let writer = thread::spawn(move || {
        for number in 0..100 {
            sender.write_all(&block(number)).unwrap();
        }
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = vec![0; BLOCK];
    for number in 0..100 {
        client.read_exact(&mut received).unwrap();
        assert!(received == block(number), "block {number} is damaged");
    }
    assert_eq!(client.read(&mut received).unwrap(), 0);
    writer.join().unwrap();
    assert_eq!(bundle.wait(""), 0);
}

#[test]
fn a_terminal_has_the_size_asked_for() {
    let bundle = Bundle::with(
        &[
            "/bin/sh",
            "-c",
            "stty size; trap 'stty size; exit 4' WINCH; read line; while :; do sleep 0.01; done",
        ],
        true,
    );
    bundle.try_create(true).unwrap();
    let resize = |height, width| {
        let request = api::ResizePtyRequest {
            id: bundle.id.clone(),
            width,
            height,
            ..Default::default()
        };
        bundle
            .task
            .resize_pty(context::with_timeout(20_000_000_000), &request)
            .unwrap();
    };
    resize(33, 91);
    let client = attach(&bundle.path().join(spawn::ATTACH_SOCKET), Framing::Raw);
    bundle.start("");
    let mut client_in = client.try_clone().unwrap();
    let mut lines = BufReader::new(client).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "33 91");
    client_in.write_all(b"typed\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "typed");
    thread::sleep(Duration::from_millis(100));
    resize(10, 20);
    assert_eq!(lines.next().unwrap().unwrap(), "10 20");
    assert_eq!(bundle.wait(""), 4);
}

#[test]
fn execs_have_their_own_streams_and_codes() {
    let bundle = Bundle::new("sleep 600");
    bundle.create();
    bundle.start("");
    bundle.exec("one", "cat; echo done >&2; exit 9");
    let client = attach(
        &spawn::exec_attach_socket(bundle.path(), "one"),
        Framing::Multiplexed,
    );
    bundle.start("one");
    (&client).write_all(b"through").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let (out, err) = read_frames(client);
    assert_eq!(
        (out.as_slice(), err.as_slice()),
        (&b"through"[..], &b"done\n"[..])
    );
    assert_eq!(bundle.wait("one"), 9);
    assert_eq!(bundle.delete("one").unwrap().exit_status, 9);
    assert!(bundle.delete("one").is_err());

    // A grandchild that keeps the output open delays the report, not for ever.
    bundle.exec("two", "sleep 600 & echo hi");
    bundle.start("two");
    let before = Instant::now();
    assert_eq!(bundle.wait("two"), 0);
    assert!(before.elapsed() < Duration::from_secs(6));

    bundle.kill(9);
    assert_eq!(bundle.wait(""), 137);
    assert_eq!(bundle.exit_record().signal, Some(9));
}

#[test]
fn a_client_that_reads_nothing_holds_up_the_end_only_so_long() {
    let bundle = Bundle::new("head -c 8000000 /dev/zero");
    bundle.create();
    // /dev is empty but for what runtimes add; zero is one of them.
    let client = attach(
        &bundle.path().join(spawn::ATTACH_SOCKET),
        Framing::Multiplexed,
    );
    bundle.start("");
    thread::sleep(Duration::from_millis(300));
    bundle.kill(9);
    assert_eq!(bundle.wait(""), 137);
    drop(client);
}

#[test]
fn a_client_may_leave_while_another_asks() {
    let bundle = Bundle::new("sleep 600");
    bundle.create();
    bundle.start("");
    let socket = bundle.path().join(spawn::ATTACH_SOCKET);
    let first = attach(&socket, Framing::Raw);
    let mut second = UnixStream::connect(&socket).unwrap();
    // An answered request later, the shim has taken the connection.
    bundle.kill(0);
    bundle.kill(0);
    let shim = rustix::process::Pid::from_child(&bundle.shim);
    let signal = |signal| rustix::process::kill_process(shim, signal).unwrap();
    // Both happen between two looks of the shim.
    signal(rustix::process::Signal::STOP);
    drop(first);
    let request = AttachRequest {
        stdin: false,
        stdout: true,
        stderr: true,
        framing: Framing::Raw,
    };
    second.write_all(request.to_line().as_bytes()).unwrap();
    signal(rustix::process::Signal::CONT);
    let mut reply = String::new();
    BufReader::new(&second).read_line(&mut reply).unwrap();
    assert_eq!(reply, "{\"ok\":true}\n");
    bundle.kill(9);
    assert_eq!(bundle.wait(""), 137);
}

#[test]
fn a_missing_command_is_told_in_runcs_words() {
    for (command, code) in [("nosuch", 127), ("/bin/none", 127), ("/proc", 126)] {
        let mut bundle = Bundle::with(&[command], false);
        let error = bundle
            .try_create(false)
            .and_then(|_| bundle.try_start(""))
            .unwrap_err();
        let ttrpc::Error::RpcStatus(status) = error else {
            panic!("{error}");
        };
        assert_eq!(
            start_error_exit_code(&status.message),
            code,
            "{}",
            status.message
        );
        drop(bundle.delete(""));
        bundle.shutdown();
    }
}

#[test]
fn a_killed_shim_leaves_a_container_that_can_be_deleted() {
    let mut bundle = Bundle::new("sleep 600");
    let pid = bundle.create();
    bundle.start("");
    bundle.shim.kill().unwrap();
    bundle.shim.wait().unwrap();
    assert!(Path::new(&format!("/proc/{pid}/root/bin/busybox")).exists());
    let state = bundle.path().join("state");
    let container = Container::load(&state, &bundle.id.parse().unwrap()).unwrap();
    container.delete(true).unwrap();
    wait_until("the container's end", || {
        !Path::new(&format!("/proc/{pid}/root/bin/busybox")).exists()
    });
    assert!(Container::load(&state, &bundle.id.parse().unwrap()).is_err());
}

#[test]
fn a_shim_without_a_container_ends_with_its_last_connection() {
    let mut bundle = Bundle::new("exit 3");
    bundle.create();
    bundle.start("");
    assert_eq!(bundle.wait(""), 3);
    bundle.delete("").unwrap();
    // The engine dies before it says `Shutdown`.
    let elsewhere = bundle.path().join("elsewhere.sock");
    let _listener = UnixListener::bind(&elsewhere).unwrap();
    let client = Client::connect(&format!("unix://{}", elsewhere.display())).unwrap();
    bundle.task = TaskClient::new(client);
    wait_until("the shim's end", || {
        bundle.shim.try_wait().unwrap().is_some()
    });
}

#[test]
fn what_is_left_in_anothers_pid_namespace_ends_with_the_first_process() {
    let owner = Bundle::new("sleep 100");
    let pid = owner.create();
    owner.start("");
    let bundle = Bundle::new("sleep 1234 > /dev/null 2>&1 & echo $!; exit 3");
    bundle.change(|config| {
        config["linux"]["namespaces"][0]["path"] = format!("/proc/{pid}/ns/pid").into();
    });
    bundle.create();
    bundle.start("");
    assert_eq!(bundle.wait(""), 3);
    // Nothing but the end of its first process ends it.
    wait_until("the end of what it left", || {
        let seen = Command::new("nsenter")
            .args(["-t", &pid.to_string(), "-p", "-m", "/bin/busybox", "ps"])
            .output()
            .unwrap();
        let seen = String::from_utf8(seen.stdout).unwrap();
        assert!(seen.contains("sleep 100"), "{seen}");
        !seen.contains("sleep 1234")
    });
    owner.kill(libc::SIGKILL);
}

#[test]
fn an_out_of_memory_kill_is_recorded() {
    let bundle = Bundle::with(
        &[
            "/bin/dd",
            "if=/dev/zero",
            "of=/dev/null",
            "bs=64M",
            "count=1",
        ],
        false,
    );
    bundle.change(|config| {
        config["linux"]["resources"] =
            serde_json::json!({"memory": {"limit": 8 << 20, "swap": 8 << 20}});
    });
    bundle.create();
    bundle.start("");
    assert_eq!(bundle.wait(""), 137);
    assert!(bundle.exit_record().oom_killed);
}

#[test]
fn the_vm_object_chooses_the_machines_hardware() {
    assert!(
        std::env::var_os("ATOLL_BIN").is_some(),
        "a machine needs the programs of `cargo xtask dist`: set ATOLL_BIN to their folder"
    );
    let (kernel, _) = atoll_machine::host::choose(None).unwrap();
    let script = "while read -r name kib rest; do
            case $name in MemTotal:) echo $((kib / 1024));; processor) echo cpu;; esac
        done < /proc/meminfo; while read -r name rest; do
            case $name in processor) echo cpu;; esac; done < /proc/cpuinfo";
    let bundle = Bundle::new(script);
    let hardware = |memory: u64| {
        bundle.change(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            if namespaces.len() == 4 {
                namespaces.push(serde_json::json!({"type": "network"}));
            }
            // The object wins over what the limits of the container would give.
            config["linux"]["resources"] = serde_json::json!({"memory": {"limit": 32 << 20}});
            config["vm"] = serde_json::json!({
                "kernel": {"path": kernel},
                "hwConfig": {"vcpus": 2, "memory": memory},
            });
        });
    };
    hardware(64 << 20);
    let refused = bundle.try_create(false).unwrap_err().to_string();
    assert!(refused.contains("vm.hwConfig.memory"), "{refused}");
    hardware(1 << 60);
    let refused = bundle.try_create(false).unwrap_err().to_string();
    assert!(refused.contains("memory"), "{refused}");
    hardware((384 << 20) + 4096);
    bundle.create();
    bundle.start("");
    assert_eq!(bundle.wait(""), 0);
    let said = bundle.logged();
    let lines: Vec<_> = said.lines().collect();
    let mib: u64 = lines[0].parse().unwrap();
    // The kernel keeps some of it.
    assert!((320..384).contains(&mib), "{said}");
    assert_eq!(lines[1..], ["cpu", "cpu"], "{said}");
}

#[test]
fn an_idle_shim_is_one_thread() {
    let bundle = Bundle::new("sleep 600");
    bundle.create();
    bundle.start("");
    let threads = fs::read_dir(format!("/proc/{}/task", bundle.shim.id())).unwrap();
    assert_eq!(threads.count(), 1);
}

/// MB/s from the container's pipe into the log and to an attached client; run it against the
/// shipped program: `ATOLL_BIN=… cargo test -p atoll-shim --test engine_mode -- --ignored`.
#[test]
#[ignore = "a measurement"]
fn measure_throughput() {
    const SIZE: usize = 400 << 20;
    let line = "2026-11-23 13:00:00 INFO  worker-000001 handled GET /api/v1/items/000007 in 12.3 ms \
                with \"200 OK\" <ok>\n";
    for (name, log, clients) in [
        ("log", true, 0),
        ("attached", false, 1),
        ("log and attached", true, 1),
    ] {
        let mut bundle = Bundle::with(&["/bin/cat", "/text"], false);
        let text = line.repeat(SIZE / line.len());
        fs::write(bundle.path().join("rootfs/text"), &text).unwrap();
        bundle.has_log = log;
        bundle.create();
        let socket = bundle.path().join(spawn::ATTACH_SOCKET);
        let readers: Vec<_> = (0..clients)
            .map(|_| {
                let mut client = attach(&socket, Framing::Multiplexed);
                thread::spawn(move || {
                    let (mut total, mut buffer) = (0, vec![0; 1 << 20]);
                    loop {
                        match client.read(&mut buffer).unwrap() {
                            0 => return total,
                            count => total += count,
                        }
                    }
                })
            })
            .collect();
        let before = Instant::now();
        bundle.start("");
        assert_eq!(bundle.wait(""), 0);
        for reader in readers {
            assert!(reader.join().unwrap() >= text.len());
        }
        let seconds = before.elapsed().as_secs_f64();
        let memory = fs::read_to_string(format!("/proc/{}/smaps_rollup", bundle.shim.id()));
        let pss = memory.unwrap();
        let pss = pss.lines().find(|line| line.starts_with("Pss:")).unwrap();
        println!(
            "{name}: {:.0} MB/s; {pss} after",
            f64::from(u32::try_from(text.len()).unwrap()) / 1e6 / seconds
        );
    }
}

/// Milliseconds from executing the shim to each answer, medians.
#[test]
#[ignore = "a measurement"]
fn measure_latency() {
    let mut times: [Vec<f64>; 4] = Default::default();
    for _ in 0..30 {
        let before = Instant::now();
        let mut bundle = Bundle::with(&["/bin/true"], false);
        let ready = Instant::now();
        bundle.create();
        let created = Instant::now();
        bundle.start("");
        let started = Instant::now();
        assert_eq!(bundle.wait(""), 0);
        let ended = Instant::now();
        bundle.delete("").unwrap();
        bundle.shutdown();
        let points = [before, ready, created, started, ended];
        for (times, pair) in times.iter_mut().zip(points.windows(2)) {
            times.push((pair[1] - pair[0]).as_secs_f64() * 1e3);
        }
    }
    for (name, mut times) in ["bundle and spawn", "create", "start", "wait"]
        .iter()
        .zip(times)
    {
        times.sort_by(f64::total_cmp);
        println!("{name}: {:.2} ms", times[times.len() / 2]);
    }
}
