//! Units of systemd's that make control groups.

use atoll_cgroup::systemd::{self, ScopePlan};
use atoll_sys::placeholder::Placeholder;

use crate::error::{Result, kernel};
use crate::state::SystemdUnit;

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
