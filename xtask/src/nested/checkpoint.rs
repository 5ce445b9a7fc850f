//! Proves checkpoint and restore with a distribution's CRIU under that distribution's kernel: CRIU follows kernels, and
//! that of the host may be too new for the one installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::archive::Archive;
use super::{Kernel, Payload, prove, read, shipped};

/// Programs of the host's: CRIU, what it packs files in memory with, and who asks the shim for checkpoints.
const PROGRAMS: [&str; 4] = [
    "/usr/sbin/criu",
    "/bin/tar",
    "/usr/bin/containerd",
    "/usr/bin/ctr",
];
/// Modules of what CRIU looks for at its start, and by which it asks for sockets; below the kernel's folder, in this order.
const MODULES: [&str; 15] = [
    "lib/libcrc32c.ko",
    "net/netfilter/nfnetlink.ko",
    "net/netfilter/nf_tables.ko",
    "net/ipv4/netfilter/nf_defrag_ipv4.ko",
    "net/ipv6/netfilter/nf_defrag_ipv6.ko",
    "net/netfilter/nf_conntrack.ko",
    "net/netfilter/nf_conntrack_netlink.ko",
    "drivers/net/veth.ko",
    "drivers/net/tun.ko",
    "net/unix/unix_diag.ko",
    "net/ipv4/inet_diag.ko",
    "net/ipv4/tcp_diag.ko",
    "net/ipv4/udp_diag.ko",
    "net/packet/af_packet_diag.ko",
    "net/netlink/netlink_diag.ko",
];

/// Runs a container in the emulated machine, writes it into files, and makes it go on; the same for containerd.
pub(crate) fn checkpoint() -> Result<()> {
    let mut archive = Archive::default();
    for folder in ["sbin", "new"] {
        archive.folder(folder);
    }
    archive.program("checkpoint.sh", include_bytes!("checkpoint.sh"));
    archive.program("await.sh", include_bytes!("checkpoint_await.sh"));
    archive.program("inside.sh", include_bytes!("checkpoint_inside.sh"));
    archive.program("containerd.sh", include_bytes!("checkpoint_containerd.sh"));
    let program = read(&shipped("atoll-runtime")?)?;
    for name in [
        "atoll-runtime",
        "containerd-shim-atoll-v2",
        "containerd-shim-runc-v2",
    ] {
        archive.program(&format!("sbin/{name}"), &program);
    }
    for program in PROGRAMS {
        add(&mut archive, program)
            .with_context(|| format!("hint: install the package that has {program}"))?;
    }
    let payload = Payload {
        archive,
        modules: &MODULES,
        kernel_words: "",
        command: "exec /bin/busybox sh /checkpoint.sh",
        proof: "checkpoint: containerd's task went on where it was",
    };
    prove(&Kernel::find()?, payload)?;
    Ok(())
}

/// Adds a program to `sbin` and the libraries it needs to where they are.
fn add(archive: &mut Archive, program: &str) -> Result<()> {
    let path = Path::new(program);
    let name = path.file_name().and_then(std::ffi::OsStr::to_str);
    let name = name.context("programs have names")?;
    archive.program(&format!("sbin/{name}"), &read(path)?);
    for library in libraries(path)? {
        for folder in library.ancestors().skip(1).collect::<Vec<_>>().iter().rev() {
            if let Some(folder) = inside(folder).filter(|folder| !folder.is_empty()) {
                archive.folder(folder);
            }
        }
        let name = inside(&library).context("libraries have absolute paths")?;
        archive.program(name, &read(&library)?);
    }
    Ok(())
}

/// A path of the host in the archive.
fn inside(path: &Path) -> Option<&str> {
    path.to_str()?.strip_prefix('/')
}

/// The libraries of `program` and the loader, by the loader.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output();
    let output = output.context("cannot start ldd")?;
    ensure!(
        output.status.success(),
        "ldd fails for {}",
        program.display()
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.split_whitespace();
    Ok(words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}
