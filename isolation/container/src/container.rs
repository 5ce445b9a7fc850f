//! A handle on a container by its state folder.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use atoll_cgroup::{Cgroup, Hierarchies, Stats, systemd};
use atoll_resctrl::{Resctrl, Stats as ShareStats};
use atoll_spec::{NamespaceKind, Resources, State, Status};
use atoll_sys::Errno;
use atoll_sys::process;
use atoll_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::apply::control::{Message, said_in};
use crate::apply::spawn::launch_failure;
use crate::create::{oci_state, open_recorded, unmount_foreign};
use crate::error::{Error, Result, kernel};
use crate::exec::{self, is_alive};
use crate::state::{self, Record};
use crate::{ContainerId, ExecRequest, hook};

/// A new container and its first process.
#[derive(Debug)]
pub struct Created {
    /// The container.
    pub container: Container,
    /// Its first process, waiting to be started.
    pub init: InitProcess,
}

/// A container's first process as its maker has it.
#[derive(Debug)]
pub struct InitProcess {
    /// Process id in the caller's PID namespace.
    pub pid: u32,
    /// Refers to the process, which is a child of the caller.
    pub pidfd: OwnedFd,
    /// The terminal's master, if one was asked for.
    pub terminal: Option<OwnedFd>,
    pub(crate) control: Option<OwnedFd>,
    pub(crate) command: String,
    pub(crate) cwd: String,
    pub(crate) container: Container,
}

/// A process run by [`Container::exec`], executing its program.
#[derive(Debug)]
pub struct ExecProcess {
    /// Process id in the caller's PID namespace.
    pub pid: u32,
    /// Refers to the process, which is a child of the caller.
    pub pidfd: OwnedFd,
    /// The terminal's master, if one was asked for.
    pub terminal: Option<OwnedFd>,
}

/// A container below a state root.
#[derive(Debug, Clone)]
pub struct Container {
    id: ContainerId,
    folder: PathBuf,
}

impl Container {
    /// Opens a container's state.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn load(state_root: &Path, id: &ContainerId) -> Result<Self> {
        let folder = state::folder_of(state_root, id);
        if !folder.join("state.json").is_file() {
            return Err(Error::NotFound(id.clone()));
        }
        Ok(Self {
            id: id.clone(),
            folder,
        })
    }

    /// Removes the folder of a container whose maker was killed before it wrote a record: there is
    /// nothing else of it. One that doesn't exist is fine.
    ///
    /// Only when nobody is making a container of this id right now.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] when there is a record, [`Error::File`].
    pub fn delete_unrecorded(state_root: &Path, id: &ContainerId) -> Result<()> {
        let folder = state::folder_of(state_root, id);
        if state::read(&folder)?.is_some() {
            return Err(Error::AlreadyExists(id.clone()));
        }
        state::remove(&folder)
    }

    /// Every container below a state root, by id.
    #[must_use]
    pub fn list(state_root: &Path) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(state_root) else {
            return Vec::new();
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let ids = names.filter_map(|name| name.parse().ok());
        let mut found: Vec<Self> = ids
            .filter_map(|id| Self::load(state_root, &id).ok())
            .collect();
        found.sort_by(|a, b| a.id.cmp(&b.id));
        found
    }

    /// The container's id.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Whether it lives in a machine: then its processes are the guest's, and on this host there is only who keeps it.
    ///
    /// # Errors
    /// As [`Self::state`].
    pub fn is_in_machine(&self) -> Result<bool> {
        Ok(self.record()?.in_machine)
    }

    /// Its state folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn record(&self) -> Result<Record> {
        state::read(&self.folder)?.ok_or_else(|| Error::NotFound(self.id.clone()))
    }

    /// The container's state now.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it was deleted, [`Error::File`] when its state can't be read.
    pub fn state(&self) -> Result<State> {
        let record = self.record()?;
        Ok(oci_state(&record, self.status_of(&record)))
    }

    /// When it was made (RFC 3339), and its root file system's folder.
    ///
    /// # Errors
    /// As [`Self::state`].
    pub fn origin(&self) -> Result<(String, PathBuf)> {
        let record = self.record()?;
        Ok((record.created, record.rootfs))
    }

    /// The user who made it.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn owner(&self) -> Result<u32> {
        let found = fs::metadata(&self.folder);
        let found = found.map_err(|source| state::file("look at", &self.folder, source))?;
        Ok(found.uid())
    }

    pub(crate) fn status_of(&self, record: &Record) -> Status {
        if !is_alive(record) {
            return Status::Stopped;
        }
        if state::fifo_path(&self.folder).exists() {
            return Status::Created;
        }
        if Cgroup::open(record.cgroup.clone()).is_frozen() {
            return Status::Paused;
        }
        Status::Running
    }

    /// Its control groups.
    ///
    /// # Errors
    /// As [`Self::state`].
    pub fn cgroup(&self) -> Result<Cgroup> {
        Ok(Cgroup::open(self.record()?.cgroup))
    }

    /// Whether the first process waits at the fifo, rather than for its maker.
    pub(crate) fn waits_at_fifo(&self) -> bool {
        state::report_path(&self.folder).exists()
    }

    /// Notes that the program is executed or never will be.
    pub(crate) fn mark_started(&self) {
        let _ = fs::remove_file(state::fifo_path(&self.folder));
    }

    /// Runs the hooks for after the start; when one fails the container is stopped.
    ///
    /// Spec: OCI runtime-spec 1.3, runtime.md#lifecycle.
    ///
    /// # Errors
    /// [`Error::Hook`] for the first that fails.
    pub(crate) fn run_poststart(&self) -> Result<()> {
        let record = self.record()?;
        if record.poststart.is_empty() {
            return Ok(());
        }
        let state = oci_state(&record, Status::Running);
        let outcome = hook::run("poststart", &record.poststart, &state);
        if outcome.is_err() {
            let cgroup = Cgroup::open(record.cgroup.clone());
            if let Some(pidfd) = open_recorded(&record) {
                let _ = process::send_signal(pidfd.as_fd(), libc::SIGKILL);
                let _ = cgroup.kill_all();
                let _ = await_end(&pidfd);
            }
        }
        outcome
    }

    /// Lets the created container's first process execute its program, from any process.
    ///
    /// # Errors
    /// [`Error::WrongStatus`] unless it is created and was made to be started by anyone; errors of
    /// the command.
    pub fn start(&self) -> Result<()> {
        let record = self.record()?;
        let status = self.status_of(&record);
        let wrong = || Error::WrongStatus {
            id: self.id.clone(),
            action: "start",
            status,
        };
        if status != Status::Created {
            return Err(wrong());
        }
        let path = state::fifo_path(&self.folder);
        let open = File::options()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path);
        // Without a reader nobody waits there: it is started by its maker.
        let mut fifo = open.map_err(|_| wrong())?;
        fifo.write_all(b"s")
            .map_err(|source| state::file("write", &path, source))?;
        self.mark_started();
        await_no_reader(&fifo).map_err(|errno| kernel("wait for the program", errno))?;
        self.read_report(&record)?;
        self.run_poststart()
    }

    /// The failure the first process wrote down, if any.
    fn read_report(&self, record: &Record) -> Result<()> {
        let bytes = fs::read(state::report_path(&self.folder)).unwrap_or_default();
        let Some(Message::Failed { step, errno }) = Message::decode(&bytes) else {
            return Ok(());
        };
        if let Some(pidfd) = open_recorded(record) {
            // It says so before it ends.
            let _ = await_end(&pidfd);
        }
        let command = command_of(record);
        let said = said_in(&bytes);
        Err(launch_failure(step, errno, &said, &command, ""))
    }

    /// Sends a signal by number to the first process, or with `all` to every process.
    ///
    /// SIGKILL reaches every process of a container without a PID namespace of its own in any case, also when the first
    /// is gone: nothing else would end them.
    ///
    /// # Errors
    /// [`Error::NotRunning`] when it is stopped.
    pub fn kill(&self, signal: i32, all: bool) -> Result<()> {
        let record = self.record()?;
        if all {
            return self.kill_all(&record, signal);
        }
        let is_known = !record.cgroup.is_empty() && !record.in_machine;
        if signal == libc::SIGKILL && is_known && !record.ends_with_first() {
            return match pids_of(&record)?.is_empty() {
                true => Err(Error::NotRunning(self.id.clone())),
                false => self.kill_all(&record, signal),
            };
        }
        let Some(pidfd) = open_recorded(&record) else {
            return Err(Error::NotRunning(self.id.clone()));
        };
        match process::send_signal(pidfd.as_fd(), signal) {
            Err(Errno::SRCH) => return Err(Error::NotRunning(self.id.clone())),
            outcome => outcome.map_err(|errno| kernel(format!("send signal {signal}"), errno))?,
        }
        if signal == libc::SIGKILL {
            // On cgroup v1 a frozen process doesn't die before it is thawed.
            let cgroup = Cgroup::open(record.cgroup);
            if cgroup.is_frozen() {
                cgroup.thaw()?;
            }
        }
        Ok(())
    }

    fn kill_all(&self, record: &Record, signal: i32) -> Result<()> {
        let cgroup = Cgroup::open(record.cgroup.clone());
        if signal == libc::SIGKILL && !record.cgroup.is_empty() {
            return Ok(cgroup.kill_all()?);
        }
        for pid in pids_of(record)? {
            let sent =
                process::open(pid).and_then(|pidfd| process::send_signal(pidfd.as_fd(), signal));
            match sent {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(kernel(format!("send signal {signal} to {pid}"), errno)),
            }
        }
        Ok(())
    }

    /// Removes the container's cgroups and state; with `force` kills it first.
    ///
    /// A container that is only created is killed in any case.
    ///
    /// # Errors
    /// [`Error::NotStopped`] when it runs and `force` isn't given.
    pub fn delete(&self, force: bool) -> Result<()> {
        let record = self.record()?;
        let status = self.status_of(&record);
        if !force && !matches!(status, Status::Stopped | Status::Created) {
            return Err(Error::NotStopped {
                id: self.id.clone(),
                status,
            });
        }
        let cgroup = Cgroup::open(record.cgroup.clone());
        let owns_pids = record.ends_with_first();
        if status != Status::Stopped || !owns_pids {
            if let Some(pidfd) = open_recorded(&record) {
                let _ = process::send_signal(pidfd.as_fd(), libc::SIGKILL);
                if cgroup.is_frozen() {
                    cgroup.thaw()?;
                }
                let _ = await_end(&pidfd);
            }
            if !owns_pids {
                cgroup.kill_all()?;
            }
        } else if record.pid == 0 {
            // Its maker was killed between the clone and the record.
            cgroup.kill_all()?;
        }
        // Also without systemd, or when it fails, nothing is to be left.
        let stopped = record
            .systemd_unit
            .as_ref()
            .map(|unit| systemd::stop(&unit.name, unit.is_system));
        cgroup.remove()?;
        stopped.transpose()?;
        if let Some(group) = &record.resctrl {
            group.remove()?;
        }
        unmount_foreign(&record)?;
        state::remove(&self.folder)?;
        if !record.poststop.is_empty() {
            let state = oci_state(&record, Status::Stopped);
            // A failing hook keeps neither the others from running nor the container from being deleted.
            for hook in &record.poststop {
                let _ = hook::run("poststop", std::slice::from_ref(hook), &state);
            }
        }
        Ok(())
    }

    /// Runs one more process and waits until it executes its program.
    ///
    /// May be called from any thread of a multi-threaded process.
    ///
    /// # Errors
    /// [`Error::WrongStatus`] unless it runs; [`Error::InMachine`]; errors of the command.
    pub fn exec(&self, request: ExecRequest) -> Result<ExecProcess> {
        let record = self.record()?;
        if record.in_machine {
            // Its namespaces are not here: the program would run outside every wall.
            return Err(match self.status_of(&record) {
                Status::Stopped => Error::WrongStatus {
                    id: self.id.clone(),
                    action: exec::ACTION,
                    status: Status::Stopped,
                },
                _ => Error::InMachine(self.id.clone()),
            });
        }
        exec::exec(self, &record, request)
    }

    /// Process ids of every process, in the caller's PID namespace.
    ///
    /// # Errors
    /// [`Error::Cgroup`].
    pub fn pids(&self) -> Result<Vec<u32>> {
        pids_of(&self.record()?)
    }

    /// Freezes every process.
    ///
    /// # Errors
    /// [`Error::WrongStatus`] unless it runs.
    pub fn pause(&self) -> Result<()> {
        let record = self.record()?;
        let status = self.status_of(&record);
        if !matches!(status, Status::Running | Status::Created) {
            return Err(Error::WrongStatus {
                id: self.id.clone(),
                action: "pause",
                status,
            });
        }
        Ok(Cgroup::open(record.cgroup).freeze()?)
    }

    /// Thaws every process.
    ///
    /// # Errors
    /// [`Error::WrongStatus`] unless it is paused.
    pub fn resume(&self) -> Result<()> {
        let record = self.record()?;
        let status = self.status_of(&record);
        if status != Status::Paused {
            return Err(Error::WrongStatus {
                id: self.id.clone(),
                action: "resume",
                status,
            });
        }
        Ok(Cgroup::open(record.cgroup).thaw()?)
    }

    /// Changes limits; those not named stay.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Plan`], [`Error::Cgroup`].
    pub fn update(&self, resources: &Resources) -> Result<()> {
        let record = self.record()?;
        if !is_alive(&record) {
            return Err(Error::NotRunning(self.id.clone()));
        }
        let resources = crate::plan::resources(resources, false)?;
        let layout = Hierarchies::detect()?.layout();
        let plan = atoll_cgroup::plan_update(layout, &record.cgroup, &resources)?;
        if let Some(unit) = &record.systemd_unit {
            let facts = systemd::detect(unit.is_system)?;
            let properties = systemd::properties(&resources, layout, facts.version, false)?;
            systemd::change(&unit.name, unit.is_system, &properties)?;
        }
        Ok(Cgroup::open(record.cgroup).apply(&plan)?)
    }

    /// Changes the share of caches and memory bandwidth of its group, and with it that of whoever else is in it.
    ///
    /// * `l3_cache_schema`, `mem_bw_schema`: lines for `schemata`; absent ones stay.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Plan`] without a group or hardware for it, [`Error::Resctrl`].
    pub fn update_share(
        &self,
        l3_cache_schema: Option<&str>,
        mem_bw_schema: Option<&str>,
    ) -> Result<()> {
        let refuse = |field: &str, reason: &str| {
            Err(Error::Plan {
                field: field.to_owned(),
                reason: reason.to_owned(),
            })
        };
        let record = self.record()?;
        let Some(group) = &record.resctrl else {
            return refuse(
                "linux.intelRdt",
                "updating a non-existent Intel RDT configuration is not supported",
            );
        };
        if !is_alive(&record) {
            return Err(Error::NotRunning(self.id.clone()));
        }
        let resctrl = Resctrl::at(group.root());
        if l3_cache_schema.is_some() && !resctrl.has("L3") {
            return refuse(
                "l3CacheSchema",
                "Intel RDT/CAT: l3 cache schema is not enabled",
            );
        }
        if mem_bw_schema.is_some() && !resctrl.has("MB") {
            return refuse(
                "memBwSchema",
                "Intel RDT/MBA: memory bandwidth schema is not enabled",
            );
        }
        let lines = l3_cache_schema.into_iter().chain(mem_bw_schema);
        Ok(group.write_schemata(&lines.map(str::to_owned).collect::<Vec<_>>())?)
    }

    /// The container's share of caches and memory bandwidth and what it uses of them; `None` without one of its own.
    ///
    /// # Errors
    /// As [`Self::state`].
    pub fn share(&self) -> Result<Option<ShareStats>> {
        Ok(self.record()?.resctrl.map(|group| group.stats()))
    }

    /// What the container uses.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn stats(&self) -> Result<Stats> {
        let record = self.record()?;
        if !is_alive(&record) {
            return Err(Error::NotRunning(self.id.clone()));
        }
        Ok(Cgroup::open(record.cgroup).stats())
    }
}

/// Process ids of every process; without control groups of its own, those of its PID namespace.
fn pids_of(record: &Record) -> Result<Vec<u32>> {
    if !record.cgroup.is_empty() {
        return Ok(Cgroup::open(record.cgroup.clone()).pids()?);
    }
    if !is_alive(record) {
        return Ok(Vec::new());
    }
    if !record.namespaces.contains(&NamespaceKind::Pid) {
        return Ok(vec![record.pid]);
    }
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace(record.pid);
    let path = Path::new("/proc");
    let entries = fs::read_dir(path).map_err(|source| state::file("read", path, source))?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(pids
        .filter(|pid| own.is_some() && namespace(*pid) == own)
        .collect())
}

/// The program's name as the configuration has it, for errors.
fn command_of(record: &Record) -> String {
    let spec = atoll_spec::Spec::load(&record.bundle.join("config.json"));
    let process = spec.ok().and_then(|spec| spec.process);
    process
        .and_then(|process| process.args.into_iter().next())
        .unwrap_or_default()
}

/// Waits until nobody has the fifo open for reading: the program is executed, or the process gone.
fn await_no_reader(fifo: &File) -> atoll_sys::Result<()> {
    loop {
        let mut fds = [PollFd::new(fifo, PollFlags::empty())];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        if fds[0].revents().contains(PollFlags::ERR) {
            return Ok(());
        }
    }
}

/// Waits up to ten seconds for a process to end; it may be somebody else's child.
pub(crate) fn await_end(pidfd: &OwnedFd) -> atoll_sys::Result<()> {
    let limit = Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&limit)).map(|_| ())
}
