//! A machine made by a command line: `atoll-runtime create` ends, so a keeper stays.
//!
//! ```text
//! atoll-runtime create ── a pair of sockets: Create, with the streams as descriptors ──▶ keeper ── atoll-vmm
//! atoll-runtime start, exec, kill, … ── keeper.sock in the container's state folder ──▶ (a shim)
//! ```
//!
//! To others the keeper is the container's first process: its id is in the state and in the pid file, it becomes a child of
//! whoever reaps that, passes signals on, has the terminal, and ends when the container does, with its exit code. Killed, it
//! takes the machine with it. Everything of the machine is in the state folder, so `delete` removes it.

mod client;
mod serve;

pub use client::{Keeper, KeeperError, Launched, Pending};
pub use serve::PASSED_ON;
pub(crate) use serve::keep;

use atoll_spec::Spec;

/// Whether a configuration asks for a machine, by annotation or `vm` object.
///
/// # Errors
/// A wall that there isn't, by name.
pub fn wants_machine(spec: &Spec) -> Result<bool, KeeperError> {
    crate::machine::is_machine(spec).map_err(|failure| KeeperError::Refused {
        is_gone: false,
        message: failure.message,
    })
}
