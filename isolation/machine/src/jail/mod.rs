//! The empty room a monitor stands in while its guest runs.
//!
//! ```text
//!   enter: walls      own mount, network, IPC, UTS and cgroup namespaces (a user namespace first, without privilege)
//!          host ends  shared directories, the sockets' folder ─► detached mounts, whose `..` leads nowhere
//!          root       an empty read-only tmpfs, the old root gone
//!          rights     nobody, no groups, no capabilities, limits, no core dump
//!          filter     seccomp: the calls of [`calls`] with the arguments written there, and no other
//! ```
//!
//! Everything of the host is opened before ([`HostEnds`]); what runs inside, a guest's reset too, opens nothing by path.
//! A call that the filter does not know is not made: the process says which it was, and ends with exit code 1.
//!
//! There is no PID namespace: only children would be in it, and the filter allows none; it lets signals go to this
//! process only. Neither is there a time namespace.
//!
//! For processes of one thread: the kernel gives a namespace and rights to the thread that asks.

mod calls;
mod filter;
mod rights;
mod walls;

pub(crate) use walls::Walls;

use std::io;

use atoll_sys::{Errno, namespace, trap};
use rustix::process::Signal;

use crate::config::Jail;
use crate::devices::HostEnds;
use crate::error::MachineError;
use crate::machine::code;

/// How much of its shared directories a monitor must be able to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sharing {
    /// It shares none.
    #[default]
    Nothing,
    /// All are for reading.
    Reading,
    /// One at least is for writing.
    Writing,
}

/// What a machine needs of the host while it runs; the jail allows nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// KVM executes the guest.
    pub kvm: bool,
    /// It has network cards, on taps.
    pub taps: bool,
    /// It has sockets.
    pub sockets: bool,
    /// Directories it shares.
    pub sharing: Sharing,
    /// It takes commands at a socket, with descriptors to save itself to.
    pub control: bool,
    /// The process id of the parent that it ends with.
    pub parent: Option<u32>,
    /// Descriptors it may have open at once.
    pub descriptors: u64,
    /// The longest file it may make or extend; `None` for any length.
    pub file_bytes: Option<u64>,
}

/// Shuts the process in, for ever. `ends` changes to what can be seen from inside.
///
/// Call before other threads exist, with everything open that the machine takes from the host.
///
/// # Errors
/// [`MachineError::Jail`] when a wall cannot be raised; the process is half shut in then and should end.
pub fn enter(mode: Jail, needs: &Needs, ends: &mut HostEnds) -> Result<(), MachineError> {
    if mode == Jail::Off {
        return end_with(needs.parent);
    }
    // Its own file is out of sight inside.
    code::program();
    // Refused to a process of more than one thread, and without effect otherwise.
    namespace::unshare(libc::CLONE_THREAD)
        .map_err(failed("be shut in with more than one thread"))?;
    let is_privileged = rights::is_privileged()?;
    if mode != Jail::Filter {
        let mut walls = Walls::raise(is_privileged)?;
        ends.detach(&mut walls)?;
        walls.close()?;
    }
    rights::give_up(needs, is_privileged)?;
    // A change of rights forgets it.
    end_with(needs.parent)?;
    trap::end_on_forbidden_call("monitor", atoll_seccomp::syscall_names())
        .map_err(failed("watch for forbidden system calls"))?;
    filter::install(needs, mode == Jail::Log)
}

/// Has the kernel kill this process when its parent ends.
fn end_with(parent: Option<u32>) -> Result<(), MachineError> {
    let Some(parent) = parent else { return Ok(()) };
    let failed = failed("end with its parent");
    if let Err(errno) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return Err(failed(errno));
    }
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
    match now == Some(parent) {
        true => Ok(()),
        false => Err(failed(Errno::SRCH)),
    }
}

/// Wraps the kernel's reason with what was tried.
fn failed(action: &'static str) -> impl FnOnce(Errno) -> MachineError {
    move |errno| MachineError::Jail {
        action,
        source: io::Error::from(errno),
    }
}
