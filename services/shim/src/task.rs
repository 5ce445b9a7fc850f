//! A container of a shim: what it is and what can be done with it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use atoll_cgroup::{Cgroup, OomNotifier};
use atoll_container::{Container, CreateRequest, ExecRequest, InitProcess, StdioRequest};
use atoll_guest::protocol::Streams;
use atoll_shim_protocol::{ExitRecord, spawn};
use atoll_spec::{NamespaceKind, Resources, Spec};
use containerd_shim_protos::api;

use crate::failure::Failure;
use crate::machine::{self, Machine};
use crate::process::{Exit, Phase, Process, Waiter};
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
    container: Container,
    cgroup: Cgroup,
    wall: Wall,
    pub(crate) init: Process,
    pub(crate) execs: Vec<Exec>,
    pub(crate) is_paused: bool,
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
    /// A machine.
    Machine(Box<Machine>),
}

/// A process besides the first.
pub(crate) struct Exec {
    /// Tells it from others in events of the loop.
    pub(crate) key: u64,
    pub(crate) process: Process,
    /// What to run; taken by the start.
    pub(crate) spec: Option<atoll_spec::Process>,
    /// Whether it has a standard input.
    pub(crate) has_stdin: bool,
}

impl Task {
    /// Makes the container. One in a machine is only begun: `to` is answered when it is made ([`Self::machine`]).
    pub(crate) fn create(
        request: &api::CreateTaskRequest,
        state_root: &Path,
        key: u64,
        to: Waiter,
    ) -> Result<Self, Failure> {
        if !request.checkpoint.is_empty() {
            return Err(Failure::new(
                ttrpc::Code::UNIMPLEMENTED,
                "restoring from a checkpoint is not supported",
            ));
        }
        let bundle = PathBuf::from(&request.bundle);
        let spec = Spec::load(&bundle.join("config.json")).map_err(atoll_container::Error::from)?;
        let io = IoNames {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let id = request.id.parse()?;
        let mut create = CreateRequest::new(id, state_root.to_path_buf(), bundle.clone());
        create.rootfs_mounts = machine::rootfs_mounts(&request.rootfs);
        if let Some(backend) = machine::wanted(&spec, request.options.as_ref())? {
            let (ours, stdin) = stdio::open_remote(&io, false)?;
            let streams = Streams {
                terminal: io.terminal,
                stdin,
                size: None,
            };
            let booting = Machine::boot(&create, &spec, backend, streams, to)?;
            let mut init = Process::new(String::new(), io, ours);
            init.pid = booting.machine.pid;
            let wall = Wall::Machine(Box::new(booting.machine));
            return Self::new(request, key, booting.container, wall, init, true);
        }
        let Opened { process, mut ours } = stdio::open(&io, false)?;
        create.stdio = process;
        let created = atoll_container::create(create, &spec)?;
        let mut init_handle = created.init;
        if let Some(master) = init_handle.terminal.take() {
            ours.set_terminal(master);
        }
        let mut init = Process::new(String::new(), io, ours);
        init.pid = init_handle.pid;
        let has_own_pids = spec.linux.as_ref().is_some_and(|linux| {
            let kinds = linux.namespaces.iter();
            kinds
                .clone()
                .any(|namespace| namespace.kind == NamespaceKind::Pid)
        });
        let wall = Wall::Namespaces(init_handle);
        Self::new(request, key, created.container, wall, init, has_own_pids)
    }

    fn new(
        request: &api::CreateTaskRequest,
        key: u64,
        container: Container,
        wall: Wall,
        init: Process,
        has_own_pids: bool,
    ) -> Result<Self, Failure> {
        Ok(Self {
            id: request.id.clone(),
            key,
            creating: None,
            bundle: PathBuf::from(&request.bundle),
            oom_kills: 0,
            cgroup: container.cgroup()?,
            container,
            wall,
            init,
            execs: Vec::new(),
            is_paused: false,
            has_own_pids,
            oom: None,
            guest_oom: false,
            error: None,
        })
    }

    /// The machine that the container lives in, if that is its wall.
    pub(crate) fn machine(&mut self) -> Option<&mut Machine> {
        match &mut self.wall {
            Wall::Machine(machine) => Some(machine),
            Wall::Namespaces(_) => None,
        }
    }

    /// Boots the machine that could not be made of its template; false when that is not so.
    pub(crate) fn boots_instead(&mut self) -> Result<bool, Failure> {
        let Wall::Machine(machine) = &mut self.wall else {
            return Ok(false);
        };
        let boots = machine.boots_instead(&self.container)?;
        self.init.pid = machine.pid;
        Ok(boots)
    }

    /// When its machine is to be looked at although nothing happened.
    pub(crate) fn machine_wakes_at(&self) -> Option<Instant> {
        self.machine_ref()?.wake_at()
    }

    /// The same, to look at.
    pub(crate) fn machine_ref(&self) -> Option<&Machine> {
        match &self.wall {
            Wall::Machine(machine) => Some(machine),
            Wall::Namespaces(_) => None,
        }
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
        let Wall::Namespaces(init_handle) = &mut self.wall else {
            return Err(Failure::unknown("its machine starts it"));
        };
        if let Err(error) = init_handle.start() {
            let failure = Failure::from(error);
            self.init.never_ran(&failure);
            return Err(failure);
        }
        self.init.phase = Phase::Running;
        open_input(&mut self.init);
        // A container without memory controller has no OOM events; nothing else depends on it.
        self.oom = self.cgroup.oom_notifier().ok();
        Ok(self.init.pid)
    }

    /// Announces an exec.
    pub(crate) fn add_exec(
        &mut self,
        request: &api::ExecProcessRequest,
        key: u64,
    ) -> Result<(), Failure> {
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
        let spec: atoll_spec::Process = serde_json::from_slice(&request.spec.value)
            .map_err(|error| Failure::invalid(format!("bad process to exec: {error}")))?;
        let io = IoNames {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        // The process's side is opened by the start, the rest now: clients attach in between.
        let (stdio, has_stdin) = if self.machine().is_some() {
            stdio::open_remote(&io, true)?
        } else {
            let Opened { process, mut ours } = stdio::open(&io, true)?;
            ours.hold(process);
            (ours, false)
        };
        self.execs.push(Exec {
            key,
            process: Process::new(request.exec_id.clone(), io, stdio),
            spec: Some(spec),
            has_stdin,
        });
        Ok(())
    }

    /// Starts an announced exec of a container that is in no machine.
    pub(crate) fn start_exec(&mut self, exec_id: &str) -> Result<u32, Failure> {
        let container = self.container.clone();
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
        // Without a pid namespace nobody else ends what the init process started.
        if was_init
            && !has_own_pids
            && let Err(error) = self.container.kill(libc::SIGKILL, true)
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
            self.container.kill(number, all)?;
            if signal == libc::SIGKILL.cast_unsigned() && self.is_paused {
                self.is_paused = self.cgroup.is_frozen();
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

    pub(crate) fn pause(&mut self) -> Result<(), Failure> {
        match &self.wall {
            Wall::Namespaces(_) => self.container.pause()?,
            Wall::Machine(_) if !matches!(self.init.phase, Phase::Running) || self.is_paused => {
                return Err(Failure::precondition("the container is not running"));
            }
            Wall::Machine(machine) => machine.set_paused(true)?,
        }
        self.is_paused = true;
        Ok(())
    }

    pub(crate) fn resume(&mut self) -> Result<(), Failure> {
        match &self.wall {
            Wall::Namespaces(_) => self.container.resume()?,
            Wall::Machine(_) if !self.is_paused => {
                return Err(Failure::precondition("the container is not paused"));
            }
            Wall::Machine(machine) => machine.set_paused(false)?,
        }
        self.is_paused = false;
        Ok(())
    }

    pub(crate) fn pids(&self) -> Result<Vec<u32>, Failure> {
        Ok(self.container.pids()?)
    }

    /// Changes limits, given as OCI `linux.resources`.
    pub(crate) fn update(&mut self, resources: &[u8]) -> Result<(), Failure> {
        let resources: Resources = serde_json::from_slice(resources)
            .map_err(|error| Failure::invalid(format!("bad resources: {error}")))?;
        let resources = match self.machine() {
            None => resources,
            Some(_) => machine::outer(resources)?,
        };
        self.container.update(&resources)?;
        self.cgroup = self.container.cgroup()?;
        Ok(())
    }

    pub(crate) fn stats(&self) -> containerd_shim_protos::protobuf::well_known_types::any::Any {
        crate::metrics::pack(&self.cgroup.stats(), self.cgroup.is_v2())
    }

    /// Whether the OOM killer was here since the last call.
    pub(crate) fn noticed_oom(&mut self) -> bool {
        if let Some(oom) = &self.oom {
            oom.drain();
        }
        let kills = self.cgroup.oom_kills();
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
            oom_killed: self.guest_oom || self.cgroup.oom_kills() > 0,
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

    /// Removes a container that could not be made.
    pub(crate) fn abandon(&mut self) {
        self.init.stdio.finish();
        match self.container.delete(true) {
            Err(error) if error.kind() != atoll_container::ErrorKind::NotFound => {
                report(format_args!("cannot remove the container: {error}"));
            }
            _ => {}
        }
    }

    /// Removes the container; its init process has ended or was never started.
    pub(crate) fn delete(&mut self) -> Result<Exit, Failure> {
        let exit = match self.init.phase {
            Phase::Exited(exit) => exit,
            Phase::Created => Exit::never_started(0),
            _ => return Err(Failure::precondition("cannot delete a running container")),
        };
        let in_machine = self.machine().is_some();
        match self.container.delete(in_machine) {
            Err(error) if error.kind() == atoll_container::ErrorKind::NotFound => {}
            other => other?,
        }
        self.init.stdio.finish();
        Ok(exit)
    }
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
