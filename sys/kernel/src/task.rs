//! Attributes of the calling task that a new program inherits: credentials, limits, names.
//!
//! Everything here is child-safe. Credentials are set by the raw system calls, which change the
//! calling thread only: for processes of one thread.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::process::{Gid, Uid};

use crate::{Errno, Result, check};

/// Becomes `uid`:`gid` with the supplementary `groups`, in all of real, effective and saved ids.
///
/// No groups are fine where setgroups(2) is denied (user namespaces of unprivileged makers).
///
/// # Errors
/// `EPERM` without the capabilities, `EINVAL` for ids the user namespace doesn't map.
pub fn become_user(uid: u32, gid: u32, groups: &[Gid]) -> Result<()> {
    match rustix::thread::set_thread_groups(groups) {
        Err(Errno::PERM) if groups.is_empty() => {}
        outcome => outcome?,
    }
    let gid = Gid::from_raw(gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    let uid = Uid::from_raw(uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// Sets a resource limit by the number of its `RLIMIT_…` constant.
///
/// Without `CAP_SYS_RESOURCE` a hard limit can't be raised: then the limits become as close to
/// the wished ones as the present hard limit allows.
///
/// # Errors
/// The kernel's.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let mut wanted = [soft, hard];
    match prlimit(resource, Some(&wanted), None) {
        Err(Errno::PERM) => {
            let mut present = [0, 0];
            prlimit(resource, None, Some(&mut present))?;
            wanted[1] = hard.min(present[1]);
            wanted[0] = soft.min(wanted[1]);
            prlimit(resource, Some(&wanted), None)
        }
        outcome => outcome,
    }
}

fn prlimit(resource: u32, new: Option<&[u64; 2]>, old: Option<&mut [u64; 2]>) -> Result<()> {
    let new = new.map_or(std::ptr::null(), |limits| limits.as_ptr());
    let old = old.map_or(std::ptr::null_mut(), |limits| limits.as_mut_ptr());
    // SAFETY: rlimit64 is two u64, soft then hard; each pointer is null or to such a pair that
    // outlives the call.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, new, old) })?;
    Ok(())
}

/// Sets the execution domain.
///
/// # Errors
/// The kernel's.
pub fn set_personality(domain: u64) -> Result<()> {
    // SAFETY: personality takes a number and no pointers.
    check(unsafe { libc::syscall(libc::SYS_personality, domain) })?;
    Ok(())
}

/// Sets the I/O priority, class in bits 13 and up.
///
/// # Errors
/// The kernel's.
pub fn set_io_priority(priority: i32) -> Result<()> {
    // SAFETY: ioprio_set takes numbers and no pointers; 1 is IOPRIO_WHO_PROCESS, 0 the caller.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, 1, 0, priority) })?;
    Ok(())
}

/// Joins a new session keyring with a name; kernels without keyrings are fine.
///
/// # Errors
/// The kernel's; `EDQUOT` when the user has too many keys.
pub fn new_session_keyring(name: &CStr) -> Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: the name is NUL-terminated and outlives the call.
    match check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) }) {
        Err(Errno::NOSYS) => Ok(()),
        outcome => outcome.map(|_| ()),
    }
}

/// Sets the host name of the UTS namespace.
///
/// # Errors
/// The kernel's.
pub fn set_hostname(name: &CStr) -> Result<()> {
    rustix::system::sethostname(name.to_bytes())
}

/// Sets the NIS domain name of the UTS namespace.
///
/// # Errors
/// The kernel's.
pub fn set_domainname(name: &CStr) -> Result<()> {
    let bytes = name.to_bytes();
    // SAFETY: the pointer is to `len` readable bytes that outlive the call.
    check(unsafe { libc::syscall(libc::SYS_setdomainname, bytes.as_ptr(), bytes.len()) })?;
    Ok(())
}

/// Brings the network namespace's loopback device up; the kernel gives it its addresses.
///
/// # Errors
/// The kernel's.
pub fn bring_up_loopback() -> Result<()> {
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        flags: libc::c_short,
        rest: [u8; 22],
    }
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        flags: 0x41, // IFF_UP | IFF_RUNNING
        rest: [0; 22],
    };
    request.name[..2].copy_from_slice(b"lo");
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: socket takes numbers and no pointers.
    let socket = check(unsafe { libc::syscall(libc::SYS_socket, libc::AF_INET, kind, 0) })?;
    let socket = i32::try_from(socket).map_err(|_| Errno::RANGE)?;
    // SAFETY: the call returned a fresh descriptor, owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: `request` has ifreq's layout and size (40 bytes) and outlives the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS,
            &raw mut request,
        )
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::process::{Cloned, Exit, clone_process, exit_now, flag, wait};

    /// Runs `body` in a child with new namespaces; true is success.
    fn in_child(flags: i32, body: impl FnOnce() -> Result<bool>) -> bool {
        // SAFETY: the bodies below only make system calls.
        match unsafe { clone_process(flag(flags), None) }.unwrap() {
            Cloned::Child => exit_now(i32::from(body() != Ok(true))),
            Cloned::Parent { pidfd, .. } => wait(pidfd.as_fd()).unwrap() == Exit::Code(0),
        }
    }

    #[test]
    fn limits_that_can_not_be_raised_are_capped() {
        assert!(in_child(0, || {
            set_limit(libc::RLIMIT_NOFILE, 100, 200)?;
            crate::capability::set(crate::capability::Sets::default())?;
            set_limit(libc::RLIMIT_NOFILE, 5000, 10_000)?;
            let mut present = [0, 0];
            prlimit(libc::RLIMIT_NOFILE, None, Some(&mut present))?;
            Ok(present == [200, 200])
        }));
    }

    #[test]
    fn loopback_comes_up_and_names_are_set() {
        assert!(in_child(libc::CLONE_NEWNET | libc::CLONE_NEWUTS, || {
            bring_up_loopback()?;
            set_hostname(c"inside")?;
            set_domainname(c"domain")?;
            Ok(rustix::system::uname().nodename() == c"inside")
        }));
    }

    #[test]
    fn user_is_changed_as_a_whole() {
        assert!(in_child(0, || {
            become_user(1234, 5678, &[Gid::from_raw(99)])?;
            Ok(rustix::process::getuid().as_raw() == 1234
                && rustix::process::getegid().as_raw() == 5678)
        }));
    }
}
