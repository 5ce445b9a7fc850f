//! Units of systemd's that make control groups.

use atoll_cgroup::systemd::{self, ScopePlan};
use atoll_sys::placeholder::Placeholder;

use crate::apply::control::{self, Go};
#[cfg(doc)]
use crate::apply::program::Op;
use crate::apply::spawn::Child;
use crate::error::{Result, kernel};
use crate::state::SystemdUnit;

impl SystemdUnit {
    /// Whether a process must be moved into it by systemd: its user may not write to the group that both are below.
    ///
    /// Kernel: Documentation/admin-guide/cgroup-v2.rst, "Delegation Containment".
    pub(crate) fn moves_processes(&self) -> bool {
        !self.is_system
    }

    /// Has systemd move a process that waits for it, [`Op::AwaitMove`], and lets that go on.
    ///
    /// * `below`: a cgroup in the unit's, with a slash in front; the unit's own is "".
    ///
    /// # Errors
    /// [`crate::Error::Cgroup`] of systemd's.
    pub(crate) fn adopt(&self, child: &Child, below: &str) -> Result<()> {
        systemd::attach(&self.name, self.is_system, below, child.pid)?;
        control::tell(child.control(), Go::Moved);
        Ok(())
    }
}

/// What is remembered of a scope.
pub(crate) fn unit_of(plan: &ScopePlan) -> SystemdUnit {
    SystemdUnit {
        name: plan.unit.clone(),
        is_system: plan.is_system,
    }
}

/// A scope of systemd's, with a process in it so that it is there before the container; stopped unless kept.
#[derive(Debug)]
pub(crate) struct NewScope {
    unit: Option<SystemdUnit>,
    occupant: Option<Placeholder>,
}

impl NewScope {
    /// Makes it.
    ///
    /// # Errors
    /// [`crate::Error::Cgroup`] of systemd's, [`crate::Error::Kernel`].
    pub(crate) fn start(plan: &ScopePlan) -> Result<Self> {
        let occupant = Placeholder::new();
        let occupant = occupant.map_err(|errno| kernel("make a process for the scope", errno))?;
        plan.start(occupant.pid)?;
        Ok(Self {
            unit: Some(unit_of(plan)),
            occupant: Some(occupant),
        })
    }

    /// The process in it.
    pub(crate) fn occupant(&self) -> Option<u32> {
        self.occupant.as_ref().map(|occupant| occupant.pid)
    }

    /// Ends the process in it: others have joined.
    pub(crate) fn vacate(&mut self) {
        self.occupant = None;
    }

    /// Leaves it to those who joined it.
    pub(crate) fn keep(mut self) {
        self.unit = None;
    }
}

impl Drop for NewScope {
    fn drop(&mut self) {
        self.occupant = None;
        if let Some(unit) = &self.unit {
            let _ = systemd::stop(&unit.name, unit.is_system);
        }
    }
}
