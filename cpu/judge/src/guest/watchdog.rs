//! A thread that pauses a CPU whose case does not end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use atoll_cpu_api::VcpuHandle;

/// How often it looks; a case is ended after two to three looks.
const PERIOD: Duration = Duration::from_millis(150);

/// Counts up when a case begins and when it ends: odd while one runs.
#[derive(Debug, Default)]
struct Shared {
    count: AtomicU64,
    over: AtomicBool,
}

/// Watches one CPU; its thread ends with it.
#[derive(Debug)]
pub(super) struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Watches the CPU that `handle` reaches.
    pub(super) fn new(handle: Arc<dyn VcpuHandle>) -> Self {
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let (mut last, mut looks) = (0, 0);
            while !watched.over.load(Ordering::Relaxed) {
                thread::park_timeout(PERIOD);
                let count = watched.count.load(Ordering::Relaxed);
                looks = if count == last { looks + 1 } else { 0 };
                last = count;
                if count % 2 == 1 && looks >= 2 {
                    handle.pause();
                    looks = 0;
                }
            }
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// A case begins.
    pub(super) fn begin(&self) {
        self.shared.count.fetch_add(1, Ordering::Relaxed);
    }

    /// It ended.
    pub(super) fn end(&self) {
        self.shared.count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It cannot panic; if it did, it is over all the same.
            let _ = thread.join();
        }
    }
}
