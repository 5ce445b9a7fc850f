//! Containers that live in a virtual machine: on this host there is only the machine's monitor, in their control groups.

use atoll_cgroup::Cgroup;
use atoll_spec::{Linux, Spec};
use atoll_sys::process;

use crate::container::Container;
use crate::create::absolute;
use crate::error::{Result, kernel};
use crate::plan::{HostFacts, cgroup_plan};
use crate::scope::{self, NewScope};
use crate::state::{self, Folder, Record};
use crate::{ContainerId, CreateRequest};

/// State folder and control groups of such a container, before there is a monitor. Dropped, they are gone.
#[derive(Debug)]
pub struct Monitored {
    id: ContainerId,
    state_root: std::path::PathBuf,
    folder: Option<Folder>,
    record: Record,
    cgroup: Cgroup,
    scope: Option<NewScope>,
}

impl Monitored {
    /// Claims the id and makes the control groups. Of `spec`, only the path and limits of control groups count here.
    ///
    /// # Errors
    /// [`crate::Error::AlreadyExists`], [`crate::Error::Plan`], [`crate::Error::Cgroup`]; nothing is left then.
    pub fn prepare(request: &CreateRequest, spec: &Spec) -> Result<Self> {
        let none = Linux::default();
        let linux = spec.linux.as_ref().unwrap_or(&none);
        let facts = HostFacts::detect(&Spec::default(), request)?;
        let (plan, scope) = cgroup_plan(
            linux,
            request,
            &facts.hierarchies,
            facts.systemd.as_ref(),
            &spec.annotations,
        )?;
        let folder = Folder::make(&request.state_root, &request.id)?;
        let mut record = Record::new(&request.id);
        record.oci_version.clone_from(&spec.oci_version);
        record.bundle = absolute(&request.bundle)?;
        record.rootfs = record.bundle.join("rootfs");
        record.cgroup.clone_from(&plan.paths);
        record.annotations.clone_from(&spec.annotations);
        record.in_machine = true;
        record.systemd_unit = scope.as_ref().map(scope::unit_of);
        state::write(folder.path(), &record)?;
        let scope = scope.as_ref().map(NewScope::start).transpose()?;
        let occupant = scope.as_ref().and_then(NewScope::occupant);
        let cgroup = Cgroup::create_around(&plan, occupant)?;
        Ok(Self {
            id: request.id.clone(),
            state_root: request.state_root.clone(),
            folder: Some(folder),
            record,
            cgroup,
            scope,
        })
    }

    /// The container's folder below the state root.
    #[must_use]
    pub fn folder(&self) -> std::path::PathBuf {
        state::folder_of(&self.state_root, &self.id)
    }

    /// Puts the monitor `pid`, a child of the caller, into the control groups, and makes it the container's process.
    ///
    /// # Errors
    /// [`crate::Error::Cgroup`], [`crate::Error::Kernel`], [`crate::Error::File`]; the monitor is the caller's to end.
    pub fn adopt(mut self, pid: u32) -> Result<Container> {
        self.cgroup.add_pid(pid)?;
        if let Some(scope) = &mut self.scope {
            scope.vacate();
        }
        self.record.pid = pid;
        self.record.start_ticks = start_ticks(pid)?;
        let Some(folder) = self.folder.take() else {
            return Err(crate::Error::Vanished);
        };
        if let Err(error) = state::write(folder.path(), &self.record) {
            self.folder = Some(folder);
            return Err(error);
        }
        folder.keep();
        if let Some(scope) = self.scope.take() {
            scope.keep();
        }
        Container::load(&self.state_root, &self.id)
    }
}

impl Container {
    /// Puts the monitor `pid`, a child of the caller, into the place of one that has ended.
    ///
    /// # Errors
    /// As [`Monitored::adopt`]; the monitor is the caller's to end.
    pub fn adopt_again(&self, pid: u32) -> Result<()> {
        Cgroup::open(self.record()?.cgroup).add_pid(pid)?;
        self.kept_by(pid)
    }

    /// Makes `pid` the container's process: the monitor, or who ends it and ends with it.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`], [`crate::Error::File`], [`crate::Error::NotFound`].
    pub fn kept_by(&self, pid: u32) -> Result<()> {
        let mut record = self.record()?;
        record.pid = pid;
        record.start_ticks = start_ticks(pid)?;
        state::write(self.folder(), &record)
    }
}

fn start_ticks(pid: u32) -> Result<u64> {
    let time = process::start_time(pid);
    let time = time.map_err(|errno| kernel("read the start time of the monitor", errno))?;
    Ok(time.ticks)
}

impl Drop for Monitored {
    fn drop(&mut self) {
        if self.folder.is_some() {
            // A monitor that is in there already keeps them until the caller has ended it.
            let _ = self.cgroup.kill_all();
            self.scope = None;
            let _ = self.cgroup.remove();
        }
    }
}
