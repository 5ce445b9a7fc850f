//! Hooks that run in the container's namespaces: prepared by the runtime, run by the child. Child-safe throughout, but for
//! what is marked as the runtime's.
//!
//! A hook's standard input is a sealed memfd with the container's state; the runtime fills it when it knows the process.
//! What hooks say goes into another, and from there to whoever asks why one failed.

use std::ffi::CString;
use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use atoll_spec::Hook;
use atoll_sys::process::{self, Cloned, Exit, StringArray};
use atoll_sys::rustix::event::{PollFd, PollFlags, Timespec, poll};
use atoll_sys::rustix::fs::{MemfdFlags, SealFlags, SeekFrom as Seek, fcntl_add_seals, seek};
use atoll_sys::rustix::io::pread;
use atoll_sys::{Errno, Result, descriptors};

use crate::error::{self, kernel};
use crate::plan::c_string;
use crate::state;

/// How much of a failing hook's words is passed on, from the end, in bytes.
pub(crate) const MOST_SAID_BYTES: usize = 1024;

/// Hooks of one kind, ready to be run.
#[derive(Debug)]
pub(crate) struct HookList {
    /// `createContainer` or `startContainer`.
    kind: &'static str,
    hooks: Vec<Prepared>,
    state: OwnedFd,
    said: OwnedFd,
}

#[derive(Debug)]
struct Prepared {
    path: CString,
    args: StringArray,
    env: StringArray,
    /// Seconds.
    timeout: Option<i64>,
}

impl HookList {
    /// Prepares hooks; `None` for none. The runtime's.
    ///
    /// * `default_env`: of hooks without an environment.
    ///
    /// # Errors
    /// [`error::Error::Plan`] for text with NUL bytes, [`error::Error::Kernel`].
    pub(crate) fn prepare(
        kind: &'static str,
        hooks: &[Hook],
        default_env: &[CString],
    ) -> error::Result<Option<Self>> {
        if hooks.is_empty() {
            return Ok(None);
        }
        let field = format!("hooks.{kind}");
        let texts = |list: &[String]| -> error::Result<Vec<CString>> {
            list.iter().map(|text| c_string(&field, text)).collect()
        };
        let mut prepared = Vec::with_capacity(hooks.len());
        for hook in hooks {
            let path = c_string(&field, &hook.path)?;
            let args = match texts(&hook.args)? {
                none if none.is_empty() => vec![path.clone()],
                args => args,
            };
            let env = match texts(&hook.env)? {
                none if none.is_empty() => default_env.to_vec(),
                env => env,
            };
            prepared.push(Prepared {
                path,
                args: StringArray::new(args),
                env: StringArray::new(env),
                timeout: hook.timeout,
            });
        }
        let memory = |flags| {
            atoll_sys::rustix::fs::memfd_create(c"atoll-hook", MemfdFlags::CLOEXEC | flags)
                .map_err(|errno| kernel("make a memfd for hooks", errno))
        };
        Ok(Some(Self {
            kind,
            hooks: prepared,
            state: memory(MemfdFlags::ALLOW_SEALING)?,
            said: memory(MemfdFlags::empty())?,
        }))
    }

    /// A handle to give the state with, once it is known. The runtime's.
    pub(crate) fn teller(&self) -> error::Result<StateTeller> {
        let state = self.state.try_clone();
        let state = state.map_err(|source| state::file("duplicate", "memfd".as_ref(), source))?;
        Ok(StateTeller(state.into()))
    }

    /// Descriptors that must stay open until the hooks have run.
    pub(super) fn descriptors(&self) -> [RawFd; 2] {
        [self.state.as_raw_fd(), self.said.as_raw_fd()]
    }

    /// Which kind they are of.
    pub(crate) fn kind(&self) -> &'static str {
        self.kind
    }

    /// Runs the hooks in order, in the working directory of the caller.
    ///
    /// * `confine`: what each hook's process does last before it is one.
    ///
    /// # Errors
    /// [`Failure`] of the first that fails, as the errno of a message.
    pub(super) fn run(&self, confine: &dyn Fn() -> Result<()>) -> std::result::Result<(), Failure> {
        for (at, hook) in (0_u16..).zip(&self.hooks) {
            self.run_one(hook, confine)
                .map_err(|how| Failure { at, how })?;
        }
        Ok(())
    }

    fn run_one(
        &self,
        hook: &Prepared,
        confine: &dyn Fn() -> Result<()>,
    ) -> std::result::Result<(), How> {
        seek(&self.state, Seek::Start(0)).map_err(How::Kernel)?;
        // SAFETY: the child makes system calls only and ends in execve or _exit.
        let pidfd = match unsafe { process::clone_process(0, None) }.map_err(How::Kernel)? {
            Cloned::Child => self.become_hook(hook, confine),
            Cloned::Parent { pidfd, .. } => pidfd,
        };
        if let Some(seconds) = hook.timeout
            && !ends_within(pidfd.as_fd(), seconds)
        {
            let _ = process::send_signal(pidfd.as_fd(), libc::SIGKILL);
            let _ = process::wait(pidfd.as_fd());
            return Err(How::Timeout);
        }
        match process::wait(pidfd.as_fd()).map_err(How::Kernel)? {
            Exit::Code(0) => Ok(()),
            Exit::Code(NOT_EXECUTED) => Err(How::NotExecuted),
            Exit::Code(code) => Err(How::Code(code)),
            Exit::Signal(signal) => Err(How::Signal(signal)),
        }
    }

    fn become_hook(&self, hook: &Prepared, confine: &dyn Fn() -> Result<()>) -> ! {
        let outcome = self.place_streams();
        if outcome.is_ok() {
            process::reset_signals();
            if confine().is_ok() {
                let _ = process::execute(&hook.path, &hook.args, &hook.env);
            }
        }
        process::exit_now(NOT_EXECUTED)
    }

    fn place_streams(&self) -> Result<()> {
        for (fd, number) in [(&self.state, 0), (&self.said, 1), (&self.said, 2)] {
            // SAFETY: this process has one thread, whose standard streams no owned descriptor is; it executes next.
            unsafe { descriptors::place(fd.as_fd(), number, false)? };
        }
        Ok(())
    }

    /// The end of what hooks said, into `room`; how many bytes.
    pub(super) fn said(&self, room: &mut [u8]) -> usize {
        let end = seek(&self.said, Seek::End(0)).unwrap_or(0);
        let most = u64::try_from(room.len()).unwrap_or(0);
        pread(&self.said, room, end.saturating_sub(most)).unwrap_or(0)
    }
}

/// The exit code of a hook process that could not execute its program; shells use it for that too.
const NOT_EXECUTED: i32 = 127;

fn ends_within(pidfd: BorrowedFd<'_>, seconds: i64) -> bool {
    let limit = Timespec {
        tv_sec: seconds.max(0),
        tv_nsec: 0,
    };
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&limit)) {
            Err(Errno::INTR) => {}
            outcome => return outcome.is_ok_and(|count| count > 0),
        }
    }
}

/// Gives hooks the container's state. The runtime's.
#[derive(Debug)]
pub(crate) struct StateTeller(File);

impl StateTeller {
    /// Writes the state, for good.
    ///
    /// # Errors
    /// [`error::Error::File`].
    pub(crate) fn tell(mut self, text: &[u8]) -> error::Result<()> {
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        let outcome = self.0.write_all(text);
        let outcome = outcome.and_then(|()| self.0.seek(SeekFrom::Start(0)));
        let outcome = outcome.and_then(|_| Ok(fcntl_add_seals(&self.0, seals)?));
        outcome.map_err(|source| state::file("write", "state for hooks".as_ref(), source))
    }
}

/// Which hook failed, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Its place among those of its kind, from 0.
    pub(crate) at: u16,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Kernel(Errno),
    NotExecuted,
    Code(i32),
    Signal(i32),
    Timeout,
}

impl Failure {
    /// As the errno of a message.
    pub(super) fn encode(self) -> i32 {
        let (kind, value) = match self.how {
            How::Kernel(errno) => (0, errno.raw_os_error()),
            How::NotExecuted => (1, 0),
            How::Code(code) => (2, code),
            How::Signal(signal) => (3, signal),
            How::Timeout => (4, 0),
        };
        kind << 28 | i32::from(self.at & 0x0fff) << 12 | value & 0x0fff
    }

    /// From the errno of a message.
    pub(crate) fn decode(number: i32) -> Self {
        let value = number & 0x0fff;
        Self {
            at: u16::try_from(number >> 12 & 0x0fff).unwrap_or(0),
            how: match number >> 28 {
                0 => How::Kernel(Errno::from_raw_os_error(value)),
                1 => How::NotExecuted,
                2 => How::Code(value),
                3 => How::Signal(value),
                _ => How::Timeout,
            },
        }
    }

    /// In words.
    pub(crate) fn reason(self, said: &str) -> String {
        let how = match self.how {
            How::Kernel(errno) => atoll_sys::describe(errno),
            How::NotExecuted => "exit status 127 (its program could not be executed?)".to_owned(),
            How::Code(code) => format!("exit status {code}"),
            How::Signal(signal) => signal_words(signal),
            How::Timeout => "did not end in time".to_owned(),
        };
        match said.trim() {
            "" => how,
            said => format!("{how}, stderr: {said}"),
        }
    }
}

/// How a signal ended a program, as Go says it.
fn signal_words(signal: i32) -> String {
    let words = match signal {
        libc::SIGABRT => "aborted",
        libc::SIGHUP => "hangup",
        libc::SIGINT => "interrupt",
        libc::SIGKILL => "killed",
        libc::SIGPIPE => "broken pipe",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGSYS => "bad system call",
        libc::SIGTERM => "terminated",
        other => return format!("signal {other}"),
    };
    format!("signal: {words}")
}

/// What follows a message in its packet or file, read by whoever hears of the failure.
pub(super) fn append_said(list: &HookList, head: &[u8], room: &mut [u8]) -> usize {
    let (start, rest) = room.split_at_mut(head.len());
    start.copy_from_slice(head);
    head.len() + list.said(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_round_trip() {
        for how in [
            How::Kernel(Errno::NOENT),
            How::NotExecuted,
            How::Code(255),
            How::Signal(9),
            How::Timeout,
        ] {
            let failure = Failure { at: 300, how };
            assert_eq!(Failure::decode(failure.encode()), failure);
        }
        let failure = Failure {
            at: 0,
            how: How::Code(3),
        };
        assert_eq!(failure.reason(" no\n"), "exit status 3, stderr: no");
    }

    #[test]
    fn nothing_is_prepared_for_no_hooks() {
        let none = HookList::prepare("createContainer", &[], &[]).unwrap();
        assert!(none.is_none());
    }
}
