//! A container of a shim: what it is and what can be done with it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use atoll_cgroup::{Cgroup, OomNotifier};
use atoll_container::{
    CheckpointRequest, Container, CreateRequest, Created, ExecRequest, InitProcess, RestoreRequest,
    StdioRequest,
};
use atoll_guest::protocol::{FILES_REQUEST, Streams};
use atoll_shim_protocol::{ExitRecord, spawn};
use atoll_spec::{NamespaceKind, Resources, Spec};
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::any::Any;

use crate::checkpoint;
use crate::failure::Failure;
use crate::machine::{self, Machine};
use crate::pod::{self, Role};
use crate::process::{Exit, Phase, Process, Waiter};
use crate::server::Options;
use crate::stdio::{self, IoNames, Opened};
use crate::{clock, report};

/// A container and its processes.
pub(crate) struct Task {
    pub(crate) id: String,
    /// Tells it from others in events of the loop.
    pub(crate) key: u64,
    /// The request whose machine boots.
    pub(crate) creating: Option<Box<api::CreateTaskRequest>>,
    pub(crate) bundle: PathBuf,
    /// What there is of it on this host; not of a pod's container in its pod's machine.
    host: Option<Host>,
    wall: Wall,
    pub(crate) init: Process,
    pub(crate) execs: Vec<Exec>,
    pub(crate) is_paused: bool,
    /// The kernel ends all processes along with the first.
    has_own_pids: bool,
    pub(crate) oom: Option<OomNotifier>,
    oom_kills: u64,
    /// A guest's kernel killed for want of memory.
    pub(crate) guest_oom: bool,
    /// Why the container ended, when that was not its own doing.
    pub(crate) error: Option<String>,
}

/// What is around the container.
enum Wall {
    /// Namespaces: its first process.
    Namespaces(InitProcess),
    /// Nothing yet: the start restores it from a checkpoint. Empty once that was tried.
    Checkpoint(Option<Box<(CreateRequest, Spec, RestoreRequest)>>),
    /// A machine that was made for it.
    Machine,
    /// The machine of its pod, where its files have this name.
    Pod(String),
}

/// A container's state and control groups: of a machine's, those of its monitor.
struct Host {
    container: Container,
    cgroup: Cgroup,
}

impl Host {
    fn of(container: Container) -> Result<Self, Failure> {
        Ok(Self {
            cgroup: container.cgroup()?,
            container,
        })
    }
}

/// A process besides the first.
pub(crate) struct Exec {
    /// Tells it from others in events of the loop.
    pub(crate) key: u64,
    pub(crate) process: Process,
    /// What to run; taken by the start.
    pub(crate) spec: Option<atoll_spec::Process>,
    /// Files to copy instead, in a machine.
    pub(crate) files: Option<atoll_files::Request>,
    /// Whether it has a standard input.
    pub(crate) has_stdin: bool,
}

impl Task {
    /// Makes the container. One in a machine is only begun: `to` is answered when it is made ([`Self::is_in_machine`]).
    ///
    /// * `machine`: the shim's; one that is made goes there.
    /// * `sent`: descriptors that came with the request.
    pub(crate) fn create(
        request: &api::CreateTaskRequest,
        options: &Options,
        key: u64,
        to: Waiter,
        machine: &mut Option<Box<Machine>>,
        sent: Vec<OwnedFd>,
    ) -> Result<Self, Failure> {
        let from = checkpoint::restore(request)?;
        let bundle = PathBuf::from(&request.bundle);
        let mut spec =
            Spec::load(&bundle.join("config.json")).map_err(atoll_container::Error::from)?;
        let io = IoNames {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let id = request.id.parse()?;
        let mut create = CreateRequest::new(id, options.state_root.clone(), bundle.clone());
        create.rootfs_mounts = machine::rootfs_mounts(&request.rootfs);
        create.systemd_cgroup = machine::asks_systemd(request.options.as_ref())?;
        let backend = machine::wanted(&mut spec, request.options.as_ref())?;
        let role = pod::role(&spec.annotations);
        let is_pods = match (role, &machine) {
            (Role::Member(sandbox), Some(machine)) => machine.first == sandbox,
            _ => false,
        };
        if let (Role::Member(sandbox), Some(_), false) = (role, backend, is_pods) {
            return Err(Failure::invalid(format!(
                "a container of a pod is in a machine only if its sandbox is, and {sandbox} is in none"
            )));
        }
        if let (Some(_), true) = (&from, backend.is_some() || is_pods) {
            return Err(Failure::new(
                ttrpc::Code::UNIMPLEMENTED,
                "a container in a machine cannot be restored from a checkpoint",
            ));
        }
        if backend.is_some() || is_pods {
            let (ours, stdin) = stdio::open_remote(&io, false, sent)?;
            let streams = Streams {
                terminal: io.terminal,
                stdin,
                size: ours.size_of_own_terminal(),
            };
            let mut init = Process::new(String::new(), io, ours);
            let (host, wall) = match (machine.as_mut(), backend) {
                (Some(pods), _) if is_pods => {
                    init.pid = pods.shown_pid();
                    (None, Wall::Pod(pods.add(&create, &spec, streams, to)?))
                }
                (None, Some(backend)) => {
                    let keeps = options.keeps;
                    let mut booting = Machine::boot(&create, &spec, backend, streams, to, keeps)?;
                    init.pid = booting.machine.shown_pid();
                    let host = Host::of(booting.container);
                    let host = host.inspect_err(|_| booting.machine.switch_off())?;
                    *machine = Some(Box::new(booting.machine));
                    (Some(host), Wall::Machine)
                }
                _ => return Err(Failure::precondition("the shim has its machine already")),
            };
            return Ok(Self::new(request, key, host, wall, init, true));
        }
        let Opened { process, mut ours } = stdio::open(&io, false)?;
        create.stdio = process;
        let linux = spec.linux.as_ref();
        let has_own_pids = linux.is_some_and(|linux| linux.makes_namespace(NamespaceKind::Pid));
        if let Some(from) = from {
            let init = Process::new(String::new(), io, ours);
            let wall = Wall::Checkpoint(Some(Box::new((create, spec, from))));
            return Ok(Self::new(request, key, None, wall, init, has_own_pids));
        }
        let created = atoll_container::create(create, &spec)?;
        let mut init_handle = created.init;
        if let Some(master) = init_handle.terminal.take() {
            ours.set_terminal(master);
        }
        let mut init = Process::new(String::new(), io, ours);
        init.pid = init_handle.pid;
        let wall = Wall::Namespaces(init_handle);
        let host = Some(Host::of(created.container)?);
        Ok(Self::new(request, key, host, wall, init, has_own_pids))
    }

    fn new(
        request: &api::CreateTaskRequest,
        key: u64,
        host: Option<Host>,
        wall: Wall,
        init: Process,
        has_own_pids: bool,
    ) -> Self {
        Self {
            id: request.id.clone(),
            key,
            creating: None,
            bundle: PathBuf::from(&request.bundle),
            oom_kills: 0,
            host,
            wall,
            init,
            execs: Vec::new(),
            is_paused: false,
            has_own_pids,
            oom: None,
            guest_oom: false,
            error: None,
        }
    }

    /// Whether it lives in the shim's machine.
    pub(crate) fn is_in_machine(&self) -> bool {
        matches!(self.wall, Wall::Machine | Wall::Pod(_))
    }

    /// The name of its files in the share, if it was added to the machine of its pod.
    pub(crate) fn folder(&self) -> Option<&str> {
        match &self.wall {
            Wall::Pod(folder) => Some(folder),
            Wall::Namespaces(_) | Wall::Checkpoint(_) | Wall::Machine => None,
        }
    }

    /// Boots the machine that could not be made of its template; false when that is not so.
    pub(crate) fn boots_instead(&mut self, machine: &mut Machine) -> Result<bool, Failure> {
        let boots = machine.boots_instead(&self.host()?.container)?;
        self.init.pid = machine.shown_pid();
        Ok(boots)
    }

    fn host(&self) -> Result<&Host, Failure> {
        let missing = || match self.wall {
            Wall::Checkpoint(_) => Failure::precondition(
                "the container is not restored from its checkpoint before it is started",
            ),
            _ => Failure::unknown("the container is in the machine of its pod"),
        };
        self.host.as_ref().ok_or_else(missing)
    }

    /// Starts the init process of a container that is in no machine.
    pub(crate) fn start(&mut self) -> Result<u32, Failure> {
        if !matches!(self.init.phase, Phase::Created) {
            return Err(Failure::precondition(
                "cannot start a container that has been started",
            ));
        }
        if let Some((rows, columns)) = self.init.size.take() {
            let _ = self.init.resize(rows, columns);
        }
        let outcome = match &mut self.wall {
            Wall::Namespaces(init_handle) => init_handle.start().map_err(Failure::from),
            Wall::Checkpoint(from) => from
                .take()
                .ok_or_else(|| Failure::precondition("the restore has failed already"))
                .and_then(|from| self.restore(*from)),
            Wall::Machine | Wall::Pod(_) => return Err(Failure::unknown("its machine starts it")),
        };
        if let Err(failure) = outcome {
            self.init.never_ran(&failure);
            return Err(failure);
        }
        self.init.phase = Phase::Running;
        open_input(&mut self.init);
        // A container without memory controller has no OOM events; nothing else depends on it.
        let host = self.host.as_ref();
        self.oom = host.and_then(|host| host.cgroup.oom_notifier().ok());
        Ok(self.init.pid)
    }

    /// Makes the container of its checkpoint; its processes go on at once.
    fn restore(&mut self, from: (CreateRequest, Spec, RestoreRequest)) -> Result<(), Failure> {
        let (create, spec, from) = from;
        let Created {
            container,
            mut init,
        } = atoll_container::restore(create, &spec, &from)?;
        if let Some(master) = init.terminal.take() {
            self.init.stdio.set_terminal(master);
        }
        self.init.pid = init.pid;
        self.wall = Wall::Namespaces(init);
        self.host = Some(Host::of(container)?);
        Ok(())
    }

    /// Writes the container into files; the processes it has are ended unless they are to go on.
    pub(crate) fn checkpoint(&mut self, request: CheckpointRequest) -> Result<(), Failure> {
        if self.is_in_machine() {
            return Err(Failure::new(
                ttrpc::Code::UNIMPLEMENTED,
                "a container in a machine cannot be checkpointed by CRIU",
            ));
        }
        Ok(self.host()?.container.checkpoint(request)?)
    }

    /// The files that an exec is to copy, if it is no process of the container.
    fn files_of(
        &self,
        request: &api::ExecProcessRequest,
    ) -> Result<Option<atoll_files::Request>, Failure> {
        if request.spec.type_url != FILES_REQUEST {
            return Ok(None);
        }
        if !self.is_in_machine() {
            return Err(Failure::invalid(
                "files of a container on this host are copied without its shim",
            ));
        }
        serde_json::from_slice(&request.spec.value)
            .map(Some)
            .map_err(|error| Failure::invalid(format!("bad request for files: {error}")))
    }

    /// Announces an exec.
    pub(crate) fn add_exec(
        &mut self,
        request: &api::ExecProcessRequest,
        key: u64,
        sent: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        if self.is_paused && self.is_in_machine() {
            return Err(Failure::precondition(format!(
                "cannot exec in a paused container {}",
                self.id
            )));
        }
        if self.find(&request.exec_id).is_ok() {
            return Err(Failure::new(
                ttrpc::Code::ALREADY_EXISTS,
                format!("exec {} already exists", request.exec_id),
            ));
        }
        if !matches!(self.init.phase, Phase::Running) {
            return Err(Failure::precondition(
                "cannot exec in a stopped container: container is not running",
            ));
        }
        let files = self.files_of(request)?;
        let spec: atoll_spec::Process = match files {
            Some(_) => atoll_spec::Process::default(),
            None => serde_json::from_slice(&request.spec.value)
                .map_err(|error| Failure::invalid(format!("bad process to exec: {error}")))?,
        };
        let io = IoNames {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        // The process's side is opened by the start, the rest now: clients attach in between.
        let (stdio, has_stdin) = if self.is_in_machine() {
            stdio::open_remote(&io, true, sent)?
        } else {
            let Opened { process, mut ours } = stdio::open(&io, true)?;
            ours.hold(process);
            (ours, false)
        };
        self.execs.push(Exec {
            key,
            process: Process::new(request.exec_id.clone(), io, stdio),
            spec: Some(spec),
            files,
            has_stdin,
        });
        Ok(())
    }

    /// Starts an announced exec of a container that is in no machine.
    pub(crate) fn start_exec(&mut self, exec_id: &str) -> Result<u32, Failure> {
        let container = self.host()?.container.clone();
        let exec = self.exec_mut(exec_id)?;
        let Some(spec) = exec.spec.take() else {
            return Err(Failure::precondition(format!(
                "exec {exec_id} has been started"
            )));
        };
        let mut request = ExecRequest::new(spec);
        request.stdio = exec.process.stdio.take_held();
        if let StdioRequest::Terminal { size } = &mut request.stdio {
            *size = exec.process.size.take();
        }
        match container.exec(request) {
            Ok(started) => {
                exec.process.pid = started.pid;
                exec.process.phase = Phase::Running;
                if let Some(master) = started.terminal {
                    exec.process.stdio.set_terminal(master);
                }
                open_input(&mut exec.process);
                Ok(started.pid)
            }
            Err(error) => {
                let failure = Failure::from(error);
                exec.process.never_ran(&failure);
                Err(failure)
            }
        }
    }

    /// The process `exec_id` names; the init process for the empty name.
    pub(crate) fn find(&mut self, exec_id: &str) -> Result<&mut Process, Failure> {
        if exec_id.is_empty() {
            return Ok(&mut self.init);
        }
        self.exec_mut(exec_id).map(|exec| &mut exec.process)
    }

    pub(crate) fn exec_mut(&mut self, exec_id: &str) -> Result<&mut Exec, Failure> {
        self.execs
            .iter_mut()
            .find(|exec| exec.process.exec_id == exec_id)
            .ok_or_else(|| Failure::not_found(format!("exec {exec_id} does not exist")))
    }

    /// Init process and execs.
    pub(crate) fn processes_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        std::iter::once(&mut self.init).chain(self.execs.iter_mut().map(|exec| &mut exec.process))
    }

    /// Notes that the child `pid` ended; of a container in a machine, only the monitor is a child of ours.
    pub(crate) fn child_ended(&mut self, pid: u32, exit: Exit) {
        let has_own_pids = self.has_own_pids;
        let mut was_init = false;
        for process in self.processes_mut() {
            if process.pid == pid && matches!(process.phase, Phase::Created | Phase::Running) {
                process.ended(exit);
                was_init = process.exec_id.is_empty();
            }
        }
        // Without a PID namespace of its own nobody else ends what the init process started.
        if was_init
            && !has_own_pids
            && let Some(host) = &self.host
            && let Err(error) = host.container.kill(libc::SIGKILL, true)
        {
            report(format_args!(
                "cannot kill the container's processes: {error}"
            ));
        }
    }

    /// Sends a signal.
    pub(crate) fn kill(&mut self, exec_id: &str, signal: u32, all: bool) -> Result<(), Failure> {
        let number = signal_number(signal)?;
        let gone = || Failure::not_found("process already finished");
        let process = self.find(exec_id)?;
        let (pid, is_init) = (process.pid, process.exec_id.is_empty());
        match process.phase {
            Phase::Exited(_) | Phase::Draining { .. } if !(is_init && all) => return Err(gone()),
            Phase::Created if !is_init => {
                return Err(Failure::precondition("process is not started"));
            }
            _ => {}
        }
        if is_init {
            let host = self.host()?;
            host.container.kill(number, all)?;
            if signal == libc::SIGKILL.cast_unsigned() && self.is_paused {
                self.is_paused = host.cgroup.is_frozen();
            }
            return Ok(());
        }
        // Not reaped yet (that is done in the same thread), so the pid is still the process's.
        match atoll_sys::process::open(pid).and_then(|pidfd| {
            atoll_sys::process::send_signal(std::os::fd::AsFd::as_fd(&pidfd), number)
        }) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::SRCH) => Err(gone()),
            Err(errno) => Err(Failure::unknown(format!(
                "cannot send signal {signal} to {pid}: {errno}"
            ))),
        }
    }

    /// * `machine`: the one it lives in.
    pub(crate) fn pause(&mut self, machine: Option<&Machine>) -> Result<(), Failure> {
        if self.folder().is_some() {
            return Err(not_alone());
        }
        match machine {
            None => self.host()?.container.pause()?,
            Some(_) if !matches!(self.init.phase, Phase::Running) || self.is_paused => {
                return Err(Failure::precondition("the container is not running"));
            }
            Some(machine) => machine.set_paused(true)?,
        }
        self.is_paused = true;
        Ok(())
    }

    /// * `machine`: the one it lives in.
    pub(crate) fn resume(&mut self, machine: Option<&Machine>) -> Result<(), Failure> {
        if self.folder().is_some() {
            return Err(not_alone());
        }
        match machine {
            None => self.host()?.container.resume()?,
            Some(_) if !self.is_paused => {
                return Err(Failure::precondition("the container is not paused"));
            }
            Some(machine) => machine.set_paused(false)?,
        }
        self.is_paused = false;
        Ok(())
    }

    pub(crate) fn pids(&self) -> Result<Vec<u32>, Failure> {
        Ok(self.host()?.container.pids()?)
    }

    /// Changes limits, given as OCI `linux.resources`.
    pub(crate) fn update(&mut self, resources: &[u8]) -> Result<(), Failure> {
        let resources = self::resources(resources)?;
        let resources = match self.wall {
            Wall::Namespaces(_) | Wall::Checkpoint(_) => resources,
            Wall::Machine | Wall::Pod(_) => machine::outer(resources)?,
        };
        let container = self.host()?.container.clone();
        container.update(&resources)?;
        self.host = Some(Host::of(container)?);
        Ok(())
    }

    pub(crate) fn stats(&self) -> Result<Any, Failure> {
        let cgroup = &self.host()?.cgroup;
        Ok(crate::metrics::pack(&cgroup.stats(), cgroup.is_v2()))
    }

    /// Whether the OOM killer was here since the last call.
    pub(crate) fn noticed_oom(&mut self) -> bool {
        if let Some(oom) = &self.oom {
            oom.drain();
        }
        let kills = self.host.as_ref();
        let kills = kills.map_or(0, |host| host.cgroup.oom_kills());
        kills > std::mem::replace(&mut self.oom_kills, kills)
    }

    /// Writes the exit record; before anybody is told. Not synced: a power failure ends the container
    /// too, and an engine that finds neither shim nor record knows that.
    pub(crate) fn record_exit(&mut self, exit: Exit) {
        let record = ExitRecord {
            version: ExitRecord::VERSION,
            pid: self.init.pid,
            exit_code: exit.code,
            signal: exit.signal,
            oom_killed: self.guest_oom || self.killed_for_memory(),
            exited_at: clock::rfc3339(exit.at),
            error: self.error.clone(),
        };
        // A removed cgroup reports itself; nobody needs to hear that.
        self.oom = None;
        let path = self.bundle.join(spawn::EXIT_FILE);
        if let Err(error) = atoll_sys::file::replace(&path, record.to_json().as_bytes(), 0o600) {
            report(format_args!("cannot write {}: {error}", path.display()));
        }
    }

    fn killed_for_memory(&self) -> bool {
        let host = self.host.as_ref();
        host.is_some_and(|host| host.cgroup.oom_kills() > 0)
    }

    /// Removes an ended exec.
    pub(crate) fn delete_exec(&mut self, exec_id: &str) -> Result<(Process, Exit), Failure> {
        let process = self.find(exec_id)?;
        let exit = match process.phase {
            Phase::Exited(exit) => exit,
            // Never started: there is nothing to wait for.
            Phase::Created => Exit::never_started(0),
            _ => {
                return Err(Failure::precondition(format!(
                    "cannot delete a running process {exec_id}"
                )));
            }
        };
        let at = self
            .execs
            .iter()
            .position(|exec| exec.process.exec_id == exec_id)
            .ok_or_else(|| Failure::not_found(format!("exec {exec_id} does not exist")))?;
        let mut process = self.execs.swap_remove(at).process;
        process.stdio.finish();
        Ok((process, exit))
    }

    /// Makes `pid` the process that the container's state names.
    pub(crate) fn kept_by(&self, pid: u32) -> Result<(), Failure> {
        Ok(self.host()?.container.kept_by(pid)?)
    }

    /// Removes a container that could not be made.
    pub(crate) fn abandon(&mut self) {
        self.init.stdio.finish();
        let Some(host) = &self.host else { return };
        match host.container.delete(true) {
            Err(error) if error.kind() != atoll_container::ErrorKind::NotFound => {
                report(format_args!("cannot remove the container: {error}"));
            }
            _ => {}
        }
    }

    /// How the init process ended, if the container can be removed: it has, or was never started.
    pub(crate) fn end(&self) -> Result<Exit, Failure> {
        match self.init.phase {
            Phase::Exited(exit) => Ok(exit),
            Phase::Created => Ok(Exit::never_started(0)),
            _ => Err(Failure::precondition("cannot delete a running container")),
        }
    }

    /// Removes the container from this host.
    pub(crate) fn delete(&mut self) -> Result<(), Failure> {
        if let Some(host) = &self.host {
            match host.container.delete(self.is_in_machine()) {
                Err(error) if error.kind() == atoll_container::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        self.init.stdio.finish();
        Ok(())
    }
}

/// Of a pod in a machine, one container is not stopped while the others run.
fn not_alone() -> Failure {
    Failure::new(
        ttrpc::Code::UNIMPLEMENTED,
        "a container in the machine of its pod cannot be paused alone",
    )
}

/// OCI `linux.resources` of a request.
pub(crate) fn resources(json: &[u8]) -> Result<Resources, Failure> {
    serde_json::from_slice(json)
        .map_err(|error| Failure::invalid(format!("bad resources: {error}")))
}

/// The signal a request names.
pub(crate) fn signal_number(signal: u32) -> Result<i32, Failure> {
    i32::try_from(signal)
        .ok()
        .filter(|number| (0..=64).contains(number))
        .ok_or_else(|| Failure::invalid(format!("no such signal: {signal}")))
}

/// Opens the fifo for stdin of a process that has been started; one without stdin runs on.
pub(crate) fn open_input(process: &mut Process) {
    if let Err(error) = process.stdio.open_fifo_input() {
        report(format_args!("cannot open {}: {error}", process.io.stdin));
    }
}
