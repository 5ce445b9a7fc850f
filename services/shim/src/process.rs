//! One process of the container: the init process or an exec.

use std::time::{Duration, Instant, SystemTime};

use atoll_shim_protocol::start_error_exit_code;
use rustix::process::WaitStatus;

use crate::failure::Failure;
use crate::stdio::{IoNames, Stdio};

/// How long after a process's end its output may be silent while somebody else (a grandchild)
/// still holds it open.
const SILENCE: Duration = Duration::from_secs(2);

/// How long after a process's end output is read at all.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Exit status, or 128 + signal.
    pub(crate) code: u32,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    /// When we noticed.
    pub(crate) at: SystemTime,
}

impl Exit {
    /// Reads what wait(2) says; `None` when the process has only stopped or continued.
    pub(crate) fn from_wait(status: WaitStatus) -> Option<Self> {
        let at = SystemTime::now();
        if let Some(code) = status.exit_status() {
            return Some(Self {
                code: code.cast_unsigned(),
                signal: None,
                at,
            });
        }
        status.terminating_signal().map(|signal| Self {
            code: 128 + signal.cast_unsigned(),
            signal: Some(signal),
            at,
        })
    }

    /// A process that never ran its program.
    pub(crate) fn never_started(code: u32) -> Self {
        Self {
            code,
            signal: None,
            at: SystemTime::now(),
        }
    }
}

/// Where a process is in its life.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Made (init) or announced (exec), not started.
    Created,
    /// Runs.
    Running,
    /// Has ended; its output is still being read.
    Draining {
        exit: Exit,
        silent_since: Instant,
        until: Instant,
    },
    /// Has ended and everybody may know.
    Exited(Exit),
}

/// Who waits for a process's end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiter {
    /// Connection of the request.
    pub(crate) connection: u64,
    /// Stream of the request.
    pub(crate) stream: u32,
}

/// A process, its streams, and who waits for it.
pub(crate) struct Process {
    /// Empty for the init process.
    pub(crate) exec_id: String,
    /// 0 until there is one.
    pub(crate) pid: u32,
    pub(crate) phase: Phase,
    pub(crate) io: IoNames,
    pub(crate) stdio: Stdio,
    pub(crate) waiters: Vec<Waiter>,
    /// Terminal size asked for before there was a terminal.
    pub(crate) size: Option<(u16, u16)>,
}

impl Process {
    pub(crate) fn new(exec_id: String, io: IoNames, stdio: Stdio) -> Self {
        Self {
            exec_id,
            pid: 0,
            phase: Phase::Created,
            io,
            stdio,
            waiters: Vec::new(),
            size: None,
        }
    }

    /// How it ended, once everybody may know.
    pub(crate) fn exit(&self) -> Option<Exit> {
        match self.phase {
            Phase::Exited(exit) => Some(exit),
            _ => None,
        }
    }

    /// Notes its end; its output is read from now on until it is silent.
    pub(crate) fn ended(&mut self, exit: Exit) {
        self.stdio.let_terminal_end();
        let now = Instant::now();
        self.phase = Phase::Draining {
            exit,
            silent_since: now,
            until: now + DRAIN_LIMIT,
        };
    }

    /// Notes that its program was never executed, because of `failure`.
    pub(crate) fn never_ran(&mut self, failure: &Failure) {
        let code = start_error_exit_code(&failure.message).cast_unsigned();
        self.stdio.finish();
        self.phase = Phase::Exited(Exit::never_started(code));
    }

    /// Notes that output was read.
    pub(crate) fn heard(&mut self) {
        if let Phase::Draining { silent_since, .. } = &mut self.phase {
            *silent_since = Instant::now();
        }
    }

    /// When to look at a draining process again.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Draining {
                silent_since,
                until,
                ..
            } => Some((*silent_since + SILENCE).min(*until)),
            _ => None,
        }
    }

    /// Ends draining when there is nothing more to wait for; returns the exit to report then.
    pub(crate) fn try_finish(&mut self) -> Option<Exit> {
        let Phase::Draining {
            exit,
            silent_since,
            until,
        } = &mut self.phase
        else {
            return None;
        };
        let now = Instant::now();
        if !self.stdio.is_drained() {
            let is_silent = now >= *silent_since + SILENCE;
            if is_silent && self.stdio.is_stuck() {
                // A receiver that takes nothing keeps the log incomplete: go on without it.
                self.stdio.abandon_slow();
                *silent_since = now;
                return None;
            }
            if !is_silent && now < *until {
                return None;
            }
        }
        let exit = *exit;
        self.stdio.finish();
        self.phase = Phase::Exited(exit);
        Some(exit)
    }

    /// Applies a terminal size now, or as soon as there is a terminal.
    pub(crate) fn resize(&mut self, rows: u16, columns: u16) -> Result<(), rustix::io::Errno> {
        match self.stdio.terminal() {
            Some(terminal) => atoll_sys::terminal::resize(terminal, rows, columns),
            None => {
                self.size = Some((rows, columns));
                Ok(())
            }
        }
    }
}
