//! Thin, safe wrappers over the Linux system calls the rest of Atoll needs.
//!
//! What rustix already wraps safely is used directly or re-exported; this crate adds what it lacks
//! (clone3, mount_setattr, close_range, seccomp, per-thread credentials as one step) and the small
//! idioms that must be the same everywhere: paths inside a root file system ([`inside`]), detached
//! overlay mounts ([`overlay`]), files replaced whole ([`file`]), sockets at deep paths ([`unix`]).
//!
//! Errors are the kernel's errno ([`Errno`]), which converts into [`std::io::Error`]; callers add
//! the object. Functions marked *child-safe* allocate nothing, take no locks and may run between
//! clone3(2) and execve(2) of a multi-threaded process.
#![expect(
    unsafe_code,
    reason = "the only home of raw system calls; each block names its precondition"
)]

pub mod allocator;
pub mod capability;
pub mod copy;
pub mod descriptors;
pub mod entry;
pub mod file;
pub mod filesystem_user;
pub mod inherited;
pub mod inside;
pub mod mount;
pub mod namespace;
pub mod overlay;
pub mod placeholder;
pub mod process;
pub mod random;
pub mod scheduling;
pub mod self_exe;
pub mod signal_fd;
pub mod spawn;
pub mod tap;
pub mod task;
pub mod terminal;
pub mod trap;
pub mod unix;
pub mod vsock;

pub use rustix;
pub use rustix::io::Errno;

/// A system call's outcome.
pub type Result<T> = std::result::Result<T, Errno>;

/// Turns a raw system call's `-1` into the thread's errno.
fn check(outcome: libc::c_long) -> Result<libc::c_long> {
    if outcome == -1 {
        return Err(last_errno());
    }
    Ok(outcome)
}

/// The calling thread's errno. Child-safe.
fn last_errno() -> Errno {
    // SAFETY: __errno_location returns the calling thread's own errno, always valid to read.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

/// An errno's symbolic name, `EPERM`; `E<number>` style text for numbers without one.
#[must_use]
pub fn errno_name(errno: Errno) -> &'static str {
    ERRNO_NAMES
        .iter()
        .find(|(known, _)| *known == errno)
        .map_or("E?", |(_, name)| name)
}

/// An errno for people: `EPERM (Operation not permitted)`.
#[must_use]
pub fn describe(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    format!("{} ({text})", errno_name(errno))
}

/// An error and its causes on one line: `a: b: c`.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

macro_rules! errno_names {
    ($($rustix:ident $name:ident),* $(,)?) => {
        const ERRNO_NAMES: &[(Errno, &str)] = &[$((Errno::$rustix, stringify!($name))),*];
    };
}

errno_names! {
    PERM EPERM, NOENT ENOENT, SRCH ESRCH, INTR EINTR, IO EIO, NXIO ENXIO, TOOBIG E2BIG,
    NOEXEC ENOEXEC, BADF EBADF, CHILD ECHILD, AGAIN EAGAIN, NOMEM ENOMEM, ACCESS EACCES,
    FAULT EFAULT, BUSY EBUSY, EXIST EEXIST, XDEV EXDEV, NODEV ENODEV, NOTDIR ENOTDIR,
    ISDIR EISDIR, INVAL EINVAL, NFILE ENFILE, MFILE EMFILE, NOTTY ENOTTY, TXTBSY ETXTBSY,
    FBIG EFBIG, NOSPC ENOSPC, SPIPE ESPIPE, ROFS EROFS, MLINK EMLINK, PIPE EPIPE,
    DOM EDOM, RANGE ERANGE, DEADLK EDEADLK, NAMETOOLONG ENAMETOOLONG, NOSYS ENOSYS,
    NOTEMPTY ENOTEMPTY, LOOP ELOOP, NODATA ENODATA, TIME ETIME, PROTO EPROTO,
    OVERFLOW EOVERFLOW, ILSEQ EILSEQ, USERS EUSERS, NOTSOCK ENOTSOCK, MSGSIZE EMSGSIZE,
    OPNOTSUPP EOPNOTSUPP, ADDRINUSE EADDRINUSE, ADDRNOTAVAIL EADDRNOTAVAIL,
    NETUNREACH ENETUNREACH, CONNABORTED ECONNABORTED, CONNRESET ECONNRESET, NOBUFS ENOBUFS,
    NOTCONN ENOTCONN, TIMEDOUT ETIMEDOUT, CONNREFUSED ECONNREFUSED, ALREADY EALREADY,
    INPROGRESS EINPROGRESS, STALE ESTALE, DQUOT EDQUOT, CANCELED ECANCELED,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errnos_are_described_by_name() {
        assert_eq!(describe(Errno::PERM), "EPERM (Operation not permitted)");
    }
}
