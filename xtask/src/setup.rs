//! Installs the outside programs that the tests drive.

use std::process::Command;

use anyhow::Result;

use crate::shell;

/// Debian and Ubuntu packages, each with the program that shows it is installed.
const PACKAGES: &[(&str, &str)] = &[
    ("apparmor", "/usr/sbin/apparmor_parser"),
    ("busybox-static", "/bin/busybox"),
    ("checkpolicy", "/usr/bin/checkpolicy"),
    ("containerd", "/usr/bin/containerd"),
    ("containernetworking-plugins", "/usr/lib/cni/ptp"),
    ("criu", "/usr/sbin/criu"),
    ("docker.io", "/usr/sbin/dockerd"),
    ("docker-compose", "/usr/bin/docker-compose"),
    ("docker-registry", "/usr/bin/docker-registry"),
    ("erofs-utils", "/usr/bin/fsck.erofs"),
    ("fdisk", "/usr/sbin/sfdisk"),
    ("gdisk", "/usr/sbin/sgdisk"),
    ("iproute2", "/sbin/ip"),
    ("nftables", "/usr/sbin/nft"),
    ("podman", "/usr/bin/podman"),
    ("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
    ("runc", "/usr/sbin/runc"),
    ("skopeo", "/usr/bin/skopeo"),
    ("uidmap", "/usr/bin/newuidmap"),
    ("util-linux", "/usr/bin/script"),
    ("xz-utils", "/usr/bin/xz"),
    ("zstd", "/usr/bin/zstd"),
];

/// Installs what is missing; does nothing, and needs no root, when all is there.
pub(crate) fn install() -> Result<()> {
    let mut missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(_, program)| !std::path::Path::new(program).exists())
        .map(|(package, _)| *package)
        .collect();
    if !docker_cli_is_installed() {
        missing.push("docker-cli");
    }
    if !cloud_kernel_is_installed() {
        missing.push("linux-image-cloud-amd64");
    }
    if missing.is_empty() {
        println!("setup: everything is installed");
        return Ok(());
    }
    shell::require_root("installing packages")?;
    shell::run(&mut shell::command("apt-get", &["update"]))?;
    // Debian 12 has the CLI inside docker.io; newer releases have it apart.
    let installable: Vec<&str> = missing.into_iter().filter(|name| is_known(name)).collect();
    let mut apt = shell::command("apt-get", &["install", "-y", "--no-install-recommends"]);
    apt.args(installable)
        .env("DEBIAN_FRONTEND", "noninteractive");
    // A package's service must not start: the tests run their own private daemons.
    apt.env("RUNLEVEL", "1");
    shell::run(&mut apt)
}

/// Debian's kernel for virtual machines: the reference guest, and the host of `nested-kvm`.
fn cloud_kernel_is_installed() -> bool {
    std::fs::read_dir("/boot").is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                name.starts_with("vmlinuz-") && name.ends_with("cloud-amd64")
            })
        })
    })
}

fn docker_cli_is_installed() -> bool {
    Command::new("docker")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

fn is_known(package: &str) -> bool {
    Command::new("apt-cache")
        .args(["show", package])
        .output()
        .is_ok_and(|output| output.status.success())
}
