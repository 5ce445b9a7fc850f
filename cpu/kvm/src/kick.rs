//! How other threads, and a timer, get a vCPU out of KVM_RUN.
//!
//! A thread that wants a vCPU's attention raises a request, sets `immediate_exit`, then signals the thread that runs
//! it. The vCPU clears `immediate_exit`, then looks at the requests, then enters KVM_RUN. Whatever the order of the
//! two, either the vCPU sees the request, or KVM_RUN sees `immediate_exit`, or the signal ends KVM_RUN.

use std::mem;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering, fence};
use std::time::Duration;

use atoll_cpu_api::{Attention, CpuError, Request, VcpuHandle};
use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler, unblock_signal};

use crate::error::last;
use crate::run_page::RunPage;

/// Ends KVM_RUN by being handled; there is nothing else to do.
extern "C" fn interrupted(_: c_int, _: *mut siginfo_t, _: *mut c_void) {}

/// Gives SIGRTMIN its handler, once in the process.
pub(crate) fn install_handler() -> Result<(), CpuError> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        register_signal_handler(SIGRTMIN(), interrupted).map_err(|error| error.errno())
    });
    installed.map_err(|errno| CpuError::Host {
        what: "sigaction(SIGRTMIN)",
        source: std::io::Error::from_raw_os_error(errno),
    })
}

/// What a vCPU and its handles share.
#[derive(Debug)]
pub(crate) struct Kick {
    pub(crate) attention: Attention,
    pub(crate) page: RunPage,
    /// The thread in `run`; 0 when none is.
    thread: AtomicI32,
}

impl Kick {
    pub(crate) fn new(page: RunPage) -> Self {
        Self {
            attention: Attention::default(),
            page,
            thread: AtomicI32::new(0),
        }
    }

    /// Registers the calling thread as the one that runs the vCPU, until the guard is dropped. Every `period` it gets
    /// the signal, for ever, so that a vCPU that nothing wakes is looked at.
    pub(crate) fn enter(&self, period: Duration) -> Result<Running<'_>, CpuError> {
        unblock_signal(SIGRTMIN()).map_err(|_| last("pthread_sigmask(SIGRTMIN)"))?;
        // SAFETY: gettid(2) takes nothing and always succeeds.
        let thread = unsafe { libc::gettid() };
        let timer = Timer::new(thread, period)?;
        self.thread.store(thread, Ordering::SeqCst);
        Ok(Running {
            kick: self,
            _timer: timer,
        })
    }

    /// Lets KVM_RUN execute again, and says whether anything was raised meanwhile.
    pub(crate) fn rearm(&self) -> bool {
        self.page.take_back();
        // The store above must not pass the load below: see the module's head.
        fence(Ordering::SeqCst);
        self.attention.is_raised()
    }

    fn send(&self, request: Request) {
        self.attention.raise(request);
        self.page.demand_exit();
        let thread = self.thread.load(Ordering::SeqCst);
        if thread != 0 {
            // SAFETY: tgkill(2) takes numbers only. A thread that has ended meanwhile, or another of this process with
            // the same number, is unharmed: the handler does nothing.
            unsafe {
                libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, SIGRTMIN());
            }
        }
    }
}

impl VcpuHandle for Kick {
    /// Nothing to do: the local APIC is the kernel's, and what arrives there wakes the vCPU.
    fn interrupt(&self) {}

    fn pause(&self) {
        self.send(Request::Pause);
    }

    fn nmi(&self) {
        self.send(Request::Nmi);
    }

    /// Nothing to do, as for [`Kick::interrupt`].
    fn startup(&self) {}
}

/// A vCPU is in `run`.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    kick: &'a Kick,
    _timer: Timer,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.kick.thread.store(0, Ordering::SeqCst);
    }
}

/// A timer that signals one thread; ends when dropped.
#[derive(Debug)]
struct Timer(libc::timer_t);

impl Timer {
    fn new(thread: i32, period: Duration) -> Result<Self, CpuError> {
        // SAFETY: all-zero is a valid sigevent.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = SIGRTMIN();
        event.sigev_notify_thread_id = thread;
        let mut timer = ptr::null_mut();
        // SAFETY: both pointers are to locals that outlive the call.
        if unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) } != 0
        {
            return Err(last("timer_create"));
        }
        let timer = Self(timer);
        let period = libc::timespec {
            tv_sec: period.as_secs().cast_signed(),
            tv_nsec: period.subsec_nanos().into(),
        };
        let setting = libc::itimerspec {
            it_interval: period,
            it_value: period,
        };
        // SAFETY: the timer was made above; the setting is a local, the old one is not asked for.
        if unsafe { libc::timer_settime(timer.0, 0, &raw const setting, ptr::null_mut()) } != 0 {
            return Err(last("timer_settime"));
        }
        Ok(timer)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the timer was made by `new` and is deleted only here.
        unsafe {
            libc::timer_delete(self.0);
        }
    }
}
