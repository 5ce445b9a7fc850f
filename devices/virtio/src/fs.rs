//! File system device (virtio 1.3 §5.11): one host directory shared by FUSE over virtio, served in process.
//!
//! What the guest can reach is what it was given: a node is an `O_PATH` descriptor found by opening one name in
//! another node, without following links; names with `/`, `.` and `..` are refused. Only regular files and directories
//! are ever opened for reading or writing; no device node is made but an overlay's whiteout. So no request reaches a host path outside the
//! share, whatever the guest or other users of the directory do meanwhile.
//!
//! A directory on which the host has mounted another file system is announced as a mount, so that the guest never takes
//! two files for one.
//!
//! Permissions are checked by the guest's kernel (virtiofs always does); what the guest makes belongs to the user who
//! made it, as far as the monitor may give files away.

mod directory;
mod files;
mod nodes;
mod session;
mod wire;
mod xattr;

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use self::session::Session;
use crate::device::{
    DeviceError, DeviceState, DeviceType, RestoreError, VirtioDevice, read_config_bytes,
};
use crate::ring::{Broken, Queues};

pub use self::nodes::{SavedHandle, SavedNode};

/// Bytes of the tag (§5.11.4).
const TAG_BYTES: usize = 36;

/// How a directory is shared.
#[derive(Clone, Debug)]
pub struct FsOptions {
    /// The name the guest mounts it by, 1 to 36 bytes.
    pub tag: String,
    /// The guest cannot change anything.
    pub read_only: bool,
    /// The guest may use it as upper and work directory of an overlay: attributes that only the host's kernel may set
    /// are kept under other names. `trusted.overlay.NAME` is `user.overlay.NAME` on the host, whose overlay reads it
    /// with the option `userxattr`; any other NAME outside `user.` is `user.atoll.NAME`.
    pub overlay_upper: bool,
    /// How many files and directories the guest may know at once; each costs a descriptor.
    pub max_nodes: usize,
    /// How many open files and directories it may have; each costs a descriptor.
    pub max_handles: usize,
    /// How long the guest may trust names and attributes without asking again, in seconds.
    pub cache_seconds: u64,
}

impl FsOptions {
    /// A writable share with room for 65,536 nodes and 8,192 open files.
    pub fn new(tag: impl Into<String>) -> Self {
        Self {
            tag: tag.into(),
            read_only: false,
            overlay_upper: false,
            max_nodes: 1 << 16,
            max_handles: 1 << 13,
            cache_seconds: 1,
        }
    }
}

/// A shared directory in a snapshot: what the guest knows, by path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FsState {
    /// Files and directories, the share itself left out.
    pub nodes: Vec<SavedNode>,
    /// Open files and directories.
    pub handles: Vec<SavedHandle>,
    /// The next node's id.
    pub next_node: u64,
    /// The next handle's id.
    pub next_handle: u64,
}

/// A shared directory.
#[derive(Debug)]
pub struct FsDevice {
    config: [u8; TAG_BYTES + 4],
    session: Session,
}

impl FsDevice {
    /// Shares `directory` (may be `O_PATH`). Needs `/proc` now, to open nodes again by their descriptors later, and to
    /// be made by the process that serves it.
    ///
    /// # Errors
    /// [`DeviceError::Name`] for a tag too long or empty; [`DeviceError::Kernel`] when it is no directory or `/proc` is
    /// missing.
    pub fn new(directory: OwnedFd, options: FsOptions) -> Result<Self, DeviceError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptors = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty())
            .map_err(|errno| DeviceError::Kernel("open /proc/self/fd", errno.into()))?;
        Self::over(directory, descriptors, options)
    }

    /// As [`FsDevice::new`], with `/proc/self/fd` of the serving process as an open directory: for one that has lost
    /// sight of `/proc`.
    ///
    /// # Errors
    /// As [`FsDevice::new`].
    pub fn over(
        directory: OwnedFd,
        descriptors: OwnedFd,
        options: FsOptions,
    ) -> Result<Self, DeviceError> {
        let mut config = [0; TAG_BYTES + 4];
        let tag = options.tag.as_bytes();
        if tag.is_empty() || tag.len() > TAG_BYTES {
            return Err(DeviceError::Name(options.tag, TAG_BYTES));
        }
        config[..tag.len()].copy_from_slice(tag);
        config[TAG_BYTES] = 1;
        Ok(Self {
            config,
            session: Session::new(directory, descriptors, options)?,
        })
    }
}

impl VirtioDevice for FsDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Fs
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        // Forgetting has a queue of its own, so that it never waits (§5.11.2).
        &[128, 256]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_config_bytes(&self.config, offset, data);
    }

    fn activate(&mut self, _features: u64) {}

    fn process(&mut self, queue: usize, queues: &mut Queues<'_>) -> Result<(), Broken> {
        while let Some(mut chain) = queues.pop(queue)? {
            let written = self.session.serve(&mut chain)?;
            queues.push(queue, chain.head(), written)?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.session.forget_everything();
    }

    fn save(&self) -> DeviceState {
        DeviceState::Fs(self.session.save())
    }

    fn restore(&mut self, state: &DeviceState, _features: Option<u64>) -> Result<(), RestoreError> {
        let DeviceState::Fs(state) = state else {
            return Err(RestoreError::Device(DeviceType::Fs));
        };
        self.session.restore(state);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
