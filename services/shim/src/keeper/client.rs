//! A command line's side: the Task API, one question after the other.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use atoll_guest::protocol::{PROCESS_STATUS, ProcessStatus};
use atoll_shim_protocol::spawn::{PROGRAM, SENT_STREAMS, STATE_ROOT_ENV};
use atoll_spec::{Process, Resources, Status};
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{EnumOrUnknown, Message, MessageField};
use ttrpc::{Code, Request, Response};

use super::serve::socket_of;
use crate::connection::{HEADER_LEN, TYPE_REQUEST, frame, parse_frame};

const SERVICE: &str = "containerd.task.v2.Task";

/// Why a keeper did not do what it was asked for.
#[derive(Debug)]
#[non_exhaustive]
pub enum KeeperError {
    /// It says why.
    Refused {
        /// There is no such process (any more).
        is_gone: bool,
        /// Its words, as runc's.
        message: String,
    },
    /// It went away instead of answering: its container has ended, or it was killed.
    Ended,
    /// It cannot be asked.
    Unreachable(io::Error),
}

impl fmt::Display for KeeperError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { message, .. } => out.write_str(message),
            Self::Ended => out.write_str("the machine's keeper has ended"),
            Self::Unreachable(error) => write!(out, "cannot ask the machine's keeper: {error}"),
        }
    }
}

impl std::error::Error for KeeperError {}

impl From<io::Error> for KeeperError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        match error.kind() {
            BrokenPipe | ConnectionReset | UnexpectedEof => Self::Ended,
            _ => Self::Unreachable(error),
        }
    }
}

/// A keeper that was started, a child of the caller.
#[derive(Debug)]
pub struct Launched {
    /// The way to ask it.
    pub keeper: Keeper,
    /// Its process.
    pub child: Child,
}

/// A connection to a keeper; calls wait for their answers.
#[derive(Debug)]
pub struct Keeper {
    id: String,
    socket: UnixStream,
    input: Vec<u8>,
    last_stream: u32,
    /// Answers nobody has asked for yet.
    early: Vec<(u32, Response)>,
}

impl Keeper {
    /// Starts a keeper for a new container; it ends when the connection closes before a container is made.
    ///
    /// * `state_root`: absolute.
    /// * `log`: where its own words go.
    ///
    /// # Errors
    /// The kernel's.
    pub fn launch(state_root: &Path, id: &str, log: Stdio) -> io::Result<Launched> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new("/proc/self/exe")
            .arg0(name_beside(std::env::args_os().next()))
            .args(["-id", id, "keep"])
            .env(STATE_ROOT_ENV, state_root)
            .current_dir("/")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let keeper = Self::over(id, ours);
        Ok(Launched { keeper, child })
    }

    /// Connects to the keeper of a container.
    ///
    /// # Errors
    /// `ECONNREFUSED` when it has ended, `ENOENT` when the container never had one.
    pub fn connect(state_root: &Path, id: &str) -> io::Result<Self> {
        let socket = atoll_sys::unix::connect_at(&socket_of(state_root, id))?;
        Ok(Self::over(id, socket))
    }

    fn over(id: &str, socket: UnixStream) -> Self {
        Self {
            id: id.to_owned(),
            socket,
            input: Vec::new(),
            last_stream: 0,
            early: Vec::new(),
        }
    }

    /// Makes the container; answers the process id that stands for it.
    ///
    /// * `streams`: stdin, stdout and stderr; or with a terminal, that.
    ///
    /// # Errors
    /// [`KeeperError`], with runc's words where it has some; nothing is left then.
    pub fn create(
        &mut self,
        bundle: &Path,
        terminal: bool,
        streams: &[BorrowedFd<'_>],
    ) -> Result<u32, KeeperError> {
        let request = api::CreateTaskRequest {
            id: self.id.clone(),
            bundle: bundle.to_string_lossy().into_owned(),
            terminal,
            stdout: SENT_STREAMS.to_owned(),
            ..Default::default()
        };
        let stream = self.send("Create", &request, streams)?;
        let answer: api::CreateTaskResponse = self.answer(stream)?;
        Ok(answer.pid)
    }

    /// Starts the container (`exec` empty) or an announced exec.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn start(&mut self, exec: &str) -> Result<(), KeeperError> {
        let request = api::StartRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            ..Default::default()
        };
        let _: api::StartResponse = self.call("Start", &request)?;
        Ok(())
    }

    /// Announces one more process; its end can be waited for from now on.
    ///
    /// * `streams`: as in [`Self::create`].
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn exec(
        &mut self,
        exec: &str,
        process: &Process,
        streams: &[BorrowedFd<'_>],
    ) -> Result<Pending, KeeperError> {
        let request = api::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            terminal: process.terminal,
            stdout: SENT_STREAMS.to_owned(),
            spec: MessageField::some(any("Process", process)?),
            ..Default::default()
        };
        let stream = self.send("Exec", &request, streams)?;
        self.nothing(stream)?;
        let request = api::WaitRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            ..Default::default()
        };
        self.send("Wait", &request, &[]).map(Pending)
    }

    /// Waits for a process's end; gives its exit code.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn wait(&mut self, pending: Pending) -> Result<u32, KeeperError> {
        let answer: api::WaitResponse = self.answer(pending.0)?;
        Ok(answer.exit_status)
    }

    /// Sends a signal to the first process (`exec` empty), to all, or to an exec.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn kill(&mut self, exec: &str, signal: u32, all: bool) -> Result<(), KeeperError> {
        let request = api::KillRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            signal,
            all,
            ..Default::default()
        };
        self.tell("Kill", &request)
    }

    /// Gives an exec's terminal a size.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn resize(&mut self, exec: &str, rows: u16, columns: u16) -> Result<(), KeeperError> {
        let request = api::ResizePtyRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            width: columns.into(),
            height: rows.into(),
            ..Default::default()
        };
        self.tell("ResizePty", &request)
    }

    /// Stops the machine.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn pause(&mut self) -> Result<(), KeeperError> {
        let request = api::PauseRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        self.tell("Pause", &request)
    }

    /// Lets a machine that was stopped go on.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn resume(&mut self) -> Result<(), KeeperError> {
        let request = api::ResumeRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        self.tell("Resume", &request)
    }

    /// Changes limits.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn update(&mut self, resources: &Resources) -> Result<(), KeeperError> {
        let request = api::UpdateTaskRequest {
            id: self.id.clone(),
            resources: MessageField::some(any("LinuxResources", resources)?),
            ..Default::default()
        };
        self.tell("Update", &request)
    }

    /// What the container is doing.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn status(&mut self) -> Result<Status, KeeperError> {
        let request = api::StateRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        let answer: api::StateResponse = self.call("State", &request)?;
        Ok(match EnumOrUnknown::enum_value(&answer.status) {
            Ok(api::Status::CREATED) => Status::Created,
            Ok(api::Status::RUNNING) => Status::Running,
            Ok(api::Status::PAUSED | api::Status::PAUSING) => Status::Paused,
            _ => Status::Stopped,
        })
    }

    /// The container's processes, as its guest numbers them.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn processes(&mut self) -> Result<Vec<ProcessStatus>, KeeperError> {
        let request = api::PidsRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        let answer: api::PidsResponse = self.call("Pids", &request)?;
        let told = answer.processes.iter().filter_map(|one| one.info.as_ref());
        let told = told.filter(|info| info.type_url == PROCESS_STATUS);
        let parsed = told.map(|info| serde_json::from_slice(&info.value));
        let parsed: Result<_, serde_json::Error> = parsed.collect();
        Ok(parsed.map_err(io::Error::from)?)
    }

    fn tell(&mut self, method: &str, request: &impl Message) -> Result<(), KeeperError> {
        let stream = self.send(method, request, &[])?;
        self.nothing(stream)
    }

    fn call<A: Message>(&mut self, method: &str, request: &impl Message) -> Result<A, KeeperError> {
        let stream = self.send(method, request, &[])?;
        self.answer(stream)
    }

    fn send(
        &mut self,
        method: &str,
        request: &impl Message,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<u32, KeeperError> {
        let mut envelope = Request::new();
        envelope.service = SERVICE.to_owned();
        envelope.method = method.to_owned();
        envelope.payload = request.write_to_bytes().map_err(io::Error::from)?;
        // A client's are odd.
        self.last_stream += if self.last_stream == 0 { 1 } else { 2 };
        let envelope = envelope.write_to_bytes().map_err(io::Error::from)?;
        let bytes = frame(TYPE_REQUEST, self.last_stream, &envelope);
        let sent = atoll_sys::unix::send_fds(&self.socket, &bytes, descriptors)?;
        self.socket.write_all(&bytes[sent..])?;
        Ok(self.last_stream)
    }

    fn nothing(&mut self, stream: u32) -> Result<(), KeeperError> {
        self.response(stream).map(drop)
    }

    fn answer<A: Message>(&mut self, stream: u32) -> Result<A, KeeperError> {
        let payload = self.response(stream)?;
        Ok(A::parse_from_bytes(&payload).map_err(io::Error::from)?)
    }

    fn response(&mut self, stream: u32) -> Result<Vec<u8>, KeeperError> {
        loop {
            if let Some(at) = self.early.iter().position(|(known, _)| *known == stream) {
                let (_, response) = self.early.swap_remove(at);
                let status = response.status.unwrap_or_default();
                return match status.code.enum_value() {
                    Ok(Code::OK) => Ok(response.payload),
                    code => Err(KeeperError::Refused {
                        is_gone: code == Ok(Code::NOT_FOUND),
                        message: status.message,
                    }),
                };
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        match self.socket.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.input.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        let wrong = || io::Error::other("it does not speak ttrpc");
        while let Some(head) = parse_frame(&self.input).map_err(|()| wrong())? {
            let response = Response::parse_from_bytes(&self.input[HEADER_LEN..head.len])?;
            self.early.push((head.stream, response));
            self.input.drain(..head.len);
        }
        Ok(())
    }
}

/// The shim's name in the folder of this program, which its monitor is looked for in: this file may be one in memory, so
/// the folder is known only from how it was called.
fn name_beside(called: Option<OsString>) -> PathBuf {
    let called = PathBuf::from(called.unwrap_or_default());
    let search = std::env::var_os("PATH").unwrap_or_default();
    let found = if called.components().count() > 1 {
        Some(called)
    } else {
        let folders = std::env::split_paths(&search).map(|folder| folder.join(&called));
        let mut files = folders.filter(|path| path.is_file());
        files.next()
    };
    let file = found.and_then(|path| std::fs::canonicalize(path).ok());
    file.map_or_else(|| PROGRAM.into(), |file| file.with_file_name(PROGRAM))
}

/// The end of a process, to be waited for.
#[derive(Debug)]
pub struct Pending(u32);

/// A part of an OCI configuration, as containerd's clients send it.
fn any(name: &str, part: &impl serde::Serialize) -> io::Result<Any> {
    Ok(Any {
        type_url: format!("types.containerd.io/opencontainers/runtime-spec/1/{name}"),
        value: serde_json::to_vec(part)?,
        ..Default::default()
    })
}
