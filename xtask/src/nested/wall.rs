//! Proves the wall of a machine on KVM: `atoll-runtime` runs containers behind it inside the emulated machine, the first
//! in a machine that boots, the others in copies of it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, Result};

use super::archive::Archive;
use super::machine::uncompressed;
use super::{BUSYBOX, KVM_MODULES, Kernel, Payload, prove, read, shipped};

/// Modules that a guest of ours needs (`isolation/machine`, `DEFAULT_MODULES`).
const GUEST_MODULES: [&str; 10] = [
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "virtio_balloon",
    "virtio_console",
    "vmw_vsock_virtio_transport",
    "overlay",
    "erofs",
    "virtiofs",
];
/// What a container in a machine needs of ours.
const PROGRAMS: [&str; 3] = ["atoll-runtime", "atoll-vmm", "atoll-guest"];
/// Where uncompressed kernels are kept: uncompressing one in the emulated machine would take seconds.
const UNCOMPRESSED: &str = "var/atoll/kernels/uncompressed";
/// Lists in a kernel's folder that modules are found by.
const LISTS: [&str; 2] = ["modules.dep", "modules.builtin"];

/// Runs containers in machines on KVM inside the emulated machine.
pub(crate) fn wall() -> Result<()> {
    let kernel = Kernel::find()?;
    let mut archive = Archive::default();
    for folder in [
        "boot",
        "sbin",
        "bundle",
        "bundle/rootfs",
        "bundle/rootfs/bin",
        "var",
        "var/atoll",
        "var/atoll/kernels",
        UNCOMPRESSED,
    ] {
        archive.folder(folder);
    }
    for name in PROGRAMS {
        archive.program(&format!("sbin/{name}"), &read(&shipped(name)?)?);
    }
    archive.file("boot/vmlinuz", &read(&kernel.image)?);
    let image = uncompressed(&shipped("atoll-vmm")?, &kernel.image)?;
    let name = image.file_name().and_then(OsStr::to_str);
    let name = name.context("kernels have names")?;
    archive.file(&format!("{UNCOMPRESSED}/{name}"), &read(&image)?);
    add_modules(&mut archive, &kernel)?;
    archive.program("bundle/rootfs/bin/busybox", &read(Path::new(BUSYBOX))?);
    for name in ["sh", "hostname", "sleep", "cat"] {
        archive.link(&format!("bundle/rootfs/bin/{name}"), "busybox");
    }
    // With `noxsave` for the reason that the proof of the monitor has it.
    archive.file("bundle/config.json", include_bytes!("wall.json"));
    archive.program("wall.sh", include_bytes!("wall.sh"));
    let payload = Payload {
        archive,
        modules: &KVM_MODULES,
        kernel_words: "",
        command: "/wall.sh",
        proof: "wall: three containers ran in machines on KVM",
    };
    prove(&kernel, payload)?;
    Ok(())
}

/// The guest's modules and what they need, where a distribution has them.
fn add_modules(archive: &mut Archive, kernel: &Kernel) -> Result<()> {
    let folder = kernel.modules.parent().context("modules have a folder")?;
    let release = folder.file_name().and_then(OsStr::to_str);
    let root = format!("lib/modules/{}", release.context("kernels have names")?);
    let mut folders = BTreeSet::from(["lib".to_owned(), "lib/modules".to_owned(), root.clone()]);
    let lists: Vec<_> = LISTS
        .iter()
        .map(|name| read(&folder.join(name)))
        .collect::<Result<_>>()?;
    let files = needed(&String::from_utf8_lossy(&lists[0]));
    for file in &files {
        for above in Path::new(file).ancestors().skip(1) {
            folders.insert(
                Path::new(&root)
                    .join(above)
                    .to_string_lossy()
                    .trim_end_matches('/')
                    .to_owned(),
            );
        }
    }
    for folder in &folders {
        archive.folder(folder);
    }
    for (name, list) in LISTS.iter().zip(&lists) {
        archive.file(&format!("{root}/{name}"), list);
    }
    for file in &files {
        archive.file(&format!("{root}/{file}"), &read(&folder.join(file))?);
    }
    Ok(())
}

/// Files of [`GUEST_MODULES`] and of what they need, by modules.dep(5).
fn needed(list: &str) -> BTreeSet<String> {
    let is_wanted = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        let name = name.split('.').next().unwrap_or(name).replace('-', "_");
        GUEST_MODULES.contains(&name.as_str())
    };
    let lines = list.lines().filter_map(|line| line.split_once(':'));
    let wanted = lines.filter(|(path, _)| is_wanted(path));
    wanted
        .flat_map(|(path, needs)| std::iter::once(path).chain(needs.split_whitespace()))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_with_what_they_need() {
        let list = "kernel/fs/fuse/virtiofs.ko: kernel/fs/fuse/fuse.ko\nkernel/fs/ext4.ko:\n\
                    kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko.xz: kernel/a.ko kernel/b.ko\n";
        let found: Vec<_> = needed(list).into_iter().collect();
        assert_eq!(
            found,
            [
                "kernel/a.ko",
                "kernel/b.ko",
                "kernel/fs/fuse/fuse.ko",
                "kernel/fs/fuse/virtiofs.ko",
                "kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko.xz",
            ]
        );
    }
}
