//! `machine`.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use atoll_machine::{Backend, Disk, NetworkCard, Share, Sockets, VmmConfig, boot};

use crate::arguments::machine::{BackendChoice, BootArgs};
use crate::error::Error;
use crate::{kernels, values};

/// The first context ID a guest can have; each machine has sockets of its own.
const GUEST_CID: u64 = 3;

/// Becomes the monitor of a new machine: this process is replaced by `atoll-vmm`.
///
/// # Errors
/// Whatever keeps it from starting.
pub(crate) fn boot(args: &BootArgs) -> Result<u8, Error> {
    let (kernel, modules) = kernels::choose(args.kernel.as_deref())?;
    // Kept open without close-on-exec: the monitor reads it by its number.
    let ramdisk;
    let initrd = match &args.initrd {
        Some(path) => path.clone(),
        None => {
            let archive = kernels::initramfs(modules.as_deref())?;
            ramdisk = handed_on("initramfs", &archive.finish())?;
            by_number(&ramdisk)
        }
    };
    let config = VmmConfig {
        backend: match args.backend {
            BackendChoice::Auto => Backend::Auto,
            BackendChoice::Kvm => Backend::Kvm,
            BackendChoice::Soft => Backend::Soft,
        },
        kernel,
        kernel_store: kernels::store(),
        initrd: Some(initrd),
        command_line: command_line(&args.append),
        memory_bytes: memory(&args.memory)?,
        cpus: args.cpus,
        disks: args.disk.iter().map(|text| disk(text)).collect(),
        networks: args.net_tap.iter().map(|name| card(name)).collect(),
        sockets: args.vsock.as_deref().map(sockets),
        shares: shares(&args.share)?,
        balloon_bytes: args.balloon.as_deref().map(balloon).transpose()?,
        console: args.console.clone(),
        statistics: args.statistics,
    };
    let text = serde_json::to_vec(&config).map_err(|why| Error::io("write JSON")(why.into()))?;
    let config = handed_on("config", &text)?;
    let program = kernels::program("atoll-vmm")?;
    let failed = Command::new(&program)
        .arg("--config")
        .arg(by_number(&config))
        .exec();
    Err(Error::io(format!("run {}", program.display()))(failed))
}

fn command_line(words: &[String]) -> String {
    let mut line = boot::DEFAULT_COMMAND_LINE.to_owned();
    for words in words {
        line.push(' ');
        line.push_str(words);
    }
    line
}

fn memory(text: &str) -> Result<u64, Error> {
    let bytes = values::bytes("--memory", text)?;
    let invalid = || Error::value("--memory", text, "expected at least 16M");
    let bytes = u64::try_from(bytes).map_err(|_| invalid())?;
    if bytes < 16 << 20 {
        return Err(invalid());
    }
    Ok(bytes.next_multiple_of(4096))
}

fn disk(text: &str) -> Disk {
    let (path, read_only) = mode(text);
    Disk {
        path: PathBuf::from(path),
        read_only,
    }
}

/// What is before `,ro`, and whether that was there.
fn mode(text: &str) -> (&str, bool) {
    match text.strip_suffix(",ro") {
        Some(before) => (before, true),
        None => (text, false),
    }
}

fn card(tap: &str) -> NetworkCard {
    NetworkCard {
        tap: tap.to_owned(),
        mac: None,
        mtu: None,
    }
}

fn sockets(path: &Path) -> Sockets {
    Sockets {
        path: path.to_path_buf(),
        cid: GUEST_CID,
    }
}

fn shares(texts: &[String]) -> Result<Vec<Share>, Error> {
    texts.iter().map(|text| share(text)).collect()
}

fn share(text: &str) -> Result<Share, Error> {
    let (share, read_only) = mode(text);
    match share.rsplit_once(':') {
        Some((path, tag)) if !path.is_empty() && !tag.is_empty() => Ok(Share {
            path: PathBuf::from(path),
            tag: tag.to_owned(),
            read_only,
        }),
        _ => Err(Error::value("--share", text, "expected DIR:TAG[,ro]")),
    }
}

fn balloon(text: &str) -> Result<u64, Error> {
    let bytes = values::bytes("--balloon", text)?;
    u64::try_from(bytes).map_err(|_| Error::value("--balloon", text, "expected 0 or more"))
}

/// A file in memory that a program we become inherits.
fn handed_on(name: &str, contents: &[u8]) -> Result<File, Error> {
    let failed = || Error::io(format!("make a file in memory for {name}"));
    let fd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::empty())
        .map_err(|errno| failed()(errno.into()))?;
    let mut file = File::from(fd);
    file.write_all(contents).map_err(failed())?;
    Ok(file)
}

fn by_number(file: &File) -> PathBuf {
    Path::new("/proc/self/fd").join(file.as_raw_fd().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_values() {
        assert_eq!(memory("256M").unwrap(), 256 << 20);
        assert_eq!(memory("20000001").unwrap() % 4096, 0);
        assert!(memory("1M").is_err() && memory("x").is_err());
        assert!(disk("a,ro").read_only && !disk("a").read_only);
        assert_eq!(disk("a,b,ro").path, Path::new("a,b"));
        let shared = share("/a:b:tag,ro").unwrap();
        assert_eq!(shared.path, Path::new("/a:b"));
        assert_eq!((&shared.tag[..], shared.read_only), ("tag", true));
        assert!(share("/a").is_err() && share(":t").is_err() && share("/a:,ro").is_err());
        assert_eq!(balloon("1M").unwrap(), 1 << 20);
        let line = command_line(&["quiet".to_owned(), "-- /bin/sh".to_owned()]);
        assert!(line.starts_with("console=ttyS0 ") && line.ends_with(" quiet -- /bin/sh"));
    }
}
