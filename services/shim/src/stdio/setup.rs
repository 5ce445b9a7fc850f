//! Opening a process's streams from what the request says.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use atoll_container::StdioRequest;
use atoll_shim_protocol::spawn::SENT_STREAMS;
use atoll_shim_protocol::{LogDriver, StdioUri};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use super::client::AttachSocket;
use super::json_log::JsonLog;
use super::sink::Sink;
use super::{READ_SIZE, Stdio, sent};
use crate::failure::Failure;

/// Streams as `Create` and `Exec` name them.
#[derive(Debug, Clone, Default)]
pub(crate) struct IoNames {
    /// Fifo, or empty.
    pub(crate) stdin: String,
    /// Fifo, `file:` address, stdio address of the engine, or empty.
    pub(crate) stdout: String,
    /// As stdout.
    pub(crate) stderr: String,
    /// A terminal instead of three streams.
    pub(crate) terminal: bool,
}

/// Both sides of a process's streams.
pub(crate) struct Opened {
    /// The process's side.
    pub(crate) process: StdioRequest,
    /// Ours.
    pub(crate) ours: Stdio,
}

/// Opens our side of the streams of a process that is elsewhere: its own come later ([`Stdio::connect`]).
///
/// Returns whether stdin is open, too.
///
/// * `descriptors`: those that came with the request.
pub(crate) fn open_remote(
    names: &IoNames,
    is_exec: bool,
    descriptors: Vec<OwnedFd>,
) -> Result<(Stdio, bool), Failure> {
    let (mut ours, has_stdin) = if names.stdout == SENT_STREAMS {
        let mut ours = Stdio {
            is_terminal: names.terminal,
            ..Stdio::default()
        };
        sent::open(&mut ours, names, !is_exec, descriptors)?;
        (ours, true)
    } else {
        open_ours(names, is_exec)?
    };
    ours.awaits_input = has_stdin || names.terminal;
    Ok((ours, has_stdin))
}

fn open_ours(names: &IoNames, is_exec: bool) -> Result<(Stdio, bool), Failure> {
    let mut ours = Stdio {
        is_terminal: names.terminal,
        ..Stdio::default()
    };
    let has_stdin = if StdioUri::is_stdio_uri(&names.stdout) {
        open_engine(&mut ours, &names.stdout, is_exec)?
    } else {
        open_fifos(&mut ours, names)?
    };
    Ok((ours, has_stdin))
}

/// Opens the streams `names` asks for.
///
/// * `is_exec`: the end of a client's input always ends stdin.
pub(crate) fn open(names: &IoNames, is_exec: bool) -> Result<Opened, Failure> {
    let (mut ours, has_stdin) = open_ours(names, is_exec)?;
    let failed = |error: io::Error| Failure::unknown(format!("cannot make a pipe: {error}"));
    let process = if names.terminal {
        StdioRequest::Terminal { size: None }
    } else {
        let (stdin, our_stdin) = if has_stdin {
            let (read, write) = pipe().map_err(failed)?;
            set_nonblocking(&write).map_err(failed)?;
            (read, Some(write))
        } else {
            (
                OwnedFd::from(File::open("/dev/null").map_err(failed)?),
                None,
            )
        };
        ours.stdin = our_stdin;
        let (our_stdout, stdout) = pipe().map_err(failed)?;
        let (our_stderr, stderr) = pipe().map_err(failed)?;
        set_nonblocking(&our_stdout).map_err(failed)?;
        set_nonblocking(&our_stderr).map_err(failed)?;
        ours.outputs = [Some(our_stdout), Some(our_stderr)];
        StdioRequest::Fds {
            stdin,
            stdout,
            stderr,
        }
    };
    Ok(Opened { process, ours })
}

/// The engine's way: an attach socket and a log. Returns whether stdin is open.
fn open_engine(ours: &mut Stdio, address: &str, is_exec: bool) -> Result<bool, Failure> {
    let uri: StdioUri = address
        .parse()
        .map_err(|error| Failure::invalid(format!("{error}")))?;
    if let Some(log) = uri
        .log
        .as_ref()
        .filter(|log| log.driver == LogDriver::JsonFile)
    {
        ours.log = Some(JsonLog::open(log).map_err(|error| {
            Failure::unknown(format!("cannot open log {}: {error}", log.path.display()))
        })?);
    }
    ours.attach = Some(AttachSocket::bind(&uri.attach_socket).map_err(|error| {
        let path = uri.attach_socket.display();
        Failure::unknown(format!("cannot listen on {path}: {error}"))
    })?);
    ours.input_ends_once = uri.stdin_once || is_exec;
    Ok(uri.open_stdin)
}

/// containerd's way. Returns whether stdin is open.
fn open_fifos(ours: &mut Stdio, names: &IoNames) -> Result<bool, Failure> {
    let outputs = [&names.stdout, &names.stderr];
    for (at, name) in outputs.into_iter().enumerate() {
        if name.is_empty() || (at == 1 && names.terminal) {
            continue;
        }
        let failed = |error: io::Error| Failure::unknown(format!("cannot open {name}: {error}"));
        let fd: OwnedFd = match name.split_once("://") {
            None => open_output(name).map_err(failed)?,
            Some(("fifo", path)) => open_output(path).map_err(failed)?,
            Some(("file", path)) => OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o644)
                .open(path)
                .map_err(failed)?
                .into(),
            Some((scheme, _)) => {
                return Err(Failure::invalid(format!(
                    "output to `{scheme}://` is not supported: {name}"
                )));
            }
        };
        ours.fifos[at] = Some(Sink::new(fd, false, [at == 0, at == 1]));
    }
    if names.stdin.is_empty() {
        return Ok(false);
    }
    ours.fifo_input_path = Some(names.stdin.clone());
    ours.input_ends_once = true;
    Ok(true)
}

/// How long a client may take to open the other side of an output.
const READER: Duration = Duration::from_secs(1);
/// Time between two looks for it.
const LOOK: Duration = Duration::from_millis(1);

/// Opens a fifo for output both ways, so that a client that leaves doesn't break the process's pipe.
///
/// Not before its client is there: containerd's opens it in the background. Had the process ended by then and the fifo been
/// closed, its output would be lost, and the client would wait for a writer for ever. One that doesn't come in time is done
/// without.
fn open_output(path: &str) -> io::Result<OwnedFd> {
    let until = Instant::now() + READER;
    loop {
        match open_fifo(path, OFlags::WRONLY) {
            // Nobody reads, or is about to.
            Err(error) if is_without_reader(&error) && Instant::now() < until => {
                std::thread::sleep(LOOK);
            }
            Err(error) if !is_without_reader(&error) => return Err(error),
            _ => return open_fifo(path, OFlags::RDWR),
        }
    }
}

fn is_without_reader(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NXIO.raw_os_error())
}

/// Opens a fifo without waiting for the other side.
pub(super) fn open_fifo(path: &str, access: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        access | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // The user's pipe allowance may be used up; a small pipe works too.
    let _ = fcntl_setpipe_size(&read, READ_SIZE);
    Ok((read, write))
}

pub(super) fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    rustix::io::ioctl_fionbio(fd, true)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn an_output_waits_for_its_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        let name = path.to_str().unwrap().to_owned();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                // As late as a client under load.
                std::thread::sleep(Duration::from_millis(100));
                let mut text = String::new();
                File::open(&path)
                    .unwrap()
                    .read_to_string(&mut text)
                    .unwrap();
                text
            });
            let fd = open_output(&name).unwrap();
            rustix::io::write(&fd, b"all of it").unwrap();
            drop(fd);
            assert_eq!(reader.join().unwrap(), "all of it");
        });
        // Without one it goes on.
        drop(open_output(&name).unwrap());
        assert!(open_output("/no/such/fifo").is_err());
    }
}
