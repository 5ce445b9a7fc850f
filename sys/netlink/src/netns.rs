//! Network namespaces: making one, and running code in one from a short-lived thread.
//!
//! A namespace belongs to a thread, so the caller's thread never moves: [`run_inside`] starts a
//! thread, moves that one, and joins it. Sockets opened inside stay bound to the namespace and may
//! be handed out.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::Error;

/// Runs `work` on a new thread inside the network namespace `netns` and returns its result.
///
/// Blocks until the thread is done. Costs about 50 µs. Everything else of the process (files,
/// memory, mounts) stays shared; of `/proc` only `/proc/sys/net` and `/proc/thread-self/net` change.
///
/// * `netns`: an open `/proc/<pid>/ns/net`.
///
/// # Errors
/// [`Error::Namespace`] when the thread can't start or may not enter (needs `CAP_SYS_ADMIN`).
///
/// # Panics
/// Passes on a panic of `work`.
pub fn run_inside<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> T + Send,
) -> Result<T, Error> {
    on_thread(|| {
        rustix::thread::move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
            .map_err(|errno| Error::Namespace {
                action: "enter (setns)",
                source: errno.into(),
            })?;
        Ok(work())
    })
}

/// Makes an empty network namespace and returns the fd that keeps it alive.
///
/// It has a loopback link that is down, and no address.
///
/// # Errors
/// [`Error::Namespace`] when the kernel refuses (needs `CAP_SYS_ADMIN`, or the limit
/// `user.max_net_namespaces` is reached).
pub fn create() -> Result<OwnedFd, Error> {
    on_thread(|| {
        // SAFETY: only UnshareFlags::FILES has a precondition, and NEWNET alone is passed; the
        // thread that changes namespace is ours (spawned in `on_thread`) and ends with this closure.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|errno| {
            Error::Namespace {
                action: "create (unshare)",
                source: errno.into(),
            }
        })?;
        current()
    })
}

/// Opens the calling thread's own network namespace.
///
/// # Errors
/// [`Error::Namespace`] when `/proc` is not there.
pub fn current() -> Result<OwnedFd, Error> {
    File::open("/proc/thread-self/ns/net")
        .map(OwnedFd::from)
        .map_err(|source| Error::Namespace {
            action: "open /proc/thread-self/ns/net",
            source,
        })
}

/// Runs `work` on a thread of its own, so that a change of namespace ends with it.
fn on_thread<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let spawned = std::thread::Builder::new()
            .name("netns".to_owned())
            .stack_size(256 << 10)
            .spawn_scoped(scope, work)
            .map_err(|source: io::Error| Error::Namespace {
                action: "start a thread",
                source,
            })?;
        match spawned.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
