//! `atoll machine`: a machine by itself, controlled, saved, restored and cloned. Needs what `cargo xtask setup` installs.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that meets an error fails, and tells how far it came"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use atoll_machine::initramfs;
use atoll_tests::{Ran, programs};

/// A step may take this long on a machine that is busy with other tests.
const DEADLINE: Duration = Duration::from_secs(300);

/// Counts the lines it reads.
const INIT: &str = "#!/bin/busybox sh\n\
    stty -echo\n\
    echo ready\n\
    while read -r line; do\n\
        count=$((count + 1))\n\
        echo \"line $count $line\"\n\
        [ \"$line\" = off ] && /bin/busybox poweroff -f\n\
        [ \"$line\" = reset ] && /bin/busybox reboot -f\n\
    done\n";

/// A monitor that runs, ended with this guard.
struct Running {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.stderr(Stdio::inherit()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in output.lines() {
                let _ = sender.send(line.unwrap().trim_end().to_owned());
            }
        });
        let input = child.stdin.take().unwrap();
        Self {
            child,
            input,
            lines,
        }
    }

    fn types(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// Waits until the guest says `line`.
    fn says(&self, line: &str) {
        let mut all = Vec::new();
        while all.last().map(String::as_str) != Some(line) {
            let next = self.lines.recv_timeout(DEADLINE);
            all.push(next.unwrap_or_else(|_| panic!("no `{line}` in {all:#?}")));
        }
    }

    fn is_silent(&self) -> bool {
        let next = self.lines.recv_timeout(Duration::from_millis(300));
        matches!(next, Err(RecvTimeoutError::Timeout))
    }

    fn ends_with(mut self, code: i32) {
        assert_eq!(self.child.wait().unwrap().code(), Some(code));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `atoll machine` with what the test has in a folder of its own.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let init = folder.path().join("init");
        fs::write(&init, INIT).unwrap();
        let mut archive = initramfs::build(&init, &[]).unwrap();
        archive.folder("bin");
        let busybox = fs::read("/bin/busybox").expect("busybox-static is there");
        for name in ["busybox", "stty"] {
            archive.file(&format!("bin/{name}"), 0o755, &busybox);
        }
        fs::write(folder.path().join("ramdisk"), archive.finish()).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn machine(&self, words: &[&str]) -> Command {
        let mut command = Command::new(programs::ours("atoll"));
        command.arg("machine").args(words);
        command.current_dir(self.folder.path());
        command.env("ATOLL_CACHE_ROOT", env!("CARGO_TARGET_TMPDIR"));
        command
    }

    fn boot(&self) -> Running {
        let mut command = self.machine(&["boot", "--backend", "soft", "--initrd", "ramdisk"]);
        command.args(["-m", "128M", "--control", "control"]);
        command.args(["--append", "quiet mitigations=off"]);
        Running::start(&mut command)
    }

    fn told(&self, words: &[&str]) -> Ran {
        Ran::of(&mut self.machine(words))
    }

    fn restored(&self, folder: &str) -> Running {
        Running::start(&mut self.machine(&["restore", folder]))
    }
}

fn wait_for(path: &Path) {
    while !path.exists() {
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_machine_is_paused_saved_cloned_and_stopped() {
    let bench = Bench::new();
    let mut machine = bench.boot();
    machine.says("ready");
    let status = bench.told(&["status", "control"]).ok();
    assert_eq!(
        status,
        r#"{"version":1,"activity":"running","backend":"soft","memory_bytes":134217728,"cpus":1}"#
    );

    bench.told(&["pause", "control"]).ok();
    machine.types("first");
    assert!(machine.is_silent());
    let status = bench.told(&["status", "control"]).ok();
    assert!(status.contains(r#""activity":"paused""#), "{status}");
    bench.told(&["resume", "control"]).ok();
    machine.says("line 1 first");

    let none = bench.told(&["balloon", "control", "1M"]);
    none.complains(&[
        "the machine has no balloon",
        "hint: start it with --balloon 0",
    ]);
    bench.told(&["save", "control", "kept"]).ok();
    machine.types("second");
    machine.says("line 2 second");
    let not_a_folder = bench.told(&["save", "--stop", "control", "ramdisk"]);
    not_a_folder.complains(&["error: cannot make ramdisk"]);
    machine.types("third");
    machine.says("line 3 third");
    bench.told(&["save", "--stop", "control", "last"]).ok();
    machine.ends_with(0);
    assert!(!bench.path("control").exists());
    let gone = bench.told(&["status", "control"]);
    gone.complains(&["error: cannot reach a machine at control"]);

    // Two at once, from one file.
    let mut clones = [bench.restored("kept"), bench.restored("kept")];
    for (number, clone) in clones.iter_mut().enumerate() {
        clone.types(&format!("of {number}"));
        clone.says(&format!("line 2 of {number}"));
    }
    let mut last = bench.restored("last");
    last.types("reset");
    last.says("line 4 reset");
    last.ends_with(0);
    for mut clone in clones {
        clone.types("off");
        clone.says("line 3 off");
        clone.ends_with(0);
    }

    // What is no saved machine.
    let refused = |folder: &str, parts: &[&str]| {
        let mut command = bench.machine(&["restore", folder]);
        Ran::of(command.stdin(Stdio::null())).complains(parts);
    };
    refused("nothing", &["error: cannot read nothing/config.json"]);
    let state = bench.path("last/state.json");
    let text = fs::read(&state).unwrap();
    fs::write(&state, &text[..text.len() / 2]).unwrap();
    refused("last", &["error: cannot save or restore the machine"]);
    fs::write(&state, &text).unwrap();
    let memory = fs::File::options()
        .write(true)
        .open(bench.path("last/memory"));
    memory.unwrap().set_len(4096).unwrap();
    refused("last", &["its memory file has 4096 bytes"]);
    fs::remove_file(&state).unwrap();
    refused("last", &["error: cannot read", "state.json"]);
}

#[test]
fn bad_requests_are_answered_or_end_their_connection_and_nothing_else() {
    let bench = Bench::new();
    let mut machine = bench.boot();
    let control = bench.path("control");
    wait_for(&control);
    let answer = |bytes: &[u8]| {
        let mut socket = UnixStream::connect(&control).unwrap();
        // It may be closed in the middle.
        let _ = socket.write_all(bytes);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = socket.read_to_string(&mut answer);
        answer
    };
    machine.says("ready");
    let said = answer(b"garbage\n{\"do\":\"fly\"}\n{\"do\":\"save\"}\n{\"do\":\"status\"}\n");
    let said: Vec<_> = said.lines().collect();
    assert_eq!(said.len(), 4, "{said:#?}");
    assert!(
        said[0].starts_with(r#"{"error":{"message":"this is no request: "#),
        "{said:#?}"
    );
    assert!(said[1].contains("unknown variant `fly`"), "{said:#?}");
    assert!(
        said[2].contains("no folder came with the request"),
        "{said:#?}"
    );
    assert!(said[3].starts_with(r#"{"ok":"#), "{said:#?}");
    assert_eq!(answer(&[b'x'; 100_000]), "");
    assert_eq!(answer(b""), "");
    assert_eq!(answer(b"{\"do\":\"stop\"}"), "", "a line without its end");
    // Clients that stay keep others out only when there are 16.
    let idle: Vec<_> = (0..40)
        .map(|_| UnixStream::connect(&control).unwrap())
        .collect();
    machine.types("still");
    machine.says("line 1 still");
    drop(idle);
    while !answer(b"{\"do\":\"status\"}\n").starts_with(r#"{"ok":"#) {
        thread::sleep(Duration::from_millis(5));
    }
    bench.told(&["stop", "control"]).ok();
    machine.ends_with(0);
}
