//! Entering and leaving namespaces.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use crate::process::{self, Cloned};
use crate::{Errno, Result, check};

/// Kernel: include/linux/proc_ns.h, `PROC_USER_INIT_INO`.
const HOSTS_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// Whether the caller is in another user namespace than the host's: it may seem to be root there and have no privilege.
///
/// A kernel without user namespaces has no such file.
pub fn is_in_user_namespace() -> bool {
    fs::metadata("/proc/self/ns/user").is_ok_and(|found| found.ino() != HOSTS_USER_NAMESPACE)
}

/// Moves the calling thread into new namespaces (`CLONE_NEW…`) or unshares `CLONE_FS`,
/// `CLONE_FILES`. Child-safe.
///
/// # Errors
/// The kernel's.
pub fn unshare(flags: i32) -> Result<()> {
    // SAFETY: unshare takes no pointers. Unsharing CLONE_FILES detaches this thread's descriptor
    // table; descriptors stay valid in it, so owned ones still refer to what they did.
    check(unsafe { libc::syscall(libc::SYS_unshare, flags) })?;
    Ok(())
}

/// Moves the calling thread into a namespace, or for a pidfd into those of `kinds` of its
/// process. Child-safe.
///
/// For PID and time namespaces only children are affected. Joining a mount namespace needs an
/// unshared `CLONE_FS`, a user namespace a process of one thread.
///
/// # Errors
/// The kernel's; `ESRCH` for the pidfd of a dead process.
pub fn enter(fd: BorrowedFd<'_>, kinds: i32) -> Result<()> {
    // SAFETY: setns takes no pointers; the descriptor is open for the call's duration.
    check(unsafe { libc::syscall(libc::SYS_setns, fd.as_raw_fd(), kinds) })?;
    Ok(())
}

/// A user namespace with these mappings, in which nobody is: for mounts whose ids it shifts.
///
/// * `uid_map`, `gid_map`: lines as of user_namespaces(7).
///
/// # Errors
/// The kernel's; `EPERM` for ids the caller may not map, `EINVAL` for mappings that overlap.
pub fn user_namespace(uid_map: &str, gid_map: &str) -> io::Result<OwnedFd> {
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: the child waits for our end to close, and ends: two system calls.
    let cloned = unsafe { process::clone_process(process::flag(libc::CLONE_NEWUSER), None) };
    let (pid, pidfd) = match cloned? {
        Cloned::Child => {
            // SAFETY: our end belongs to this process too and is used no more; closing it leaves the parent's alone.
            drop(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(ours.as_raw_fd()) });
            let mut byte = [0];
            while matches!(rustix::io::read(&theirs, &mut byte), Err(Errno::INTR)) {}
            process::exit_now(0)
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(theirs);
    let outcome = fs::write(format!("/proc/{pid}/uid_map"), uid_map)
        .and_then(|()| fs::write(format!("/proc/{pid}/gid_map"), gid_map))
        .and_then(|()| File::open(format!("/proc/{pid}/ns/user")));
    drop(ours);
    let _ = process::wait(pidfd.as_fd());
    outcome.map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_namespace_outlives_its_only_process() {
        let namespace = user_namespace("0 100000 10\n", "0 200000 10\n").unwrap();
        let own = File::open("/proc/self/ns/user").unwrap();
        let inode = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
        assert_ne!(inode(namespace.as_fd()), inode(own.as_fd()));
        let overlapping = user_namespace("0 1 10\n5 100 10\n", "0 1 1\n");
        assert_eq!(overlapping.unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
