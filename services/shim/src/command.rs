//! The commands containerd runs: `start` and `delete`.

use std::fs::{self, DirBuilder, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use atoll_container::{Container, ContainerId};
use atoll_shim_protocol::spawn::LISTEN_ON_STDIN_ENV;
use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::{Message, MessageField};

use crate::arguments::Arguments;
use crate::{clock, pod};

/// Folder of the sockets of containerd's shims.
const SOCKETS: &str = "/run/containerd/s";

/// Starts a server in the background, or finds the one of the container's pod; returns the address containerd reads from
/// our stdout. The working directory is the bundle.
pub(crate) fn start(arguments: &Arguments) -> io::Result<String> {
    let pod = pod::of(Path::new("."))?;
    let path = socket_path(arguments, pod.as_deref());
    let address = format!("unix://{}", path.display());
    if UnixStream::connect(&path).is_ok() {
        // The pod's, or containerd asks again for a shim that is there.
        fs::write("address", &address)?;
        return Ok(address);
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(SOCKETS)?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = atoll_sys::unix::bind_at(&path)?;
    let log = open_log().map_or_else(Stdio::null, Stdio::from);
    let spawned = Command::new("/proc/self/exe")
        .arg0_like_ours()
        .args(["-namespace", &arguments.namespace, "-id", &arguments.id])
        .args(["-address", &arguments.address])
        .env(LISTEN_ON_STDIN_ENV, &path)
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    if let Err(error) = spawned {
        drop(fs::remove_file(&path));
        return Err(error);
    }
    // Where containerd looks for the shim after its own restart.
    fs::write("address", &address)?;
    Ok(address)
}

/// Removes what is left of the container; returns the bytes containerd reads from our stdout.
pub(crate) fn delete(arguments: &Arguments, state_root: &Path) -> io::Result<Vec<u8>> {
    let id: ContainerId = arguments
        .id
        .parse()
        .map_err(|error| io::Error::other(format!("{error}")))?;
    let mut pid = 0;
    if let Ok(container) = Container::load(state_root, &id) {
        pid = container
            .state()
            .ok()
            .and_then(|state| state.pid)
            .unwrap_or(0);
        container
            .delete(true)
            .map_err(|error| io::Error::other(format!("{error}")))?;
    }
    // A bundle that cannot be read has no pod; its shim's socket is overwritten by the next of that name.
    let bundle = arguments.bundle.as_deref().unwrap_or(Path::new("."));
    let path = socket_path(arguments, pod::of(bundle).ok().flatten().as_deref());
    // Others of the pod may live on.
    if UnixStream::connect(&path).is_err() {
        drop(fs::remove_file(path));
    }
    let response = DeleteResponse {
        pid,
        exit_status: 137,
        exited_at: MessageField::some(clock::timestamp(SystemTime::now())),
        ..Default::default()
    };
    response.write_to_bytes().map_err(io::Error::other)
}

/// Prints to stdout, whole.
pub(crate) fn print(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// One socket for each container, or pod, of each namespace of each containerd.
fn socket_path(arguments: &Arguments, pod: Option<&str>) -> PathBuf {
    let id = pod.unwrap_or(&arguments.id);
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, &arguments.address, &arguments.namespace, id).hash(&mut hasher);
        hasher.finish()
    };
    Path::new(SOCKETS).join(format!("atoll-{:016x}{:016x}", half(0), half(1)))
}

/// containerd reads shims' logs from the fifo `log` in the bundle.
fn open_log() -> Option<fs::File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("log")
        .ok()
}

trait LikeOurs {
    /// Keeps the name we were called by, which says what this program is.
    fn arg0_like_ours(&mut self) -> &mut Self;
}

impl LikeOurs for Command {
    fn arg0_like_ours(&mut self) -> &mut Self {
        use std::os::unix::process::CommandExt;
        let ours = std::env::args_os().next();
        self.arg0(ours.unwrap_or_else(|| atoll_shim_protocol::spawn::PROGRAM.into()))
    }
}
