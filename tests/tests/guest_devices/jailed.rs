//! The same guest in a monitor of its own, which is jailed: `atoll-vmm`, as `cargo xtask dist` builds it.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use atoll_machine::protocol::{Client, Request};
use atoll_machine::{Backend, BootSource, Jail, Source, VmmConfig};
use atoll_tests::programs;

use super::guest::{self, Transcript};
use super::host::Host;

/// A process that ends with the test.
pub(crate) struct Monitor {
    child: Child,
    /// To the guest's console.
    pub(crate) input: ChildStdin,
    /// From it.
    pub(crate) transcript: Transcript,
}

impl Monitor {
    /// Starts `atoll-vmm` with `config`, in its jail, by `spawn`.
    pub(crate) fn start(
        config: &VmmConfig,
        folder: &Path,
        spawn: impl FnOnce(&mut Command) -> Child,
    ) -> Self {
        let file = folder.join("config");
        fs::write(&file, serde_json::to_vec(config).unwrap()).unwrap();
        let mut program = Command::new(programs::ours("atoll-vmm"));
        program.arg("--config").arg(&file);
        program.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(&mut program);
        let input = child.stdin.take().unwrap();
        let mut output = child.stdout.take().unwrap();
        let transcript = Transcript::default();
        let mut writer = transcript.clone();
        std::thread::spawn(move || io::copy(&mut output, &mut writer));
        Self {
            child,
            input,
            transcript,
        }
    }

    /// Waits for the end of the machine, which is to be a good one.
    pub(crate) fn ends_well(mut self) {
        let text = self.transcript.text();
        assert!(self.child.wait().unwrap().success(), "{text}");
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_device_works_from_inside_the_jail() {
    programs::require_root();
    let folder = tempfile::tempdir().unwrap();
    let mut host = Host::new(folder.path());
    let initrd = folder.path().join("initrd");
    fs::write(&initrd, super::ramdisk(folder.path(), &host).finish()).unwrap();
    let control = folder.path().join("c/control");
    fs::create_dir(folder.path().join("c")).unwrap();
    let config = VmmConfig {
        backend: Backend::Soft,
        source: Source::Boot(BootSource {
            protocol: None,
            kernel: guest::kernel().kernel,
            kernel_store: guest::store(),
            initrd: Some(initrd),
            command_line: guest::command_line(),
            memory_bytes: 256 << 20,
            cpus: 2,
        }),
        console: Some(host.console_terminal()),
        balloon_bytes: Some(0),
        control: Some(control.clone()),
        jail: Jail::On,
        ..host.config()
    };
    let mut monitor = Monitor::start(&config, folder.path(), |program| host.spawn(program));
    host.await_tap();
    host.serve_network();
    let id = monitor.child.id();
    let transcript = monitor.transcript.clone();
    super::converse(&transcript, super::CHECKS, |name| {
        if name == "fs-seen" {
            look_at(id);
        }
        match name {
            "balloon-inflate" => blow(&control, 64 << 20),
            "balloon-deflate" => blow(&control, 0),
            _ => {}
        }
        let answer = super::said(host.act(name, None));
        writeln!(monitor.input, "{answer}").unwrap();
    });
    monitor.ends_well();
    assert!(!folder.path().join("vsock").exists());
    assert!(!control.exists());
}

/// Has the guest give `bytes` to its balloon in all.
fn blow(control: &Path, bytes: u64) {
    let mut monitor = Client::connect(control).unwrap();
    let mut status = monitor.ask(Request::Balloon { bytes }, None).unwrap();
    while status.balloon_bytes != Some(bytes) {
        std::thread::sleep(Duration::from_millis(20));
        status = monitor.ask(Request::Status, None).unwrap();
    }
}

/// What the monitor of this guest has kept: the sockets' folders in sight, rights over files.
fn look_at(id: u32) {
    let of = |name: &str| format!("/proc/{id}/{name}");
    let root = fs::read_dir(of("root")).unwrap();
    let mut names: Vec<_> = root.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["control", "sockets"]);
    let status = fs::read_to_string(of("status")).unwrap();
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID.
    for line in [
        "CapEff:\t000000000000001b",
        "CapBnd:\t000000000000001b",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "no {line:?} in\n{status}");
    }
}
