//! One container's shim: starting it, and the Task API spoken with it.

use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use atoll_guest::{
    processes,
    protocol::{FILES_REQUEST, PROCESS_STATUS, ProcessStatus},
};
use atoll_layer::RootfsMountSpec;
use atoll_shim_protocol::{
    StdioUri,
    machine::{self, ConnectRequest, DisconnectRequest, MachineNetwork},
    spawn,
};
use containerd_shim_protos::{
    api,
    protobuf::{EnumOrUnknown, MessageField, well_known_types::any::Any},
    shim_async::{Client, TaskClient},
    ttrpc::{
        self,
        context::{self, Context},
    },
};

use crate::{
    error::{Error, ErrorKind, Result},
    sockets,
};

/// How long a shim may take for a request that doesn't wait for the container.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A root file system for the shim to mount.
#[derive(Debug, Clone)]
pub(crate) struct RootfsMount {
    /// File system type.
    pub(crate) kind: String,
    /// Source, as mount(8) takes it.
    pub(crate) source: String,
    /// Options, as mount(8) takes them.
    pub(crate) options: Vec<String>,
}

impl From<RootfsMountSpec> for RootfsMount {
    fn from(spec: RootfsMountSpec) -> Self {
        Self {
            kind: spec.type_,
            source: spec.source,
            options: spec.options,
        }
    }
}

/// Lets the next program have `held` under the same numbers, and says which these are. Shims that are started meanwhile
/// inherit them too, and close what is none of theirs.
fn hand_over(held: &[OwnedFd]) -> std::io::Result<String> {
    let mut numbers = Vec::with_capacity(held.len());
    for socket in held {
        rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty())?;
        numbers.push(socket.as_raw_fd().to_string());
    }
    Ok(numbers.join(","))
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExitStatus {
    /// Status, or 128 + signal.
    pub(crate) code: u32,
}

/// What a shim says about its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskStatus {
    /// Created, not started.
    Created,
    /// Runs.
    Running,
    /// Frozen.
    Paused,
    /// Ended.
    Stopped,
}

/// A connection to one container's shim.
#[derive(Clone)]
pub(crate) struct Shim {
    id: String,
    bundle: PathBuf,
    client: TaskClient,
    /// The same connection, for what is not of the Task API.
    connection: Client,
}

impl Shim {
    /// Starts a shim for `bundle` and connects to it; doesn't wait for it to come up, since its socket already listens.
    ///
    /// * `held`: sockets the shim keeps open as long as the container runs.
    ///
    /// # Errors
    /// 500 when the program can't be started, with a hint when it can't be found.
    pub(crate) fn launch(
        program: &Path,
        id: &str,
        bundle: &Path,
        state_root: &Path,
        held: Vec<OwnedFd>,
    ) -> Result<Self> {
        let io_error = |what: &str| {
            let context = format!("cannot {what} for container {id}");
            move |error: std::io::Error| Error::caused(ErrorKind::Internal, context.clone(), &error)
        };
        let socket = bundle.join(spawn::SHIM_SOCKET);
        let _ = std::fs::remove_file(&socket);
        let listener = sockets::bind(&socket).map_err(io_error("make the shim's socket"))?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(bundle.join(spawn::LOG_FILE))
            .map_err(io_error("open the shim's log"))?;
        let log_again = log.try_clone().map_err(io_error("open the shim's log"))?;
        let mut command = std::process::Command::new(program);
        command
            .args(["-namespace", spawn::NAMESPACE, "-id", id, "-bundle"])
            .arg(bundle)
            .current_dir(bundle)
            .env(spawn::STATE_ROOT_ENV, state_root)
            .env(spawn::LISTEN_ON_STDIN_ENV, &socket)
            .env(
                spawn::HELD_ENV,
                hand_over(&held).map_err(io_error("hand over ports"))?,
            )
            .stdin(OwnedFd::from(listener))
            .stdout(log)
            .stderr(log_again);
        let mut child = tokio::process::Command::from(command).spawn().map_err(|error| {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            Error::caused(ErrorKind::Internal, format!("cannot start shim {}", program.display()), &error)
                .with_hint(missing.then(|| {
                    "put containerd-shim-atoll-v2 beside the engine or into PATH, or start the engine with --shim PATH".to_owned()
                }))
        })?;
        let shim = Self::connect(id, bundle);
        if shim.is_err() {
            // Nobody would ever ask it for anything. That it has ended by itself is no fault.
            let _ = child.start_kill();
        }
        // Reaps it; that it is gone is seen by its connection, as with a shim of an earlier engine.
        tokio::spawn(async move { child.wait().await });
        shim
    }

    /// Connects to a shim that runs.
    ///
    /// # Errors
    /// 500 when nobody listens.
    pub(crate) fn connect(id: &str, bundle: &Path) -> Result<Self> {
        let stream = sockets::connect_async(&bundle.join(spawn::SHIM_SOCKET)).map_err(|error| {
            Error::caused(
                ErrorKind::Internal,
                format!("cannot reach the shim of container {id}"),
                &error,
            )
        })?;
        let connection = Client::new(stream.into());
        let client = TaskClient::new(connection.clone());
        Ok(Self {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            client,
            connection,
        })
    }

    /// The bundle's directory.
    pub(crate) fn bundle(&self) -> &Path {
        &self.bundle
    }

    /// Creates the container; answers its process id.
    ///
    /// # Errors
    /// The shim's words, as runc's.
    pub(crate) async fn create(
        &self,
        rootfs: &[RootfsMount],
        terminal: bool,
        stdio: &StdioUri,
    ) -> Result<u32> {
        let mut request = api::CreateTaskRequest {
            id: self.id.clone(),
            bundle: self.bundle.to_string_lossy().into_owned(),
            terminal,
            stdout: stdio.to_string(),
            ..Default::default()
        };
        request.rootfs.extend(rootfs.iter().map(|mount| api::Mount {
            type_: mount.kind.clone(),
            source: mount.source.clone(),
            options: mount.options.clone(),
            ..Default::default()
        }));
        let reply = self.client.create(within(REQUEST_TIMEOUT), &request).await;
        Ok(reply.map_err(|error| self.error(&error))?.pid)
    }

    /// Starts the container (`exec` empty) or an exec; answers its process id.
    ///
    /// # Errors
    /// The shim's words, as runc's.
    pub(crate) async fn start(&self, exec: &str) -> Result<u32> {
        let request = api::StartRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            ..Default::default()
        };
        let reply = self.client.start(within(REQUEST_TIMEOUT), &request).await;
        Ok(reply.map_err(|error| self.error(&error))?.pid)
    }

    /// Prepares a further process out of an OCI process as JSON.
    ///
    /// # Errors
    /// The shim's words, as runc's.
    pub(crate) async fn exec(
        &self,
        exec: &str,
        process: Vec<u8>,
        terminal: bool,
        stdio: &StdioUri,
    ) -> Result<()> {
        let spec = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned(),
            value: process,
            ..Default::default()
        };
        let request = api::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            terminal,
            stdout: stdio.to_string(),
            spec: MessageField::some(spec),
            ..Default::default()
        };
        let reply = self.client.exec(within(REQUEST_TIMEOUT), &request).await;
        reply.map(drop).map_err(|error| self.error(&error))
    }

    /// Prepares what copies files in a machine, as an exec.
    ///
    /// # Errors
    /// When the container doesn't run, or is in no machine.
    pub(crate) async fn copy(
        &self,
        exec: &str,
        files: &atoll_files::Request,
        stdio: &StdioUri,
    ) -> Result<()> {
        let value = serde_json::to_vec(files)
            .map_err(|error| Error::internal(format!("cannot ask for files: {error}")))?;
        let spec = Any {
            type_url: FILES_REQUEST.to_owned(),
            value,
            ..Default::default()
        };
        let request = api::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            stdout: stdio.to_string(),
            spec: MessageField::some(spec),
            ..Default::default()
        };
        let reply = self.client.exec(within(REQUEST_TIMEOUT), &request).await;
        reply.map(drop).map_err(|error| self.error(&error))
    }

    /// Waits for the end of the container (`exec` empty) or of an exec.
    ///
    /// # Errors
    /// When the shim is gone, or no longer knows the process.
    pub(crate) async fn wait(&self, exec: &str) -> Result<ExitStatus> {
        let request = api::WaitRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            ..Default::default()
        };
        let reply = self.client.wait(Context::default(), &request).await;
        Ok(ExitStatus {
            code: reply.map_err(|error| self.error(&error))?.exit_status,
        })
    }

    /// Sends a signal to the init process, to all processes, or to an exec.
    ///
    /// # Errors
    /// 404 when the process has ended.
    pub(crate) async fn kill(&self, exec: &str, signal: u32, all: bool) -> Result<()> {
        let request = api::KillRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            signal,
            all,
            ..Default::default()
        };
        let reply = self.client.kill(within(REQUEST_TIMEOUT), &request).await;
        reply.map(drop).map_err(|error| self.error(&error))
    }

    /// Resizes the terminal of the container (`exec` empty) or of an exec.
    ///
    /// # Errors
    /// When there is no terminal or the process has ended.
    pub(crate) async fn resize(&self, exec: &str, rows: u16, columns: u16) -> Result<()> {
        let request = api::ResizePtyRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            width: columns.into(),
            height: rows.into(),
            ..Default::default()
        };
        let reply = self
            .client
            .resize_pty(within(REQUEST_TIMEOUT), &request)
            .await;
        reply.map(drop).map_err(|error| self.error(&error))
    }

    /// Freezes all processes.
    ///
    /// # Errors
    /// When the container doesn't run.
    pub(crate) async fn pause(&self) -> Result<()> {
        let request = api::PauseRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        let reply = self.client.pause(within(REQUEST_TIMEOUT), &request).await;
        reply.map(drop).map_err(|error| self.error(&error))
    }

    /// Thaws all processes.
    ///
    /// # Errors
    /// When the container isn't frozen.
    pub(crate) async fn resume(&self) -> Result<()> {
        let request = api::ResumeRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        let reply = self.client.resume(within(REQUEST_TIMEOUT), &request).await;
        reply.map(drop).map_err(|error| self.error(&error))
    }

    /// Changes limits: `resources` is an OCI `linux.resources` as JSON.
    ///
    /// # Errors
    /// When the kernel refuses a limit.
    pub(crate) async fn update(&self, resources: Vec<u8>) -> Result<()> {
        let any = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".to_owned(),
            value: resources,
            ..Default::default()
        };
        let request = api::UpdateTaskRequest {
            id: self.id.clone(),
            resources: MessageField::some(any),
            ..Default::default()
        };
        let reply = self.client.update(within(REQUEST_TIMEOUT), &request).await;
        reply.map(drop).map_err(|error| self.error(&error))
    }

    /// Plugs a network card into the container's machine; its tap is there then.
    ///
    /// # Errors
    /// 409 when no place is free or the machine is paused, 501 when the machine was started by an engine that could not
    /// do this, what the guest says. Nothing stays then.
    pub(crate) async fn connect_network(&self, card: &MachineNetwork) -> Result<()> {
        let request = ConnectRequest {
            id: self.id.clone(),
            card: card.clone(),
        };
        self.change_network(machine::CONNECT, &request).await
    }

    /// Takes a network card out of the container's machine.
    ///
    /// * `gateway`: where its default route leads afterwards, if it has to lead somewhere else.
    ///
    /// # Errors
    /// As [`connect_network`](Self::connect_network); the card stays then.
    pub(crate) async fn disconnect_network(
        &self,
        interface: &str,
        gateway: Option<Ipv4Addr>,
    ) -> Result<()> {
        let request = DisconnectRequest {
            id: self.id.clone(),
            interface: interface.to_owned(),
            gateway,
        };
        self.change_network(machine::DISCONNECT, &request).await
    }

    async fn change_network(&self, method: &str, request: &impl serde::Serialize) -> Result<()> {
        let payload = serde_json::to_vec(request)
            .map_err(|error| Error::internal(format!("cannot ask for a network card: {error}")))?;
        let request = ttrpc::Request {
            service: machine::NETWORK_SERVICE.to_owned(),
            method: method.to_owned(),
            timeout_nano: i64::try_from(REQUEST_TIMEOUT.as_nanos()).unwrap_or(i64::MAX),
            payload,
            ..Default::default()
        };
        let answer = self.connection.request(request).await;
        answer.map(drop).map_err(|error| {
            let error = self.error(&error);
            match error.kind() {
                ErrorKind::NotImplemented => Error::not_implemented(format!(
                    "the machine of container {} was started by an earlier version of this program, which cannot exchange its network cards while it runs",
                    self.id
                ))
                .with_hint(Some("restart the container".to_owned())),
                _ => error,
            }
        })
    }

    /// All processes of the container: what the guest says of those in a machine, what is seen here of others.
    ///
    /// # Errors
    /// When the container has ended.
    pub(crate) async fn processes(&self) -> Result<Vec<ProcessStatus>> {
        let request = api::PidsRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        let reply = self.client.pids(within(REQUEST_TIMEOUT), &request).await;
        let reply = reply.map_err(|error| self.error(&error))?;
        let (mut found, mut here) = (Vec::new(), Vec::new());
        for process in &reply.processes {
            match process.info.as_ref() {
                Some(info) if info.type_url == PROCESS_STATUS => {
                    found.extend(serde_json::from_slice::<ProcessStatus>(&info.value));
                }
                _ => here.push(process.pid),
            }
        }
        found.extend(processes::list(&here));
        Ok(found)
    }

    /// What the container is doing, and its process id.
    ///
    /// # Errors
    /// When the shim is gone or has no container.
    pub(crate) async fn state(&self) -> Result<(TaskStatus, u32)> {
        let request = api::StateRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        let reply = self
            .client
            .state(within(Duration::from_secs(5)), &request)
            .await;
        let reply = reply.map_err(|error| self.error(&error))?;
        let status = match EnumOrUnknown::enum_value(&reply.status) {
            Ok(api::Status::CREATED) => TaskStatus::Created,
            Ok(api::Status::RUNNING) => TaskStatus::Running,
            Ok(api::Status::PAUSED | api::Status::PAUSING) => TaskStatus::Paused,
            _ => TaskStatus::Stopped,
        };
        Ok((status, reply.pid))
    }

    /// Forgets the ended container (`exec` empty) or exec, and frees what it held.
    ///
    /// # Errors
    /// When it still runs.
    pub(crate) async fn delete(&self, exec: &str) -> Result<()> {
        let request = api::DeleteRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            ..Default::default()
        };
        let reply = self.client.delete(within(REQUEST_TIMEOUT), &request).await;
        reply.map(drop).map_err(|error| self.error(&error))
    }

    /// Ends the shim.
    pub(crate) async fn shutdown(&self) {
        let request = api::ShutdownRequest {
            id: self.id.clone(),
            now: true,
            ..Default::default()
        };
        // The shim may be gone before it has answered.
        let _ = self
            .client
            .shutdown(within(Duration::from_secs(5)), &request)
            .await;
    }

    fn error(&self, error: &ttrpc::Error) -> Error {
        match error {
            ttrpc::Error::RpcStatus(status) => {
                let kind = match status.code.enum_value() {
                    Ok(ttrpc::Code::NOT_FOUND) => ErrorKind::NotFound,
                    Ok(ttrpc::Code::ALREADY_EXISTS | ttrpc::Code::FAILED_PRECONDITION) => {
                        ErrorKind::Conflict
                    }
                    Ok(ttrpc::Code::INVALID_ARGUMENT) => ErrorKind::InvalidParameter,
                    Ok(ttrpc::Code::UNIMPLEMENTED) => ErrorKind::NotImplemented,
                    _ => ErrorKind::Internal,
                };
                Error::new(kind, status.message.clone())
            }
            error => Error::new(
                ErrorKind::Unavailable,
                format!("shim of container {} does not answer: {error}", self.id),
            ),
        }
    }
}

fn within(timeout: Duration) -> Context {
    context::with_duration(timeout)
}
