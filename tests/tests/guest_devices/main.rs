//! The distribution's kernel drives every virtio device, on the CPU in software. Needs root, /dev/net/tun, and what
//! `cargo xtask setup` installs.
//!
//! ```text
//! start.sh and init.sh in the guest: ok NAME | bad NAME why | do NAME ─► console ─► test ─► Host::act ─► good | why ─► guest
//! ```
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that meets an error fails, and tells how far it came"
)]

mod guest;
mod host;
mod jailed;
mod layers;
mod overlay;

use std::path::Path;

use atoll_machine::initramfs::Archive;
use atoll_machine::kernel::Protocol;
use atoll_machine::{End, MachineError};
use sha2::{Digest, Sha256};

use guest::{Shape, Transcript};
use host::Host;

const MODULES: &[&str] = &[
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "virtio_balloon",
    "virtio_console",
    "vmw_vsock_virtio_transport",
    "virtiofs",
    "ext4",
    "erofs",
    "overlay",
];

/// What the guest must have found well.
const CHECKS: &[&str] = &[
    "block-read",
    "block-long-read",
    "block-write",
    "block-written",
    "block-read-only",
    "block-ext4",
    "block-layers",
    "rng",
    "console",
    "net-ping",
    "net-ping-from-host",
    "net-tcp",
    "net-tcp-from-host",
    "vsock-send",
    "vsock-echo",
    "vsock-refused",
    "fs-mount",
    "fs-mount-locked",
    "fs-large-read",
    "fs-large-write",
    "fs-mmap-exec",
    "fs-names",
    "fs-many",
    "fs-seen",
    "fs-sees-host",
    "fs-escape",
    "fs-read-only",
    "balloon-use",
    "balloon-before",
    "balloon-inflate",
    "balloon-deflate",
    "balloon-use-again",
    "block-again",
    "block-layers-again",
    "net-again",
    "vsock-again",
    "fs-again",
    "rng-again",
];

/// What is being done when the machine is saved, dropped, and restored with other host ends: once with drivers that have
/// only begun, once with all of them in use.
const SAVED_AT: &[&str] = &["block-written", "fs-seen"];

#[test]
fn a_stock_kernel_drives_every_device_is_saved_and_restored_and_powers_off() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = Host::new(folder.path());
    let devices = host.devices();
    let archive = ramdisk(folder.path(), &host);
    let shape = Shape {
        cpus: 2,
        bytes: 256 << 20,
        protocol: Protocol::Linux,
    };
    let (machine, transcript) = guest::start(&shape, devices, archive);
    let mut machine = Some(machine);
    converse(&transcript, CHECKS, |name| {
        let answer = host.act(name, machine.as_ref());
        if SAVED_AT.contains(&name) {
            let saved = folder.path().join(format!("saved-{name}"));
            guest::save(machine.take().unwrap(), &saved);
            machine = Some(guest::restore(&saved, host.devices(), &transcript));
        }
        let line = format!("{}\n", said(answer));
        machine.as_ref().unwrap().input(line.as_bytes());
    });
    assert_eq!(machine.unwrap().wait().unwrap(), End::PowerOff);
}

/// The ramdisk with the script that tries all devices.
fn ramdisk(folder: &Path, host: &Host) -> Archive {
    let script = concat!(include_str!("start.sh"), include_str!("init.sh"));
    let mut archive = guest::ramdisk(folder, script, MODULES);
    guest::add_program(&mut archive, "guest-peer", env!("CARGO_BIN_EXE_guest-peer"));
    let sum = Sha256::digest(&host.pattern[..1 << 20]);
    let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    archive.file("pattern.sha256", 0o644, sum.as_bytes());
    archive
}

/// What the guest is told of an act's outcome.
fn said(outcome: Result<(), String>) -> String {
    outcome.err().unwrap_or_else(|| "good".to_owned())
}

/// Reads what the guest says until it has tried everything, lets `act` do and answer what it asks for, and checks that
/// all was well.
fn converse(transcript: &Transcript, checks: &[&str], mut act: impl FnMut(&str)) {
    let mut good = Vec::new();
    let mut bad = Vec::new();
    let started = std::time::Instant::now();
    for index in 0.. {
        let line = transcript.line(index);
        println!("{:6.2} s {line}", started.elapsed().as_secs_f64());
        match line.split_once(' ') {
            Some(("ok", name)) => good.push(name.to_owned()),
            Some(("bad", _)) => bad.push(line),
            Some(("do", name)) => act(name),
            _ if line == "done" => break,
            _ => {}
        }
    }
    let text = transcript.text();
    assert!(bad.is_empty(), "{bad:#?}\nof all:\n{text}");
    assert_eq!(good, checks, "{text}");
}

/// Runs `script` as the guest's only process to the end of its machine.
fn run(shape: &Shape, script: &str) -> (Result<End, MachineError>, String) {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "#!/bin/busybox sh\n\
         /bin/busybox mkdir -p /proc\n\
         /bin/busybox mount -t proc proc /proc\n\
         {script}\n"
    );
    let archive = guest::ramdisk(folder.path(), &script, &[]);
    let (machine, transcript) = guest::start(shape, Vec::new(), archive);
    (machine.wait(), transcript.text())
}

const SMALL: Shape = Shape {
    cpus: 1,
    bytes: 128 << 20,
    protocol: Protocol::Linux,
};

#[test]
fn a_reboot_is_a_reset() {
    let (end, text) = run(&SMALL, "/bin/busybox echo up; /bin/busybox reboot -f");
    assert_eq!(end.unwrap(), End::Reset, "{text}");
    assert!(text.contains("up\r\n"), "{text}");
}

#[test]
fn a_panic_is_told_with_the_kernels_last_lines() {
    let (end, text) = run(&SMALL, "echo c > /proc/sysrq-trigger");
    let Err(MachineError::Dead { reason, console }) = end else {
        panic!("{end:?}: {text}");
    };
    assert_eq!(reason, "Kernel panic - not syncing: sysrq triggered crash");
    assert!(
        console
            .iter()
            .any(|line| line.contains("sysrq_handle_crash")),
        "{console:#?}"
    );
}

#[test]
fn two_cpus_and_memory_on_both_sides_of_the_hole_are_used() {
    let shape = Shape {
        cpus: 2,
        bytes: 3584 << 20,
        protocol: Protocol::Linux,
    };
    let script = "/bin/busybox echo cpus $(/bin/busybox nproc)\n\
                  /bin/busybox grep MemTotal /proc/meminfo\n\
                  /bin/busybox taskset 1 /bin/busybox true && /bin/busybox taskset 2 /bin/busybox echo both\n\
                  /bin/busybox poweroff -f";
    let (end, text) = run(&shape, script);
    assert_eq!(end.unwrap(), End::PowerOff, "{text}");
    assert!(
        text.contains("cpus 2\r\n") && text.contains("both\r\n"),
        "{text}"
    );
    let total = text.split_once("MemTotal:").unwrap().1;
    let total: u64 = total.split_whitespace().next().unwrap().parse().unwrap();
    assert!(total > 3_400_000, "{total} KiB");
}

#[test]
fn a_stock_kernel_starts_at_its_pvh_entry() {
    let shape = Shape {
        cpus: 2,
        protocol: Protocol::Pvh,
        ..SMALL
    };
    let script = "/bin/busybox echo loader $(/bin/busybox cat /proc/sys/kernel/bootloader_type)\n\
                  /bin/busybox echo cpus $(/bin/busybox nproc)\n\
                  /bin/busybox poweroff -f";
    let (end, text) = run(&shape, script);
    assert_eq!(end.unwrap(), End::PowerOff, "{text}");
    // Linux notes QEMU as the loader of whatever enters it so outside Xen.
    assert!(text.contains("loader 176\r\n"), "{text}");
    assert!(text.contains("cpus 2\r\n"), "{text}");
}
