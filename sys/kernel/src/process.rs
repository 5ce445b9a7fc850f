//! Making processes, waiting for them, signalling them.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};

use crate::{Errno, Result, check};

/// What [`clone_process`] returned into.
#[derive(Debug)]
pub enum Cloned {
    /// This is the new process.
    Child,
    /// This is the caller.
    Parent {
        /// The child's process id in the caller's PID namespace.
        pid: u32,
        /// Refers to the child; becomes readable when it has exited.
        pidfd: OwnedFd,
    },
}

/// Makes a child with a copy of the caller's memory, as fork(2), in new namespaces (`flags`:
/// `CLONE_NEW…`) and, for `cgroup`, a folder of cgroup2, in that cgroup from its first moment.
///
/// The child's signal handlers are reset. It is reaped by the caller (`SIGCHLD`).
///
/// # Safety
/// Other threads may hold locks (also the allocator's) at the moment of the call, for ever held in
/// the child. So in the child only child-safe functions may run, and it must end in `execve`
/// or `_exit` without unwinding out of the caller.
///
/// # Errors
/// The kernel's; `ENOMEM` when the PID namespace's first process is gone.
pub unsafe fn clone_process(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned> {
    // SAFETY: as the caller's.
    unsafe { clone_with(flags, cgroup, libc::SIGCHLD as u64) }
}

/// As [`clone_process`], but the new process is a child of the caller's parent, which reaps it. Child-safe.
///
/// # Safety
/// As [`clone_process`].
///
/// # Errors
/// The kernel's; `EINVAL` for the first process of a PID namespace.
pub unsafe fn clone_sibling(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned> {
    // With CLONE_PARENT the exit signal is the caller's own, and none may be named.
    // SAFETY: as the caller's.
    unsafe { clone_with(flags | flag(libc::CLONE_PARENT), cgroup, 0) }
}

/// # Safety
/// As [`clone_process`].
unsafe fn clone_with(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    exit_signal: u64,
) -> Result<Cloned> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all-zero is a valid clone_args: no pointers, no flags.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    let clear_handlers = 0x1_0000_0000; // CLONE_CLEAR_SIGHAND
    args.flags = flags | clear_handlers | flag(libc::CLONE_PIDFD);
    args.pidfd = (&raw mut pidfd).addr() as u64;
    args.exit_signal = exit_signal;
    if let Some(cgroup) = cgroup {
        args.flags |= 0x2_0000_0000; // CLONE_INTO_CGROUP
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: `args` is initialised and of the size passed; without CLONE_VM the child has its own
    // memory and returns on its own copy of this stack; `pidfd` outlives the call.
    let pid = check(unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: on success the kernel stored a fresh descriptor in `pidfd`, owned by nobody else.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = u32::try_from(pid).map_err(|_| Errno::RANGE)?;
    Ok(Cloned::Parent { pid, pidfd })
}

/// A `CLONE_…` constant as clone3(2)'s flags want it.
#[must_use]
pub fn flag(constant: libc::c_int) -> u64 {
    u64::from(constant.cast_unsigned())
}

/// Refers to the process `pid`.
///
/// # Errors
/// `ESRCH` when there is none.
pub fn open(pid: u32) -> Result<OwnedFd> {
    rustix::process::pidfd_open(to_pid(pid)?, PidfdFlags::empty())
}

/// Sends a signal by number; 0 only checks.
///
/// # Errors
/// `ESRCH` when the process is gone, `EINVAL` for a number that is no signal.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: the siginfo pointer may be null; no other pointers.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })?;
    Ok(())
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code, 0 to 255.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl Exit {
    /// The code a shell would show: the exit code, or 128 plus the signal.
    #[must_use]
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// Waits for a child to end and reaps it.
///
/// # Errors
/// `ECHILD` when it is no child of the caller or already reaped.
pub fn wait(pidfd: BorrowedFd<'_>) -> Result<Exit> {
    loop {
        match wait_id(pidfd, WaitIdOptions::EXITED) {
            Ok(Some(exit)) => return Ok(exit),
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reaps a child if it has ended.
///
/// # Errors
/// As [`wait`].
pub fn try_wait(pidfd: BorrowedFd<'_>) -> Result<Option<Exit>> {
    wait_id(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
}

fn wait_id(pidfd: BorrowedFd<'_>, options: WaitIdOptions) -> Result<Option<Exit>> {
    let Some(status) = rustix::process::waitid(WaitId::PidFd(pidfd), options)? else {
        return Ok(None);
    };
    Ok(status
        .exit_status()
        .map(Exit::Code)
        .or_else(|| status.terminating_signal().map(Exit::Signal)))
}

/// When a process was started, in clock ticks since boot, and whether it is a zombie or gone;
/// with its pid this names it for ever.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn start_time(pid: u32) -> Result<StartTime> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|_| Errno::SRCH)?;
    // The program's name may hold spaces and parentheses; what follows its last one doesn't.
    let (_, fields) = text.rsplit_once(") ").ok_or(Errno::PROTO)?;
    let mut fields = fields.split(' ');
    let state = fields.next().ok_or(Errno::PROTO)?;
    // State is field 3 of proc_pid_stat(5), the start time field 22.
    let ticks = fields.nth(18).and_then(|text| text.parse().ok());
    Ok(StartTime {
        ticks: ticks.ok_or(Errno::PROTO)?,
        is_zombie: matches!(state, "Z" | "X"),
    })
}

/// The answer of [`start_time`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartTime {
    /// Clock ticks since boot.
    pub ticks: u64,
    /// Whether the process has ended and only waits to be reaped.
    pub is_zombie: bool,
}

/// Makes orphaned descendants children of the calling process instead of init's.
///
/// # Errors
/// The kernel's.
pub fn become_subreaper() -> Result<()> {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes a number and no pointers.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })?;
    Ok(())
}

/// Sends the calling thread `signal` when its parent thread ends. Child-safe.
///
/// # Errors
/// The kernel's.
pub fn set_death_signal(signal: i32) -> Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes a number and no pointers.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) })?;
    Ok(())
}

/// Whether other processes may look into this one without `CAP_SYS_PTRACE`. Child-safe.
///
/// # Errors
/// The kernel's.
pub fn set_dumpable(dumpable: bool) -> Result<()> {
    let value = libc::c_long::from(dumpable);
    // SAFETY: PR_SET_DUMPABLE takes a number and no pointers.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_DUMPABLE, value, 0, 0, 0) })?;
    Ok(())
}

/// Has this process end, with 128 and its number, by a signal that asks for it: the first process of a PID namespace gets
/// none whose effect is the default. Until execve(2). Child-safe.
pub fn end_when_asked() {
    extern "C" fn end(signal: libc::c_int) {
        exit_now(128 + signal)
    }
    let handler: extern "C" fn(libc::c_int) = end;
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        // SAFETY: signal(3) only enters the handler, which calls nothing but _exit(2); it has the type the kernel calls.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Whether they may.
#[must_use]
pub fn is_dumpable() -> bool {
    // SAFETY: PR_GET_DUMPABLE takes nothing.
    unsafe { libc::syscall(libc::SYS_prctl, libc::PR_GET_DUMPABLE, 0, 0, 0, 0) == 1 }
}

/// Makes all signals have their default effect and blocks none. Child-safe.
///
/// What the caller ignored (`SIGPIPE` in Rust programs) would otherwise be ignored by the program
/// executed next.
pub fn reset_signals() {
    #[repr(C)]
    struct KernelAction {
        handler: usize,
        flags: u64,
        restorer: usize,
        mask: u64,
    }
    let default = KernelAction {
        handler: libc::SIG_DFL,
        flags: 0,
        restorer: 0,
        mask: 0,
    };
    let mask = 0_u64;
    for signal in 1..=64 {
        // SAFETY: `default` has the kernel's sigaction layout on x86-64 with a mask of 8 bytes;
        // resetting to the default installs no code. SIGKILL and SIGSTOP are refused, harmlessly.
        let _ = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                std::ptr::null_mut::<KernelAction>(),
                8,
            )
        };
    }
    // SAFETY: `mask` is the 8 bytes announced; the old mask isn't asked for.
    let _ = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            std::ptr::null_mut::<u64>(),
            8,
        )
    };
}

/// A null-terminated array of strings for execve(2), owned.
pub struct StringArray {
    texts: Vec<std::ffi::CString>,
    pointers: Vec<*const libc::c_char>,
}

impl StringArray {
    /// Takes the strings.
    #[must_use]
    pub fn new(texts: Vec<std::ffi::CString>) -> Self {
        // A CString's bytes are on the heap: moving the vector leaves the pointers valid.
        let pointers = texts.iter().map(|text| text.as_ptr());
        let pointers = pointers.chain([std::ptr::null()]).collect();
        Self { texts, pointers }
    }

    /// The strings.
    #[must_use]
    pub fn texts(&self) -> &[std::ffi::CString] {
        &self.texts
    }
}

impl std::fmt::Debug for StringArray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.texts).finish()
    }
}

/// Executes the program at `path`; returns only on failure. Child-safe.
#[must_use]
pub fn execute(path: &CStr, arguments: &StringArray, environment: &StringArray) -> Errno {
    // SAFETY: `path` is NUL-terminated; both arrays end with null and point to NUL-terminated
    // strings that `arguments` and `environment` own.
    let outcome = check(unsafe {
        libc::syscall(
            libc::SYS_execve,
            path.as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
        )
    });
    outcome.err().unwrap_or(Errno::IO)
}

/// Ends the process at once: no destructors, no atexit. Child-safe.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes a number and doesn't return.
    unsafe { libc::_exit(code) }
}

/// Installs a seccomp filter for the calling thread. Child-safe.
///
/// * `program`: classic BPF, eight bytes per instruction in the machine's byte order.
/// * `flags`: `SECCOMP_FILTER_FLAG_…`.
///
/// Returns the notification descriptor when `SECCOMP_FILTER_FLAG_NEW_LISTENER` is in `flags`.
///
/// # Errors
/// `EACCES` without no_new_privs and `CAP_SYS_ADMIN`, `EINVAL` for a program the kernel refuses.
pub fn install_seccomp(program: &[[u8; 8]], flags: u64) -> Result<Option<OwnedFd>> {
    const SET_MODE_FILTER: libc::c_ulong = 1;
    const NEW_LISTENER: u64 = 8;
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: sock_filter is eight bytes of plain data; the kernel copies `len` of them and writes
    // none. Alignment of user memory doesn't matter to its copy.
    let outcome = check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    })?;
    if flags & NEW_LISTENER == 0 {
        return Ok(None);
    }
    let fd = i32::try_from(outcome).map_err(|_| Errno::RANGE)?;
    // SAFETY: with NEW_LISTENER the outcome is a fresh descriptor owned by nobody else.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

fn to_pid(pid: u32) -> Result<Pid> {
    let pid = i32::try_from(pid).map_err(|_| Errno::SRCH)?;
    Pid::from_raw(pid).ok_or(Errno::SRCH)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::Command;

    use super::*;

    fn exit_of(child: impl FnOnce() -> i32) -> Exit {
        // SAFETY: the children of these tests only exit.
        match unsafe { clone_process(0, None) }.unwrap() {
            Cloned::Child => exit_now(child()),
            Cloned::Parent { pidfd, .. } => wait(pidfd.as_fd()).unwrap(),
        }
    }

    #[test]
    fn children_are_reaped_with_their_code() {
        assert_eq!(exit_of(|| 7), Exit::Code(7));
        assert_eq!(Exit::Signal(9).shell_code(), 137);
    }

    #[test]
    fn seccomp_filter_is_installed() {
        let exit = exit_of(|| {
            // BPF_RET|BPF_K SECCOMP_RET_ERRNO|EPERM for everything but exit_group is enough here:
            // allow all.
            let allow = [[0x06, 0, 0, 0, 0, 0, 0xff, 0x7f]];
            let outcome = set_no_new_privs_and_install(&allow);
            i32::from(outcome.is_err())
        });
        assert_eq!(exit, Exit::Code(0));
    }

    fn set_no_new_privs_and_install(program: &[[u8; 8]]) -> Result<()> {
        crate::capability::set_no_new_privs()?;
        install_seccomp(program, 0).map(|_| ())
    }

    #[test]
    fn signals_reach_by_pidfd_and_start_time_names_a_process() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = open(child.id()).unwrap();
        let time = start_time(child.id()).unwrap();
        assert!(time.ticks > 0 && !time.is_zombie);
        send_signal(pidfd.as_fd(), libc::SIGKILL).unwrap();
        assert_eq!(wait(pidfd.as_fd()).unwrap(), Exit::Signal(9));
        assert_eq!(start_time(child.id()), Err(Errno::SRCH));
        let _ = child.wait();
    }
}
