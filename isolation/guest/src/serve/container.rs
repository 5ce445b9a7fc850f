//! A container of this machine and its processes.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use atoll_cgroup::Hierarchies;
use atoll_container::{
    Container, ContainerId, CreateRequest, Error, ErrorKind, ExecRequest, InitProcess, StdioRequest,
};
use atoll_guest::protocol::{Create, Exec, FILES, Fault, FaultKind, MEMBERS, SHARE, Usage};
use atoll_spec::{NamespaceKind, Resources};
use atoll_sys::process;
use rustix::mount::{UnmountFlags, unmount};

use super::pump::Pump;
use super::streams;

/// Folder of the container's state.
pub(super) const STATE_ROOT: &str = "/run/atoll/state";
/// Folder of its bundle: nothing is in it, all paths are absolute.
pub(super) const BUNDLE: &str = "/run/atoll/bundle";

/// The container.
pub(super) struct Guest {
    id: String,
    container: Container,
    init: InitProcess,
    processes: Vec<Running>,
    is_started: bool,
    /// Whether processes may be left when its first has ended.
    outlives_first: bool,
    /// Its folder in the share, if it is not the machine's first.
    folder: Option<PathBuf>,
}

/// A process whose end the host wants to hear of.
struct Running {
    /// Empty for the first.
    name: String,
    pid: u32,
    terminal: Option<OwnedFd>,
    has_ended: bool,
}

impl Guest {
    /// Makes the container; its streams are connected.
    pub(super) fn create(
        name: &str,
        create: Create,
        hierarchies: &Hierarchies,
        pumps: &mut Vec<Pump>,
    ) -> Result<Self, Fault> {
        let folder = create.folder.as_deref().map(member_folder).transpose()?;
        let made = Self::make(name, create, hierarchies, pumps);
        if let (Err(_), Some(folder)) = (&made, &folder) {
            let_go(folder);
        }
        made.map(|guest| Self { folder, ..guest })
    }

    fn make(
        name: &str,
        create: Create,
        hierarchies: &Hierarchies,
        pumps: &mut Vec<Pump>,
    ) -> Result<Self, Fault> {
        let id: ContainerId = name.parse().map_err(|error: Error| fault(&error))?;
        std::fs::create_dir_all(BUNDLE)
            .map_err(|error| other(format!("make {BUNDLE}: {error}")))?;
        let opened = streams::open(name, "", create.streams).map_err(no_streams)?;
        let mut request = CreateRequest::new(id, STATE_ROOT.into(), PathBuf::from(BUNDLE));
        request.stdio = opened.process;
        request.hierarchies = Some(hierarchies.clone());
        let made = atoll_container::create(request, &create.spec).map_err(|error| fault(&error))?;
        let linux = create.spec.linux.as_ref();
        let has_own_pids = linux.is_some_and(|linux| linux.makes_namespace(NamespaceKind::Pid));
        let mut init = made.init;
        let terminal = init.terminal.take();
        pumps.extend(opened.pumps);
        if let (Some(master), Some(socket)) = (&terminal, opened.terminal) {
            pumps.extend(streams::join(master, socket).map_err(no_streams)?);
        }
        Ok(Self {
            id: name.to_owned(),
            container: made.container,
            processes: vec![Running {
                name: String::new(),
                pid: init.pid,
                terminal,
                has_ended: false,
            }],
            init,
            is_started: false,
            outlives_first: !has_own_pids,
            folder: None,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.init.pid
    }

    /// Executes the program.
    pub(super) fn start(&mut self) -> Result<(), Fault> {
        self.init.start().map_err(|error| fault(&error))?;
        self.is_started = true;
        Ok(())
    }

    /// Runs one more process; gives its id.
    pub(super) fn exec(&mut self, exec: Exec, pumps: &mut Vec<Pump>) -> Result<u32, Fault> {
        if exec.process.is_empty() || self.find(&exec.process).is_ok() {
            return Err(Fault {
                kind: FaultKind::AlreadyExists,
                message: format!("process {} already exists", exec.process),
            });
        }
        let opened = streams::open(&self.id, &exec.process, exec.streams).map_err(no_streams)?;
        if let Some(files) = &exec.files {
            let pid = copy_files(self.init.pid, files, opened.process)?;
            pumps.extend(opened.pumps);
            self.processes.push(Running {
                name: exec.process,
                pid,
                terminal: None,
                has_ended: false,
            });
            return Ok(pid);
        }
        let mut request = ExecRequest::new(exec.spec);
        request.stdio = opened.process;
        let started = self
            .container
            .exec(request)
            .map_err(|error| fault(&error))?;
        pumps.extend(opened.pumps);
        if let (Some(master), Some(socket)) = (&started.terminal, opened.terminal) {
            pumps.extend(streams::join(master, socket).map_err(no_streams)?);
        }
        self.processes.push(Running {
            name: exec.process,
            pid: started.pid,
            terminal: started.terminal,
            has_ended: false,
        });
        Ok(started.pid)
    }

    /// Sends a signal to a process, or to all.
    pub(super) fn signal(&mut self, name: &str, signal: i32, all: bool) -> Result<(), Fault> {
        if name.is_empty() {
            return self
                .container
                .kill(signal, all)
                .map_err(|error| fault(&error));
        }
        let gone = || Fault {
            kind: FaultKind::NotFound,
            message: "process already finished".to_owned(),
        };
        let process = self.find(name)?;
        if process.has_ended {
            return Err(gone());
        }
        // Not reaped yet (that is done in the same thread), so the pid is still the process's.
        match process::open(process.pid)
            .and_then(|pidfd| process::send_signal(pidfd.as_fd(), signal))
        {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::SRCH) => Err(gone()),
            Err(errno) => Err(other(format!("send signal {signal}: {errno}"))),
        }
    }

    /// Gives a process's terminal a size.
    pub(super) fn resize(&mut self, name: &str, rows: u16, columns: u16) -> Result<(), Fault> {
        let Some(terminal) = &self.find(name)?.terminal else {
            return Ok(());
        };
        atoll_sys::terminal::resize(terminal, rows, columns)
            .map_err(|errno| other(format!("resize the terminal: {errno}")))
    }

    /// Every process of the container.
    pub(super) fn pids(&self) -> Result<Vec<u32>, Fault> {
        self.container.pids().map_err(|error| fault(&error))
    }

    /// What it used.
    pub(super) fn usage(&self) -> Result<Usage, Fault> {
        let cgroup = self.container.cgroup().map_err(|error| fault(&error))?;
        let stats = cgroup.stats();
        let (cpu, memory) = (stats.cpu, stats.memory);
        Ok(Usage {
            cpu_ns: [cpu.usage_ns, cpu.user_ns, cpu.system_ns],
            throttled: [cpu.periods, cpu.throttled_periods, cpu.throttled_ns],
            memory_bytes: memory.usage_bytes,
            max_memory_bytes: memory.max_usage_bytes,
            memory_limit_bytes: memory.limit_bytes,
            memory_limit_hits: memory.limit_hits,
            oom_kills: memory.oom_kills,
            memory_details: memory.details,
            pids: stats.pids.current,
            pids_limit: stats.pids.limit,
        })
    }

    /// Changes its limits.
    pub(super) fn update(&self, resources: &Resources) -> Result<(), Fault> {
        let updated = self.container.update(resources);
        updated.map_err(|error| fault(&error))
    }

    /// Removes it, and lets go of its files in the share.
    pub(super) fn delete(&self) -> Result<(), Fault> {
        let is_first = |process: &&Running| process.name.is_empty();
        let first = self.processes.iter().find(is_first);
        if first.is_some_and(|process| !process.has_ended) && self.is_started {
            return Err(Fault {
                kind: FaultKind::WrongStatus,
                message: "cannot delete a running container".to_owned(),
            });
        }
        match self.container.delete(true) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(fault(&error)),
            _ => {}
        }
        if let Some(folder) = &self.folder {
            let_go(folder);
        }
        Ok(())
    }

    /// Notes that the child `pid` ended; gives its name, if the host knows it.
    pub(super) fn ended(&mut self, pid: u32) -> Option<String> {
        let process = self
            .processes
            .iter_mut()
            .find(|process| process.pid == pid && !process.has_ended)?;
        process.has_ended = true;
        process.terminal = None;
        let name = process.name.clone();
        if name.is_empty() {
            if self.outlives_first {
                // Nobody else ends what it started.
                let _ = self.container.kill(libc::SIGKILL, true);
            }
        } else {
            self.processes.retain(|process| process.pid != pid);
        }
        Some(name)
    }

    /// Whether processes were killed for want of memory.
    pub(super) fn oom_killed(&self) -> bool {
        let oom_kills = |cgroup: atoll_cgroup::Cgroup| cgroup.oom_kills() > 0;
        self.container.cgroup().is_ok_and(oom_kills)
    }

    fn find(&mut self, name: &str) -> Result<&mut Running, Fault> {
        let found = self
            .processes
            .iter_mut()
            .find(|process| process.name == name);
        found.ok_or_else(|| Fault {
            kind: FaultKind::NotFound,
            message: format!("process {name} does not exist"),
        })
    }
}

/// Starts our own program beside the container, to copy its files; gives its id.
fn copy_files(
    init: u32,
    files: &atoll_files::Request,
    streams: StdioRequest,
) -> Result<u32, Fault> {
    let StdioRequest::Fds {
        stdin,
        stdout,
        stderr,
    } = streams
    else {
        return Err(other("files are not copied by a terminal".to_owned()));
    };
    let request = serde_json::to_string(files).map_err(|error| other(error.to_string()))?;
    let child = Command::new("/proc/self/exe")
        .args([FILES, &init.to_string(), &request])
        .env_clear()
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr)
        .spawn();
    // Reaped with all others.
    child
        .map(|child| child.id())
        .map_err(|error| other(format!("run what copies files: {error}")))
}

/// There is no container yet.
pub(super) fn no_container() -> Fault {
    Fault {
        kind: FaultKind::NotFound,
        message: "container not created".to_owned(),
    }
}

/// A machine's first container says how the machine is to be, and no other.
pub(super) fn out_of_turn(id: &str) -> Fault {
    Fault {
        kind: FaultKind::AlreadyExists,
        message: format!(
            "container {id}: it exists, or the machine has its first container already"
        ),
    }
}

/// Where the container with this folder has its files.
fn member_folder(name: &str) -> Result<PathBuf, Fault> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(other(format!("{name:?} is no folder of a container")));
    }
    Ok([SHARE, MEMBERS, name].iter().collect())
}

/// Unmounts what the guest's kernel mounted below `folder` when it was walked through: file systems of the host's, which
/// can be unmounted there once nobody has them here.
fn let_go(folder: &Path) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let mut points: Vec<_> = points
        .filter(|point| Path::new(point).starts_with(folder))
        .collect();
    points.reverse();
    for point in points {
        // Not there any more is as good.
        let _ = unmount(point, UnmountFlags::DETACH);
    }
}

/// A failure of the guest's own.
pub(super) fn other(message: String) -> Fault {
    Fault {
        kind: FaultKind::Other,
        message,
    }
}

fn no_streams(errno: rustix::io::Errno) -> Fault {
    other(format!("cannot connect the process's streams: {errno}"))
}

/// An error with its causes, in one line.
fn fault(error: &Error) -> Fault {
    let kind = match error.kind() {
        ErrorKind::NotFound => FaultKind::NotFound,
        ErrorKind::AlreadyExists => FaultKind::AlreadyExists,
        ErrorKind::WrongStatus => FaultKind::WrongStatus,
        ErrorKind::InvalidArgument => FaultKind::InvalidArgument,
        _ => FaultKind::Other,
    };
    Fault {
        kind,
        message: atoll_sys::with_causes(error),
    }
}
