//! Further processes in running containers.

use std::{
    collections::{HashMap, VecDeque},
    fs,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use atoll_shim_protocol::{AttachRequest, Framing, StdioUri, spawn, start_error_exit_code};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{net::UnixStream, sync::watch};

use crate::{
    container::{
        ContainerRef, Status,
        rootfs::Rootfs,
        spec::{ExecProcess, exec_process},
        start, wall,
    },
    engine::EngineRef,
    error::{Error, ErrorKind, Result},
    names,
    shim::{attach, client::Shim},
    types::string_or_list,
};

/// How many ended execs can still be inspected.
const KEPT: usize = 512;

/// The body of POST /containers/{id}/exec.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct ExecConfig {
    pub(crate) user: String,
    pub(crate) privileged: bool,
    pub(crate) tty: bool,
    pub(crate) console_size: Option<[u16; 2]>,
    pub(crate) attach_stdin: bool,
    pub(crate) attach_stdout: bool,
    pub(crate) attach_stderr: bool,
    pub(crate) detach_keys: String,
    pub(crate) env: Vec<String>,
    pub(crate) working_dir: String,
    #[serde(deserialize_with = "string_or_list")]
    pub(crate) cmd: Option<Vec<String>>,
}

/// What an exec is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ExecState {
    /// It was started, or at least tried.
    pub(crate) is_started: bool,
    /// It runs.
    pub(crate) is_running: bool,
    /// Process id on the host.
    pub(crate) pid: u32,
    /// How it ended.
    pub(crate) exit_code: Option<i64>,
}

/// A further process.
pub(crate) struct Exec {
    /// 64 hexadecimal digits.
    pub(crate) id: String,
    /// The container.
    pub(crate) container: ContainerRef,
    /// What runs.
    pub(crate) config: ExecConfig,
    state: watch::Sender<ExecState>,
}

/// All execs this engine knows.
#[derive(Default)]
pub(crate) struct Execs {
    maps: Mutex<Maps>,
}

#[derive(Default)]
struct Maps {
    by_id: HashMap<String, Arc<Exec>>,
    ended: VecDeque<String>,
}

impl Exec {
    /// What it is doing.
    pub(crate) fn state(&self) -> ExecState {
        *self.state.borrow()
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&self) {
        let mut states = self.state.subscribe();
        let _ = states.wait_for(|state| state.exit_code.is_some()).await;
    }

    /// The words events use for it: `sh -c true`.
    fn words(&self) -> String {
        self.config.cmd.as_deref().unwrap_or_default().join(" ")
    }
}

impl Execs {
    /// The exec `id`.
    ///
    /// # Errors
    /// 404 in dockerd's words.
    pub(crate) fn find(&self, id: &str) -> Result<Arc<Exec>> {
        let maps = self.lock();
        maps.by_id
            .get(id)
            .map(Arc::clone)
            .ok_or_else(|| Error::not_found(format!("No such exec instance: {id}")))
    }

    /// Ids of the execs of a container that haven't ended.
    pub(crate) fn of_container(&self, id: &str) -> Vec<String> {
        let maps = self.lock();
        let mut ids: Vec<_> = maps
            .by_id
            .values()
            .filter(|exec| exec.container.id() == id && exec.state().exit_code.is_none())
            .map(|exec| exec.id.clone())
            .collect();
        ids.sort();
        ids
    }

    /// Forgets the execs of a container that has ended, but for those somebody still watches.
    pub(crate) fn forget_container(&self, id: &str) {
        let mut maps = self.lock();
        maps.by_id
            .retain(|_, exec| exec.container.id() != id || exec.state().is_started);
    }

    fn insert(&self, exec: Arc<Exec>) {
        self.lock().by_id.insert(exec.id.clone(), exec);
    }

    fn note_ended(&self, id: &str) {
        let mut maps = self.lock();
        maps.ended.push_back(id.to_owned());
        while maps.ended.len() > KEPT {
            if let Some(oldest) = maps.ended.pop_front() {
                maps.by_id.remove(&oldest);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Prepares an exec; nothing runs yet.
///
/// # Errors
/// 409 when the container doesn't run, 400 when there is no command.
pub(crate) fn create(
    engine: &EngineRef,
    container: &ContainerRef,
    config: ExecConfig,
) -> Result<String> {
    check_running(container)?;
    if config.cmd.as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::invalid("No exec command specified"));
    }
    if !config.detach_keys.is_empty() && attach::parse_detach_keys(&config.detach_keys).is_none() {
        return Err(Error::invalid(format!(
            "Invalid detach keys ({})",
            config.detach_keys
        )));
    }
    let exec = Exec {
        id: names::random_id(),
        container: ContainerRef::clone(container),
        config,
        state: watch::channel(ExecState::default()).0,
    };
    let id = exec.id.clone();
    event(engine, &exec, "exec_create: ");
    engine.execs.insert(Arc::new(exec));
    Ok(id)
}

/// Refuses a container that takes no exec now.
///
/// # Errors
/// 409 in dockerd's words.
pub(crate) fn check_running(container: &ContainerRef) -> Result<()> {
    let record = container.record();
    match record.state.status {
        Status::Running => Ok(()),
        Status::Paused => Err(Error::conflict(format!(
            "Container {} is paused, unpause the container before exec",
            record.id
        ))),
        _ => Err(Error::conflict(format!(
            "container {} is not running",
            record.id
        ))),
    }
}

/// Marks an exec as started.
///
/// # Errors
/// 409 when it was started before, or its container doesn't run.
pub(crate) fn claim(exec: &Exec) -> Result<()> {
    check_running(&exec.container)?;
    let is_first = exec.state.send_if_modified(|state| {
        let is_first = !state.is_started;
        state.is_started = true;
        is_first
    });
    if is_first {
        return Ok(());
    }
    Err(Error::conflict(format!(
        "exec command {} has already run",
        exec.id
    )))
}

/// Starts a claimed exec; answers the shim's end of its streams, already connected.
///
/// # Errors
/// runc's words; the exec has then ended with 127 or 126.
pub(crate) async fn start(
    engine: &EngineRef,
    exec: &Arc<Exec>,
    console_size: Option<[u16; 2]>,
    wants_streams: bool,
) -> Result<Option<UnixStream>> {
    match try_start(engine, exec, console_size, wants_streams).await {
        Ok(stream) => Ok(stream),
        Err(error) => {
            let code = i64::from(start_error_exit_code(&error.to_string()));
            exec.state.send_modify(|state| state.exit_code = Some(code));
            engine.execs.note_ended(&exec.id);
            let words = format!(
                "OCI runtime exec failed: exec failed: unable to start container process: {error}"
            );
            Err(Error::new(
                if code == 128 {
                    error.kind()
                } else {
                    ErrorKind::InvalidParameter
                },
                words,
            ))
        }
    }
}

async fn try_start(
    engine: &EngineRef,
    exec: &Arc<Exec>,
    console_size: Option<[u16; 2]>,
    wants_streams: bool,
) -> Result<Option<UnixStream>> {
    let config = &exec.config;
    let record = exec.container.record();
    let shim = exec.container.running_shim()?;
    let spec = read_spec(&shim)?;
    let user = if config.user.is_empty() {
        &record.config.user
    } else {
        &config.user
    };
    let rootfs = if wall::is_machine(&record.host_config) {
        // The guest's changes are in the writable layer.
        start::rootfs(engine, &record)
    } else {
        Rootfs::of_process(record.state.pid).map_err(|error| {
            Error::caused(
                ErrorKind::Internal,
                "cannot open the container's root",
                &error,
            )
        })?
    };
    let groups = record.host_config.group_add.as_deref().unwrap_or_default();
    let identity = rootfs.identity(user, groups)?;
    let request = ExecProcess {
        args: config.cmd.as_deref().unwrap_or_default(),
        env: &config.env,
        working_dir: &config.working_dir,
        tty: config.tty,
        console_size: console_size.or(config.console_size),
        privileged: config.privileged,
    };
    let process = exec_process(&spec, &request, &identity, &engine.host.capabilities);
    let socket = spawn::exec_attach_socket(shim.bundle(), &exec.id);
    let stdio = StdioUri {
        attach_socket: socket.clone(),
        log: None,
        open_stdin: config.attach_stdin,
        stdin_once: true,
    };
    shim.exec(
        &exec.id,
        process.to_string().into_bytes(),
        config.tty,
        &stdio,
    )
    .await?;
    let started = connect_and_start(exec, &shim, &socket, wants_streams).await;
    let (stream, pid) = match started {
        Ok(started) => started,
        Err(error) => {
            let _ = shim.delete(&exec.id).await;
            return Err(error);
        }
    };
    exec.state.send_modify(|state| {
        state.is_running = true;
        state.pid = pid;
    });
    event(engine, exec, "exec_start: ");
    tokio::spawn(follow(EngineRef::clone(engine), Arc::clone(exec), shim));
    Ok(stream)
}

async fn connect_and_start(
    exec: &Exec,
    shim: &Shim,
    socket: &std::path::Path,
    wants_streams: bool,
) -> Result<(Option<UnixStream>, u32)> {
    let stream = if wants_streams {
        let config = &exec.config;
        let request = AttachRequest {
            stdin: config.attach_stdin,
            stdout: config.attach_stdout,
            stderr: config.attach_stderr,
            framing: if config.tty {
                Framing::Raw
            } else {
                Framing::Multiplexed
            },
        };
        let stream = attach::connect(socket, &request)
            .await
            .map_err(|error| Error::caused(ErrorKind::Internal, "cannot attach", &error))?;
        Some(stream)
    } else {
        None
    };
    Ok((stream, shim.start(&exec.id).await?))
}

/// Waits for the end and records it.
async fn follow(engine: EngineRef, exec: Arc<Exec>, shim: Arc<Shim>) {
    // Without the shim nothing of it is left.
    let code = shim
        .wait(&exec.id)
        .await
        .map_or(137, |status| i64::from(status.code));
    exec.state.send_modify(|state| {
        state.is_running = false;
        state.exit_code = Some(code);
    });
    let record = exec.container.record();
    let more = [("execID", exec.id.clone()), ("exitCode", code.to_string())];
    engine.container_event(&record, "exec_die", &more);
    engine.execs.note_ended(&exec.id);
    let _ = shim.delete(&exec.id).await;
}

fn read_spec(shim: &Shim) -> Result<Value> {
    let path = shim.bundle().join("config.json");
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Error::caused(
            ErrorKind::Internal,
            format!("cannot read {}", path.display()),
            error,
        )
    };
    let bytes = fs::read(&path).map_err(|error| failed(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| failed(&error))
}

fn event(engine: &EngineRef, exec: &Exec, action: &str) {
    let record = exec.container.record();
    let action = format!("{action}{}", exec.words());
    engine.container_event(&record, &action, &[("execID", exec.id.clone())]);
}
