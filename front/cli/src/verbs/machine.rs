//! `machine`.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use atoll_machine::kernel::Protocol;
use atoll_machine::protocol::{Client, Request, Status};
use atoll_machine::{
    Backend, BootSource, Disk, Jail, NetworkCard, Share, Sockets, Source, VmmConfig, boot, host,
};

use crate::arguments::machine::{
    BackendChoice, BootArgs, ControlArgs, HostArgs, JailChoice, MachineVerb, ProtocolChoice,
    RestoreArgs, SaveArgs,
};
use crate::error::Error;
use crate::{print, values};

/// The first context ID a guest can have; each machine has sockets of its own.
const GUEST_CID: u64 = 3;

/// Does what `verb` says.
///
/// # Errors
/// Whatever keeps it from being done.
pub(crate) fn perform(verb: &MachineVerb) -> Result<u8, Error> {
    let told = |args: &ControlArgs, request| ask(&args.control, request).map(|_| 0);
    match verb {
        MachineVerb::Boot(args) => boot(args),
        MachineVerb::Restore(args) => restore(args),
        MachineVerb::Save(args) => save(args),
        MachineVerb::Pause(args) => told(args, Request::Pause),
        MachineVerb::Resume(args) => told(args, Request::Resume),
        MachineVerb::Balloon(args) => {
            let bytes = balloon(&args.bytes)?;
            ask(&args.control, Request::Balloon { bytes }).map(|_| 0)
        }
        MachineVerb::Stop(args) => told(args, Request::Stop),
        MachineVerb::Status(args) => status(args),
    }
}

/// Becomes the monitor of a new machine: this process is replaced by `atoll-vmm`.
///
/// # Errors
/// Whatever keeps it from starting.
fn boot(args: &BootArgs) -> Result<u8, Error> {
    let (kernel, modules) = host::choose(args.kernel.as_deref())?;
    // Kept open without close-on-exec: the monitor reads it by its number.
    let ramdisk;
    let initrd = match &args.initrd {
        Some(path) => path.clone(),
        None => {
            let archive = host::initramfs(modules.as_deref())?;
            ramdisk = handed_on("initramfs", &archive.finish())?;
            by_number(&ramdisk)
        }
    };
    let mut config = VmmConfig {
        backend: Backend::Auto,
        source: Source::Boot(BootSource {
            kernel,
            protocol: args.boot_protocol.map(|choice| match choice {
                ProtocolChoice::Linux => Protocol::Linux,
                ProtocolChoice::Pvh => Protocol::Pvh,
            }),
            kernel_store: host::store(),
            initrd: Some(initrd),
            command_line: command_line(&args.append),
            memory_bytes: memory(&args.memory)?,
            cpus: args.cpus,
        }),
        disks: Vec::new(),
        networks: Vec::new(),
        spare_cards: 0,
        sockets: None,
        shares: Vec::new(),
        balloon_bytes: None,
        console: None,
        control: None,
        statistics: false,
        jail: Jail::default(),
    };
    attach(&mut config, &args.host)?;
    become_monitor(&config)
}

/// Becomes the monitor of a machine that goes on where it was saved.
fn restore(args: &RestoreArgs) -> Result<u8, Error> {
    let mut config = VmmConfig::of_saved(&args.folder)?;
    config.statistics = false;
    // The saved machine may live on and listen there.
    config.control = None;
    attach(&mut config, &args.host)?;
    become_monitor(&config)
}

/// Gives the machine what the flags name; kinds that they do not name stay.
fn attach(config: &mut VmmConfig, args: &HostArgs) -> Result<(), Error> {
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(Error::io(format!("find {}", path.display())))
    };
    match args.backend {
        None => {}
        Some(BackendChoice::Auto) => config.backend = Backend::Auto,
        Some(BackendChoice::Kvm) => config.backend = Backend::Kvm,
        Some(BackendChoice::Soft) => config.backend = Backend::Soft,
    }
    if !args.disk.is_empty() || !args.layers.is_empty() {
        config.disks = disks(&args.disk, &args.layers, absolute)?;
    }
    if !args.net_tap.is_empty() {
        config.networks = args.net_tap.iter().map(|name| card(name)).collect();
    }
    if let Some(path) = &args.vsock {
        config.sockets = Some(sockets(&absolute(path)?));
    }
    if !args.share.is_empty() {
        config.shares = shares(&args.share)?;
        for share in &mut config.shares {
            share.path = absolute(&share.path)?;
        }
    }
    if let Some(text) = &args.balloon {
        config.balloon_bytes = Some(balloon(text)?);
    }
    if let Some(path) = &args.console {
        config.console = Some(absolute(path)?);
    }
    if let Some(path) = &args.control {
        config.control = Some(absolute(path)?);
    }
    config.statistics |= args.statistics;
    match args.jail {
        None => {}
        Some(JailChoice::On) => config.jail = Jail::On,
        Some(JailChoice::Filter) => config.jail = Jail::Filter,
        Some(JailChoice::Log) => config.jail = Jail::Log,
        Some(JailChoice::Off) => config.jail = Jail::Off,
    }
    Ok(())
}

fn become_monitor(config: &VmmConfig) -> Result<u8, Error> {
    let text = serde_json::to_vec(config).map_err(|why| Error::io("write JSON")(why.into()))?;
    let config = handed_on("config", &text)?;
    let program = host::program("atoll-vmm")?;
    let failed = Command::new(&program)
        .arg("--config")
        .arg(by_number(&config))
        .exec();
    Err(Error::io(format!("run {}", program.display()))(failed))
}

/// Saves a machine.
fn save(args: &SaveArgs) -> Result<u8, Error> {
    let failed = || Error::io(format!("make {}", args.folder.display()));
    std::fs::create_dir_all(&args.folder).map_err(failed())?;
    let folder = File::open(&args.folder).map_err(failed())?;
    let mut monitor = Client::connect(&args.control)?;
    if args.stop {
        // What the guest does after it was saved would be lost.
        monitor.ask(Request::Pause, None)?;
    }
    let saved = monitor.ask(Request::Save, Some(folder.as_fd()));
    if args.stop {
        let then = if saved.is_ok() {
            Request::Stop
        } else {
            Request::Resume
        };
        monitor.ask(then, None)?;
    }
    saved?;
    Ok(0)
}

/// Asks a machine's monitor for something.
fn ask(control: &Path, request: Request) -> Result<Status, Error> {
    Ok(Client::connect(control)?.ask(request, None)?)
}

fn status(args: &ControlArgs) -> Result<u8, Error> {
    let status = ask(&args.control, Request::Status)?;
    let text = serde_json::to_string(&status).map_err(|why| Error::io("write JSON")(why.into()))?;
    print::line(&text)?;
    Ok(0)
}

fn command_line(words: &[String]) -> String {
    let mut line = boot::DEFAULT_COMMAND_LINE.to_owned();
    let is_own = |words: &String| words.contains("initcall_blacklist=");
    if !words.iter().any(is_own) {
        line.push(' ');
        line.push_str(boot::WITHOUT_TRACEFS);
    }
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

/// The disks that the flags name: those of one file first.
fn disks(
    images: &[String],
    layers: &[String],
    absolute: impl Fn(&Path) -> Result<PathBuf, Error>,
) -> Result<Vec<Disk>, Error> {
    let mut disks = Vec::new();
    for text in images {
        let (path, read_only) = mode(text);
        let path = absolute(Path::new(path))?;
        disks.push(Disk::Image { path, read_only });
    }
    for text in layers {
        if text.split(',').any(str::is_empty) {
            let why = "expected file names with commas between them";
            return Err(Error::value("--layers", text, why));
        }
        let paths = text.split(',').map(|path| absolute(Path::new(path)));
        disks.push(Disk::Layers(paths.collect::<Result<_, _>>()?));
    }
    Ok(disks)
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
        namespace: None,
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
            overlay_upper: false,
            follows_mounts: false,
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
    fn disks_are_those_of_one_file_and_then_layers() {
        let of = |images: &[&str], layers: &[&str]| {
            let [images, layers] = [images, layers].map(|texts| {
                texts
                    .iter()
                    .map(|text| text.to_string())
                    .collect::<Vec<_>>()
            });
            disks(&images, &layers, |path| Ok(Path::new("/f").join(path)))
        };
        let image = |path: &str, read_only| Disk::Image {
            path: path.into(),
            read_only,
        };
        let layers = |paths: &[&str]| Disk::Layers(paths.iter().map(PathBuf::from).collect());
        let found = of(&["a", "b,c,ro"], &["d,e", "/g"]).unwrap();
        let expected = [
            image("/f/a", false),
            image("/f/b,c", true),
            layers(&["/f/d", "/f/e"]),
            layers(&["/g"]),
        ];
        assert_eq!(found, expected);
        for wrong in ["", "a,", "a,,b"] {
            assert!(of(&[], &[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn flags_become_values() {
        assert_eq!(memory("256M").unwrap(), 256 << 20);
        assert_eq!(memory("20000001").unwrap() % 4096, 0);
        assert!(memory("1M").is_err() && memory("x").is_err());
        let shared = share("/a:b:tag,ro").unwrap();
        assert_eq!(shared.path, Path::new("/a:b"));
        assert_eq!((&shared.tag[..], shared.read_only), ("tag", true));
        assert!(share("/a").is_err() && share(":t").is_err() && share("/a:,ro").is_err());
        assert_eq!(balloon("1M").unwrap(), 1 << 20);
        let line = command_line(&["quiet".to_owned(), "-- /bin/sh".to_owned()]);
        assert!(line.starts_with("console=ttyS0 ") && line.ends_with(" quiet -- /bin/sh"));
        assert!(line.contains(boot::WITHOUT_TRACEFS));
        let line = command_line(&["initcall_blacklist=".to_owned()]);
        assert_eq!(line.matches("initcall_blacklist=").count(), 1);
    }
}
