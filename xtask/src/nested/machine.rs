//! The second proof: our monitor boots the stock kernel to its user space, on KVM, inside the emulated machine, saves and
//! restores it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::archive::Archive;
use super::restoring;
use super::{BUSYBOX, KVM_MODULES, Kernel, Payload, folder, prove, read, shipped, write};

/// What the guest's init says when it runs.
const READY: &str = "ATOLL-GUEST ready";

/// For the inner guest: QEMU before 9.1 lets a guest's XSETBV pass its hypervisor, so that XSAVE and the hypervisor
/// disagree about the state; `noxsave` keeps Linux from it. `reboot=t` resets by a triple fault.
const APPEND: &str = "console=ttyS0 quiet reboot=t panic=-1 cryptomgr.notests noxsave";

/// How many CPUs the machines of the proof have, one after the other. With several, Linux gives up the TSC of a processor
/// like the emulated one at once (arch/x86/kernel/tsc.c, `unsynchronized_tsc`); with one it watches it.
const CPUS: [u8; 2] = [2, 1];

/// Boots the cloud kernel in `atoll-vmm` inside the emulated machine, saves, restores and powers it off.
pub(crate) fn boot_machine() -> Result<()> {
    let program = shipped("atoll-vmm")?;
    let kernel = Kernel::find()?;
    let (monitor, image) = (read(&program)?, uncompressed(&program, &kernel.image)?);
    for cpus in CPUS {
        let payload = payload(&kernel, &monitor, &read(&image)?, cpus)?;
        let console = prove(&kernel, payload)?;
        restoring::check(&console, cpus == 1)
            .with_context(|| format!("the machine with {cpus} CPUs"))?;
    }
    Ok(())
}

/// The monitor, a guest of `cpus` CPUs with the kernel `image`, and the script that runs them.
fn payload(kernel: &Kernel, monitor: &[u8], image: &[u8], cpus: u8) -> Result<Payload> {
    let mut archive = Archive::default();
    archive.program("atoll-vmm", monitor);
    archive.file("vmlinux", image);
    archive.file("guest", &guest(kernel)?);
    archive.file("disk", &restoring::content(1));
    archive.folder("share");
    archive.file("share/data", &restoring::content(2));
    archive.file(
        "config",
        config("auto", "/vmlinux", "/tmp", "/guest", 128 << 20, cpus).as_bytes(),
    );
    for (name, backend) in [("restore", "kvm"), ("other", "soft")] {
        let text = format!(
            "{{\"restore\": \"/saved\", \"backend\": \"{backend}\", {}}}",
            restoring::DEVICES
        );
        archive.file(name, text.as_bytes());
    }
    archive.program("script", restoring::host_script(READY).as_bytes());
    Ok(Payload {
        archive,
        modules: &KVM_MODULES,
        kernel_words: "",
        command: "/script",
        proof: READY,
    })
}

/// The guest's root.
fn guest(kernel: &Kernel) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "modules", "proc", "share", "sys"] {
        archive.folder(folder);
    }
    archive.program("bin/busybox", &read(Path::new(BUSYBOX))?);
    for (number, module) in restoring::GUEST_MODULES.iter().enumerate() {
        archive.file(&format!("modules/{number}.ko"), &kernel.module(module)?);
    }
    archive.program("init", restoring::guest_init(READY).as_bytes());
    Ok(archive.finish())
}

/// The kernel out of its `image`: unpacking it in the emulated machine would take seconds. `program` does it when told
/// to boot it, before it finds that a page of memory is not enough.
pub(super) fn uncompressed(program: &Path, image: &Path) -> Result<PathBuf> {
    let folder = folder()?;
    let store = folder.join("kernels");
    if store.exists() {
        fs::remove_dir_all(&store).with_context(|| format!("cannot clear {}", store.display()))?;
    }
    let file = folder.join("config");
    let text = config(
        "soft",
        &image.to_string_lossy(),
        &store.to_string_lossy(),
        "",
        4096,
        1,
    );
    write(&file, text.as_bytes())?;
    let output = Command::new(program)
        .arg("--config")
        .arg(&file)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let kernels = fs::read_dir(&store).map(|entries| entries.filter_map(Result::ok));
    let kernel = kernels.ok().and_then(|mut entries| entries.next());
    let kernel = kernel.with_context(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!(
            "atoll-vmm took no kernel out of {}: {said}",
            image.display()
        )
    })?;
    Ok(kernel.path())
}

/// What `atoll-vmm` is told; neither `initrd` nor devices when that is empty.
fn config(
    backend: &str,
    kernel: &str,
    store: &str,
    initrd: &str,
    memory_bytes: u64,
    cpus: u8,
) -> String {
    let initrd = match initrd {
        "" => String::new(),
        path => format!("\"initrd\": \"{path}\", {}, ", restoring::DEVICES),
    };
    format!(
        "{{\"backend\": \"{backend}\", \"kernel\": \"{kernel}\", \"kernel_store\": \"{store}\", {initrd}\
         \"command_line\": \"{APPEND}\", \"memory_bytes\": {memory_bytes}, \"cpus\": {cpus}, \"statistics\": true}}"
    )
}
