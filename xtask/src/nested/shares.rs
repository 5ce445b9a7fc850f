//! Proves shares of caches and memory bandwidth under a distribution's kernel. No machine of ours has the hardware and QEMU
//! emulates none: it is our own CPU in software that says it can share a cache out, as a feature of the build.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::{Kernel, Payload, build, folder, prove_by, runtime_tests, said, write};

/// With resctrl.
const SCRIPT: &str = "busybox mount -t resctrl none sys/fs/resctrl
busybox mount --move . /
exec busybox chroot . /test resctrl:: --ignored --test-threads=1
";

/// For the guest of our own CPU.
const APPEND: &str = "console=ttyS0 quiet panic=-1 cryptomgr.notests";

/// Runs the runtime's tests of shares inside a machine of ours.
pub(crate) fn share_tests() -> Result<()> {
    // What is shipped has been copied to a place of its own.
    let arguments = [
        "build",
        "--profile",
        "dist",
        "-p",
        "atoll-machine",
        "--bin",
        "atoll-vmm",
        "--features",
        "resctrl",
    ];
    let monitor = build(&arguments, "atoll-vmm")?;
    let archive = runtime_tests(SCRIPT)?;
    let payload = Payload {
        archive,
        modules: &[],
        kernel_words: "",
        command: "/run",
        proof: "test result: ok",
    };
    let boot = |kernel: &Path, initrd: &Path, _: &str, console: &Path| {
        boot(&monitor, kernel, initrd, console)
    };
    prove_by(&boot, &Kernel::find()?, payload)?;
    Ok(())
}

/// Runs a machine until it powers off; what its console said.
fn boot(monitor: &Path, kernel: &Path, initrd: &Path, console: &Path) -> Result<String> {
    let config = format!(
        "{{\"backend\": \"soft\", \"kernel\": \"{}\", \"kernel_store\": \"{}\", \"initrd\": \"{}\", \
         \"command_line\": \"{APPEND}\", \"memory_bytes\": {}, \"cpus\": 1}}",
        kernel.display(),
        folder()?.join("kernels").display(),
        initrd.display(),
        512 << 20,
    );
    let path = folder()?.join("config");
    write(&path, config.as_bytes())?;
    let output = File::create(console).context("cannot make the console's file")?;
    let mut machine = Command::new(monitor);
    machine
        .arg("--config")
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(Stdio::piped());
    println!("+ {machine:?}");
    said(machine.spawn().context("cannot start atoll-vmm")?, console)
}
