//! How a machine ends: asked, switched off, or on its own.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use atoll_container::Container;
use atoll_guest::protocol::Request;
use atoll_machine::protocol::Request as Control;

use super::monitor;
use super::tail::Tail;
use super::{Machine, News, Then};
use crate::failure::Failure;
use crate::process::Waiter;

/// How long a container may take to die of SIGKILL before its machine is switched off.
const KILL: Duration = Duration::from_secs(2);

impl Machine {
    /// Has the guest kill its first container, and switches the machine off when that takes too long.
    pub(crate) fn kill(&mut self, to: Waiter) -> Result<bool, Failure> {
        if self.agent.is_none() {
            self.switch_off();
            return Ok(false);
        }
        self.kill_by = Some(Instant::now() + KILL);
        let request = Request::Signal {
            process: String::new(),
            signal: libc::SIGKILL,
            all: false,
        };
        let first = self.first.clone();
        self.call(&first, request, to, Then::Done)?;
        Ok(true)
    }

    /// Stops or continues the whole machine.
    pub(crate) fn set_paused(&self, paused: bool) -> Result<(), Failure> {
        let request = if paused {
            Control::Pause
        } else {
            Control::Resume
        };
        self.ask_monitor(request).map(drop)
    }

    /// Ends the machine, whose first container has ended.
    pub(crate) fn finish(&mut self) {
        // One that booted has executed nothing of what a copy does first.
        if self.is_copy && !self.has_ended {
            self.template.teach(&self.control);
        }
        self.switch_off();
    }

    /// Ends the monitor at once.
    pub(crate) fn switch_off(&mut self) {
        if self.has_ended {
            return;
        }
        // A child of ours that is not reaped yet, so the pid is still its own.
        let killed = atoll_sys::process::open(self.pid)
            .and_then(|pidfd| atoll_sys::process::send_signal(pidfd.as_fd(), libc::SIGKILL));
        if let Err(errno) = killed
            && errno != rustix::io::Errno::SRCH
        {
            crate::report(format_args!("cannot end the monitor {}: {errno}", self.pid));
        }
    }

    /// Whether the monitor that was reaped could not make the machine of its template. Then another boots one, and the
    /// template is gone.
    pub(crate) fn boots_instead(&mut self, container: &Container) -> Result<bool, Failure> {
        let Some(cold) = self.cold.take() else {
            return Ok(false);
        };
        let (config, folders) = *cold;
        self.is_copy = false;
        self.errors_tail.read(&mut self.errors);
        let why = self.errors_tail.error().unwrap_or_default();
        crate::report(format_args!(
            "no machine from the template, it boots: {why}"
        ));
        self.template.discard();
        let started = monitor::start(&config, &folders, self.keeper.is_some())?;
        self.pid = started.pid;
        self.console = Some(started.console);
        self.errors = Some(started.errors);
        (self.console_tail, self.errors_tail) = (Tail::default(), Tail::default());
        if let Err(error) = container.adopt_again(self.pid) {
            self.switch_off();
            return Err(error.into());
        }
        Ok(true)
    }

    /// Notes that the monitor was reaped; what it had to say is read, and who waits is answered.
    pub(crate) fn ended(&mut self) -> Vec<News> {
        self.has_ended = true;
        self.kill_by = None;
        if let Some(link) = &self.link {
            link.free();
        }
        self.errors_tail.read(&mut self.errors);
        self.console_tail.read(&mut self.console);
        (self.errors, self.console, self.agent) = (None, None, None);
        let why = self.end_reason("the machine ended");
        let waiting = std::mem::take(&mut self.pending).into_iter();
        waiting
            .map(|pending| pending.answered(Err(Failure::unknown(why.clone()))))
            .collect()
    }

    /// Why the machine is gone: `what`, and the last words of monitor and kernel.
    pub(crate) fn end_reason(&self, what: &str) -> String {
        let reason = self.blame.clone().or_else(|| self.errors_tail.error());
        let reason = reason.or_else(|| self.console_tail.last_line());
        reason.map_or_else(|| what.to_owned(), |reason| format!("{what}: {reason}"))
    }
}
