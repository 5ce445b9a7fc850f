//! A handle on a container's state folder.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use atoll_spec::{Resources, Spec, State};

use crate::error::{Error, Result};
use crate::{ContainerId, CreateRequest, ExecRequest};

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
}

impl InitProcess {
    /// Lets the process execute its program and waits until it does.
    ///
    /// # Errors
    /// As [`create`] for commands; the process is gone then.
    pub fn start(&mut self) -> Result<()> {
        Err(Error::Vanished)
    }
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

/// Makes a container: when this returns, everything is set up but its program isn't executed.
///
/// # Errors
/// [`Error`]; nothing is left behind then.
pub fn create(request: CreateRequest, spec: &Spec) -> Result<Created> {
    spec.validate()?;
    Err(Error::NotFound(request.id))
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
        let container = Self {
            id: id.clone(),
            folder: state_root.join(id.as_str()),
        };
        if !container.folder.join("state.json").is_file() {
            return Err(Error::NotFound(id.clone()));
        }
        Ok(container)
    }

    /// Every container below a state root, by id.
    #[must_use]
    pub fn list(state_root: &Path) -> Vec<Self> {
        let _ = state_root;
        Vec::new()
    }

    /// The container's id.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// The container's state now.
    ///
    /// # Errors
    /// [`Error::File`] when its state can't be read.
    pub fn state(&self) -> Result<State> {
        Err(Error::NotFound(self.id.clone()))
    }

    /// Lets the created container's first process execute its program, from any process.
    ///
    /// # Errors
    /// [`Error::WrongStatus`] unless it is created; errors of the command.
    pub fn start(&self) -> Result<()> {
        Err(Error::NotFound(self.id.clone()))
    }

    /// Sends a signal by number to the first process, or with `all` to every process.
    ///
    /// # Errors
    /// [`Error::WrongStatus`] when it is stopped.
    pub fn kill(&self, signal: i32, all: bool) -> Result<()> {
        let _ = (signal, all);
        Err(Error::NotFound(self.id.clone()))
    }

    /// Removes the container's cgroups and state; with `force` kills it first.
    ///
    /// # Errors
    /// [`Error::WrongStatus`] when it runs and `force` isn't given.
    pub fn delete(&self, force: bool) -> Result<()> {
        let _ = force;
        Err(Error::NotFound(self.id.clone()))
    }

    /// Runs one more process and waits until it executes its program.
    ///
    /// # Errors
    /// [`Error::WrongStatus`] unless it runs; errors of the command.
    pub fn exec(&self, request: ExecRequest) -> Result<ExecProcess> {
        let _ = request;
        Err(Error::NotFound(self.id.clone()))
    }

    /// Process ids of every process, in the caller's PID namespace.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn pids(&self) -> Result<Vec<u32>> {
        Err(Error::NotFound(self.id.clone()))
    }

    /// Freezes every process.
    ///
    /// # Errors
    /// [`Error::WrongStatus`] unless it runs.
    pub fn pause(&self) -> Result<()> {
        Err(Error::NotFound(self.id.clone()))
    }

    /// Thaws every process.
    ///
    /// # Errors
    /// [`Error::WrongStatus`] unless it is paused.
    pub fn resume(&self) -> Result<()> {
        Err(Error::NotFound(self.id.clone()))
    }

    /// Changes limits; those not named stay.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn update(&self, resources: &Resources) -> Result<()> {
        let _ = resources;
        Err(Error::NotFound(self.id.clone()))
    }
}
