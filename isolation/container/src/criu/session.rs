//! A conversation with CRIU: one request, its notifications, one answer.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use atoll_cgroup::Cgroup;
use atoll_sys::process::StringArray;
use atoll_sys::rustix::fs::{MemfdFlags, memfd_create};
use atoll_sys::rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use atoll_sys::{Errno, capability, descriptors, process, unix};
use prost::Message as _;

use super::options::CriuRequest;
use super::rpc::{Kind, Notify, Request, Response};
use crate::apply::control;
use crate::apply::program::{Launch, Op, Program, Start, Stdio};
use crate::apply::spawn::{Child, Waited, spawn};
use crate::error::{Error, Result, kernel};
use crate::plan::CapabilityPlan;
use crate::state;

/// The number of CRIU's end of the socket in CRIU; those of further descriptors follow.
const SOCKET: i32 = 3;
/// No descriptor of ours that is to be placed has a number below.
const ABOVE: i32 = 64;
/// As long as CRIU's longest answer and longer.
const MOST_ANSWER_BYTES: usize = 40 * 1024;

/// How much of what it says is read.
const MOST_SAID_BYTES: u64 = 64 * 1024;

/// How long and how often it is looked whether CRIU is ending.
const ENDING_PAUSE: Duration = Duration::from_millis(5);
const ENDING_TRIES: u32 = 20;

/// How CRIU is started.
#[derive(Debug)]
pub(super) struct Opening<'a> {
    /// The program, looked up in `PATH` unless it has a slash.
    pub(super) program: &'a Path,
    /// What it does first.
    pub(super) steps: Vec<Op>,
    /// The root file system that steps are about.
    pub(super) root: Option<OwnedFd>,
    /// Namespaces made for it, `CLONE_NEW…`.
    pub(super) flags: u64,
    /// Control groups it is in.
    pub(super) cgroup: Option<&'a Cgroup>,
    pub(super) streams: Stdio,
    /// User who is to own them.
    pub(super) streams_uid: u32,
    /// Where what it says besides its log is, if that goes nowhere else.
    pub(super) said: Option<File>,
    /// Descriptors it has besides, numbered from [`number_of`].
    pub(super) extra: Vec<OwnedFd>,
    /// `checkpoint` or `restore`.
    pub(super) action: &'static str,
}

/// The number that extra descriptor `at` has in CRIU.
pub(super) fn number_of(at: usize) -> i32 {
    SOCKET + 1 + i32::try_from(at).unwrap_or(i32::MAX - SOCKET - 1)
}

/// A running CRIU; killed when dropped.
#[derive(Debug)]
pub(super) struct Session {
    child: Child,
    socket: OwnedFd,
    said: Option<File>,
    action: &'static str,
}

impl Session {
    /// Starts CRIU.
    ///
    /// # Errors
    /// [`Error::Criu`] when there is none, [`Error::Kernel`].
    pub(super) fn open(mut opening: Opening<'_>) -> Result<Self> {
        let pair = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        );
        let (socket, theirs) = pair.map_err(|errno| kernel("make criu's socket", errno))?;
        let (ours, control) =
            control::pair().map_err(|errno| kernel("make the control socket", errno))?;
        let mut extra = vec![theirs];
        extra.append(&mut opening.extra);
        let extra: Vec<OwnedFd> = extra.into_iter().map(above).collect::<Result<_>>()?;
        let mut steps = opening.steps;
        let unified = match opening.cgroup {
            Some(cgroup) => {
                steps.insert(0, Op::JoinCgroup(cgroup.join_handles()?));
                cgroup.v2_dir_fd()?
            }
            None => None,
        };
        let program = Program {
            mount_label: None,
            steps,
            root: opening.root,
            is_rootless: false,
            control: above(control)?,
            launch: launch(opening.program, opening.streams, opening.streams_uid, extra)?,
        };
        let unified = unified.as_ref().map(AsFd::as_fd);
        let child = spawn(
            program,
            opening.flags,
            unified,
            Vec::new(),
            &|_| Ok(()),
            ours,
        )?;
        let mut session = Self {
            child,
            socket,
            said: opening.said,
            action: opening.action,
        };
        match session.child.wait() {
            Ok(Waited::Executed) => Ok(session),
            Ok(_) => Err(session.failed("it said something before it ran")),
            Err(Error::CommandNotFound { reason, .. }) => {
                let program = opening.program.display();
                Err(session.failed(&format!("{program}: {reason}")))
            }
            Err(error) => Err(error),
        }
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.pid
    }

    fn failed(&self, reason: &str) -> Error {
        Error::Criu {
            action: self.action,
            reason: reason.to_owned(),
            log: None,
        }
    }

    /// What went wrong with its process: `error`, unless it has ended.
    pub(super) fn ended_or(&self, error: Error) -> Error {
        // One that is ending has lost its files already, and is not a zombie yet.
        for _ in 0..ENDING_TRIES {
            match process::start_time(self.child.pid) {
                Ok(time) if !time.is_zombie => std::thread::sleep(ENDING_PAUSE),
                _ => return self.failed(&self.last_words()),
            }
        }
        error
    }

    /// Makes a request and hears CRIU until it answers.
    ///
    /// * `heard`: told of each notification and the descriptor that comes with it.
    ///
    /// # Errors
    /// [`Error::Criu`] when CRIU fails; those of `heard`, which CRIU is told to fail of.
    pub(super) fn ask(
        &mut self,
        request: &Request,
        heard: &mut dyn FnMut(&Notify, Option<OwnedFd>) -> Result<()>,
    ) -> Result<Response> {
        self.send(request)?;
        loop {
            let (response, fd) = self.receive()?;
            if response.kind != i32::from(Kind::Notify) || !response.success {
                return self.checked(response);
            }
            let notify = response.notify.unwrap_or_default();
            let outcome = heard(&notify, fd);
            self.send(&Request {
                kind: Kind::Notify.into(),
                notify_success: Some(outcome.is_ok()),
                ..Request::default()
            })?;
            if let Err(error) = outcome {
                // It undoes what it did, and says that it failed.
                let _ = self.receive();
                return Err(error);
            }
        }
    }

    /// Waits until CRIU has ended.
    pub(super) fn close(self) {
        drop(self.socket);
        if let Some(pidfd) = self.child.release().pidfd {
            // How it ended says no more than its answer did.
            let _ = process::wait(pidfd.as_fd());
        }
    }

    fn send(&self, request: &Request) -> Result<()> {
        let bytes = request.encode_to_vec();
        match send(&self.socket, &bytes, SendFlags::NOSIGNAL) {
            // It has ended: what it said tells why.
            Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(errno) => Err(kernel("ask criu", errno)),
        }
    }

    fn receive(&self) -> Result<(Response, Option<OwnedFd>)> {
        let mut bytes = vec![0; MOST_ANSWER_BYTES];
        let received = match unix::recv_fds(&self.socket, &mut bytes) {
            // It ended without reading our request; what it said before is still there.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                unix::recv_fds(&self.socket, &mut bytes)
            }
            received => received,
        };
        let (count, fds) = match received {
            Ok((0, _)) => return Err(self.failed(&self.last_words())),
            Ok(received) => received,
            Err(source) => return Err(state::file("read from", Path::new("criu"), source)),
        };
        let response = Response::decode(&bytes[..count])
            .map_err(|error| self.failed(&format!("its answer is none: {error}")))?;
        Ok((response, fds.into_iter().next()))
    }

    /// Why it ended without an answer: before it has a log, it says so on its standard error.
    fn last_words(&self) -> String {
        let mut text = String::from("it ended without an answer");
        let mut bytes = Vec::new();
        if let Some(said) = &self.said
            && said
                .try_clone()
                .and_then(|mut said| {
                    said.rewind()?;
                    said.take(MOST_SAID_BYTES).read_to_end(&mut bytes)
                })
                .is_ok()
        {
            let said = String::from_utf8_lossy(&bytes);
            let lines = match errors_in(&said) {
                none if none.is_empty() => said.lines().last().unwrap_or_default().to_owned(),
                errors => errors,
            };
            if !lines.is_empty() {
                text.push_str(&format!(": {lines}"));
            }
        }
        text
    }

    fn checked(&self, response: Response) -> Result<Response> {
        if response.success {
            return Ok(response);
        }
        let said = response.message.filter(|text| !text.is_empty());
        let reason = match (said, response.errno) {
            (Some(text), _) => text,
            (None, Some(number @ 1..)) => {
                atoll_sys::describe(Errno::from_raw_os_error(number)).to_string()
            }
            (None, _) => "it gives no reason".to_owned(),
        };
        Err(self.failed(&reason))
    }
}

/// Adds to an error of CRIU where its log is and what that says last.
pub(super) fn with_log(error: Error, folder: &Path, name: &str) -> Error {
    let Error::Criu { action, reason, .. } = error else {
        return error;
    };
    let path = folder.join(name);
    let Ok(text) = fs::read(&path) else {
        return Error::Criu {
            action,
            reason,
            log: None,
        };
    };
    let said = errors_in(&String::from_utf8_lossy(&text));
    let reason = if said.is_empty() { reason } else { said };
    Error::Criu {
        action,
        reason,
        log: Some(path),
    }
}

/// The errors a log tells of, the cause first and what follows from it.
fn errors_in(log: &str) -> String {
    /// As many are told.
    const MOST: usize = 3;
    let lines = log.lines().filter_map(|line| {
        let (_, rest) = line.split_once("Error (")?;
        let (_, text) = rest.split_once("): ")?;
        // It goes on without: with the limits it has, if there is no tunnel, and where a program it tried cannot be had.
        (!["rlimit: ", "tun: ", "exited, status="]
            .iter()
            .any(|known| text.starts_with(known)))
        .then(|| text.trim())
    });
    let lines: Vec<&str> = lines.take(MOST).collect();
    lines.join("; ")
}

/// The null device for each of the standard streams.
///
/// # Errors
/// [`Error::File`].
pub(super) fn null_streams() -> Result<Stdio> {
    Ok(Stdio::Fds([null()?, null()?, null()?]))
}

/// Streams without input whose output is kept in the file.
///
/// # Errors
/// [`Error::File`], [`Error::Kernel`].
pub(super) fn kept_streams() -> Result<(Stdio, File)> {
    let memory = memfd_create(c"criu", MemfdFlags::CLOEXEC);
    let memory = File::from(memory.map_err(|errno| kernel("make a memfd", errno))?);
    let copy = || -> Result<OwnedFd> {
        let copy = memory.try_clone();
        Ok(copy
            .map_err(|source| state::file("duplicate", "memfd".as_ref(), source))?
            .into())
    };
    Ok((Stdio::Fds([null()?, copy()?, copy()?]), memory))
}

fn null() -> Result<OwnedFd> {
    let path = Path::new("/dev/null");
    let file = File::options().read(true).write(true).open(path);
    Ok(file
        .map_err(|source| state::file("open", path, source))?
        .into())
}

/// The folders CRIU reads and writes, which it opens by our numbers of them.
#[derive(Debug)]
pub(super) struct Folders {
    images: OwnedFd,
    work: Option<OwnedFd>,
}

impl Folders {
    /// Opens them.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn open(request: &CriuRequest) -> Result<Self> {
        Self::by(request, &folder)
    }

    /// Opens them in the mount namespace of CRIU, which can't mount anything in folders of another.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn open_in(request: &CriuRequest, criu: &Session) -> Result<Self> {
        let root = PathBuf::from(format!("/proc/{}/root", criu.pid()));
        Self::by(request, &|path| {
            // Links in it would lead through our own root.
            let real = path.canonicalize();
            let real = real.map_err(|source| state::file("open", path, source))?;
            folder(&root.join(real.strip_prefix("/").unwrap_or(&real)))
        })
    }

    fn by(request: &CriuRequest, open: &dyn Fn(&Path) -> Result<OwnedFd>) -> Result<Self> {
        Ok(Self {
            images: open(&request.images)?,
            work: request.work.as_deref().map(open).transpose()?,
        })
    }

    /// Their numbers in this process: of images and of work files.
    pub(super) fn numbers(&self) -> (i32, Option<i32>) {
        let work = self.work.as_ref().map(AsRawFd::as_raw_fd);
        (self.images.as_raw_fd(), work)
    }
}

/// Opens a folder.
pub(super) fn folder(path: &Path) -> Result<OwnedFd> {
    let opened = File::open(path);
    Ok(opened
        .map_err(|source| state::file("open", path, source))?
        .into())
}

fn above(fd: OwnedFd) -> Result<OwnedFd> {
    if fd.as_raw_fd() >= ABOVE {
        return Ok(fd);
    }
    descriptors::duplicate_above(fd.as_fd(), ABOVE).map_err(|errno| kernel("duplicate", errno))
}

fn launch(program: &Path, stdio: Stdio, streams_uid: u32, extra: Vec<OwnedFd>) -> Result<Launch> {
    let own = capability::current().map_err(|errno| kernel("capget", errno))?;
    let candidates = candidates(program);
    let args = [program.as_os_str().as_bytes(), b"swrk", b"3"];
    let args = args.map(|text| CString::new(text).unwrap_or_default());
    let env = std::env::vars_os().filter_map(|(name, value)| {
        CString::new([name.into_vec(), b"=".to_vec(), value.into_vec()].concat()).ok()
    });
    Ok(Launch {
        // The terminal of a shell job is that of its session.
        new_session: false,
        stdio,
        streams_uid,
        own_null: false,
        keeps_line_ends: false,
        preserve_fds: u32::try_from(extra.len()).unwrap_or(u32::MAX),
        extra,
        terminal_size: None,
        rlimits: Vec::new(),
        io_priority: None,
        scheduler: None,
        capabilities: CapabilityPlan {
            bounding: capability::Set(u64::MAX),
            effective: own.permitted,
            permitted: own.permitted,
            inheritable: capability::Set::default(),
            ambient: capability::Set::default(),
        },
        uid: atoll_sys::rustix::process::geteuid().as_raw(),
        gid: atoll_sys::rustix::process::getegid().as_raw(),
        groups: Vec::new(),
        umask: 0o22,
        cwd: c"/".to_owned(),
        no_new_privileges: false,
        seccomp: None,
        candidates,
        args: StringArray::new(args.into()),
        env: StringArray::new(env.collect()),
        start: Start::AtOnce,
        hooks: None,
    })
}

fn candidates(program: &Path) -> Vec<CString> {
    let text = |path: PathBuf| CString::new(path.into_os_string().into_vec()).ok();
    if program.as_os_str().as_bytes().contains(&b'/') {
        return text(program.to_owned()).into_iter().collect();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
    // Services often lack the folders of the superuser's programs.
    let usual = ["/usr/sbin", "/usr/bin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    folders
        .chain(usual)
        .filter_map(|folder| text(folder.join(program)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_log_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let log = "(00.01) Warn  (x.c:1): w\n(00.01) Error (criu/util.c:642): exited, status=1\n(00.01) Error (criu/util.c:9): rlimit: Can't\n\
            (00.02) Error (criu/tty.c:7): tty: no\n(00.03)      1: Error (b.c:2): so\n";
        fs::write(folder.path().join("dump.log"), log).unwrap();
        let error = Error::Criu {
            action: "checkpoint",
            reason: "EINVAL".to_owned(),
            log: None,
        };
        let error = with_log(error, folder.path(), "dump.log");
        assert_eq!(
            error.to_string(),
            "criu cannot checkpoint the container: tty: no; so"
        );
        assert!(error.hint().unwrap().ends_with("dump.log"));
    }
}
