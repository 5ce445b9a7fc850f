//! A container as a service: its words to the service manager, and sockets the manager opened for it.
//!
//! The container gets a socket of its own below `/run/notify`, because it can't reach the manager's, and because the manager
//! listens to the runtime only. Of what is said there, `READY=` is passed on, with the process id that the manager is to watch.
//!
//! Source: sd_notify(3), sd_listen_fds(3); runc notify_socket.go for what containers see.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::Duration;

use atoll_container::CreateRequest;
use atoll_spec::{Process, Spec};
use atoll_sys::unix;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::report::{self, Failure, Outcome};

/// The socket's name.
const SOCKET: &str = "notify.sock";
/// The longest message there is.
const LONGEST: usize = 4096;
/// How long the manager may take to read what it is told.
const PATIENCE: Duration = Duration::from_secs(30);

/// The manager's socket.
#[derive(Debug, Clone)]
pub(crate) struct Manager(String);

impl Manager {
    /// The one of `NOTIFY_SOCKET`, if there is a service manager.
    pub(crate) fn of_environment() -> Option<Self> {
        let name = std::env::var("NOTIFY_SOCKET").ok();
        name.filter(|name| !name.is_empty()).map(Self)
    }

    fn connect(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        match self.0.strip_prefix('@') {
            Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => socket.connect(&self.0)?,
        }
        Ok(socket)
    }
}

/// Shows the container the folder `outside` with its socket, and says where that is.
pub(crate) fn add_to(spec: &mut Spec, outside: PathBuf) {
    spec.mounts.push(CreateRequest::notify_mount(outside));
    if let Some(process) = &mut spec.process {
        process
            .env
            .push(format!("NOTIFY_SOCKET=/run/notify/{SOCKET}"));
    }
}

/// A container's socket, listened at.
#[derive(Debug)]
pub(crate) struct Relay {
    socket: UnixDatagram,
    manager: Manager,
}

impl Relay {
    /// Listens in the folder `outside`.
    pub(crate) fn listen(manager: Manager, outside: &Path) -> Outcome<Self> {
        let path = outside.join(SOCKET);
        let bound = unix::bind_datagram_at(&path).and_then(|socket| {
            // Users of the container are any of the host's.
            let mode = std::fs::Permissions::from_mode(0o777);
            std::fs::set_permissions(&path, mode)?;
            Ok(socket)
        });
        let socket = bound
            .map_err(|error| Failure::io(format!("cannot listen at {}", path.display()), &error))?;
        Ok(Self { socket, manager })
    }

    /// Waits until the container says that it is ready, or its process behind `pidfd` has ended, and tells the manager.
    ///
    /// * `main_pid`: the process to watch.
    pub(crate) fn pass_on(&self, pidfd: BorrowedFd<'_>, main_pid: u32) {
        let told = self.await_ready(pidfd).and_then(|ready| match ready {
            Some(ready) => self.tell(&ready, main_pid),
            None => Ok(()),
        });
        if let Err(error) = told {
            report::warn(&[format!("cannot tell the service manager: {error}")]);
        }
    }

    /// The line that says it; `None` when the process has ended.
    fn await_ready(&self, pidfd: BorrowedFd<'_>) -> io::Result<Option<String>> {
        let mut message = [0; LONGEST];
        loop {
            let mut fds = [
                PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(pidfd, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                outcome => outcome?,
            };
            // Said before it ended counts.
            if !fds[0].revents().is_empty() {
                let count = self.socket.recv(&mut message)?;
                if let Some(line) = ready_line(&message[..count]) {
                    return Ok(Some(line));
                }
            } else if !fds[1].revents().is_empty() {
                return Ok(None);
            }
        }
    }

    fn tell(&self, ready: &str, main_pid: u32) -> io::Result<()> {
        let manager = self.manager.connect()?;
        manager.send(format!("{ready}\n").as_bytes())?;
        manager.send(format!("MAINPID={main_pid}\n").as_bytes())?;
        // The manager looks at who sent a message: we must be there until it has.
        let (mut reader, writer) = io::pipe()?;
        unix::send_fds(&manager, b"BARRIER=1", &[writer.as_fd()])?;
        drop(writer);
        let limit = Timespec {
            tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(&reader, PollFlags::IN)];
        if poll(&mut fds, Some(&limit))? == 0 {
            // A manager that doesn't know barriers.
            return Ok(());
        }
        reader.read(&mut [0]).map(|_| ())
    }
}

/// The line of a message that says whether a service is ready.
fn ready_line(message: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(message);
    let mut lines = text.lines();
    lines
        .find(|line| line.starts_with("READY="))
        .map(str::to_owned)
}

/// How many sockets of the manager's are open from descriptor 3 on, for this process.
pub(crate) fn listen_fds() -> u32 {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(count)) if pid == std::process::id() => count,
        _ => 0,
    }
}

/// Tells the container's first process of `count` sockets that it gets.
pub(crate) fn add_listen_fds(process: &mut Process, count: u32) {
    if count > 0 {
        process.env.push(format!("LISTEN_FDS={count}"));
        // The first of its PID namespace.
        process.env.push("LISTEN_PID=1".to_owned());
    }
}

/// Refuses descriptors that are to be passed on and aren't open.
///
/// * `first`: the number of the first.
pub(crate) fn check_fds(first: u32, count: u32) -> Outcome<()> {
    for at in 0..count {
        let number = first.saturating_add(at);
        if let Err(error) = std::fs::symlink_metadata(format!("/proc/self/fd/{number}")) {
            let text = format!("unable to stat preserved-fd {at} (of {count})");
            return Err(Failure::io(text, &error)
                .with_hint(format!("open descriptor {number}, or preserve fewer")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_readiness_is_passed_on() {
        assert_eq!(
            ready_line(b"STATUS=up\nREADY=1\n").as_deref(),
            Some("READY=1")
        );
        assert_eq!(ready_line(b"READY=1").as_deref(), Some("READY=1"));
        for other in [&b""[..], b"STATUS=READY=1", b"\xff\xfe", b"MAINPID=1"] {
            assert_eq!(ready_line(other), None);
        }
    }

    #[test]
    fn descriptors_that_are_not_open_are_refused() {
        assert!(check_fds(0, 3).is_ok());
        let failure = check_fds(900_000, 2).unwrap_err();
        assert!(format!("{failure:?}").contains("unable to stat preserved-fd 0 (of 2)"));
    }

    #[test]
    fn a_container_sees_its_own_socket_read_only() {
        let mut spec = atoll_spec::example();
        add_to(&mut spec, "/run/x/notify".into());
        let mount = spec.mounts.last().unwrap();
        assert_eq!(mount.destination, Path::new("/run/notify"));
        assert!(mount.options.contains(&"ro".to_owned()));
        let env = spec.process.unwrap().env;
        assert_eq!(env.last().unwrap(), "NOTIFY_SOCKET=/run/notify/notify.sock");
    }
}
