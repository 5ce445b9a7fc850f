//! How other threads get a virtual CPU's attention.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

/// What a virtual CPU is asked to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Request {
    /// Its interrupt controller may have something to deliver.
    Interrupt = 1,
    /// Leave [`Vcpu::run`](crate::Vcpu::run) with [`Stop::Paused`](crate::Stop::Paused).
    Pause = 2,
    /// A non-maskable interrupt.
    Nmi = 4,
    /// INIT, or a start-up message for a CPU that waits for one: ask the controller which.
    Startup = 8,
}

/// Requests to one virtual CPU, raised by any thread, taken by its own; wakes it from HLT.
#[derive(Debug, Default)]
pub struct Attention {
    requests: AtomicU32,
    sleeping: Mutex<()>,
    woken: Condvar,
}

impl Attention {
    /// Raises `request` and wakes the CPU if it sleeps.
    pub fn raise(&self, request: Request) {
        if self.requests.fetch_or(request as u32, Ordering::AcqRel) & request as u32 == 0 {
            // Taking the lock orders this wake-up after a sleeper's last look.
            drop(self.sleeping.lock().unwrap_or_else(PoisonError::into_inner));
            self.woken.notify_all();
        }
    }

    /// Whether anything was raised and not taken.
    #[inline]
    pub fn is_raised(&self) -> bool {
        self.requests.load(Ordering::Acquire) != 0
    }

    /// Takes `request`: says whether it was raised, and clears it.
    #[inline]
    pub fn take(&self, request: Request) -> bool {
        self.requests.fetch_and(!(request as u32), Ordering::AcqRel) & request as u32 != 0
    }

    /// Sleeps until something is raised or `deadline` passes; `None` waits for ever.
    pub fn wait(&self, deadline: Option<Instant>) {
        let mut guard = self.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.is_raised() {
            guard = match deadline {
                None => self
                    .woken
                    .wait(guard)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let now = Instant::now();
                    if now >= deadline {
                        return;
                    }
                    let waited = self.woken.wait_timeout(guard, deadline - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_request_wakes_a_sleeper_and_is_taken_once() {
        let attention = Arc::new(Attention::default());
        let sleeper = Arc::clone(&attention);
        let thread = thread::spawn(move || {
            sleeper.wait(None);
            (
                sleeper.take(Request::Nmi),
                sleeper.take(Request::Nmi),
                sleeper.is_raised(),
            )
        });
        attention.raise(Request::Nmi);
        assert_eq!(thread.join().unwrap(), (true, false, false));
    }

    #[test]
    fn a_deadline_ends_the_wait() {
        let attention = Attention::default();
        attention.wait(Some(Instant::now() + Duration::from_millis(1)));
        assert!(!attention.is_raised());
    }
}
