//! How the CPUs of one machine agree on which pages hold decoded code.
//!
//! A CPU that decodes a page for the first time must see every later write to it. Its own translations it can take back;
//! another CPU may still write through one of its own, without looking. So before the bytes are read, the epoch is raised
//! and every running CPU is waited for until it has seen it, which it does between two blocks: within a microsecond.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::cpu::Cpu;

/// What a CPU that does not run has seen: it looks before it runs again.
const IDLE: u64 = u64::MAX;

/// For each CPU of a machine, the last epoch that it has seen.
#[derive(Debug)]
pub(crate) struct Peers {
    seen: Box<[AtomicU64]>,
    /// What was last added to the clock to make a time stamp counter show a given value.
    tsc_offset: AtomicU64,
}

impl Peers {
    /// `count` CPUs, none of which runs.
    pub(crate) fn new(count: u8) -> Self {
        Self {
            seen: (0..count).map(|_| AtomicU64::new(IDLE)).collect(),
            tsc_offset: AtomicU64::new(0),
        }
    }

    /// What to add to the clock for a counter that is to be `wanted` ticks ahead of it. When another CPU was given nearly
    /// the same (within `tolerance` ticks), the very same: the CPUs of a machine are restored one after the other, and
    /// their counters must not differ afterwards.
    pub(crate) fn agree_on_offset(&self, wanted: u64, tolerance: u64) -> u64 {
        let last = self.tsc_offset.load(Ordering::SeqCst);
        if wanted.wrapping_sub(last).cast_signed().unsigned_abs() <= tolerance {
            return last;
        }
        self.tsc_offset.store(wanted, Ordering::SeqCst);
        wanted
    }

    fn set(&self, index: u8, epoch: u64) {
        if let Some(seen) = self.seen.get(usize::from(index)) {
            seen.store(epoch, Ordering::SeqCst);
        }
    }

    /// Whether all CPUs but `index` have seen `epoch`.
    fn have_seen(&self, index: u8, epoch: u64) -> bool {
        let mut others = self
            .seen
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != usize::from(index));
        others.all(|(_, seen)| seen.load(Ordering::SeqCst) >= epoch)
    }
}

impl Cpu {
    /// Stops writing without looking to what is code now, and says so.
    pub(crate) fn see_epoch(&mut self) {
        if self.cpus == 1 {
            return;
        }
        loop {
            let epoch = self.ram.code_pages().epoch();
            let pages = self.ram.code_pages();
            self.tlb.forbid_writes_where(|page| pages.has_code(page));
            self.peers.set(self.index, epoch);
            // A CPU that raised it meanwhile may have found this one idle.
            if self.ram.code_pages().epoch() == epoch {
                return;
            }
        }
    }

    /// This CPU sleeps or leaves its loop: nobody waits for it.
    pub(crate) fn be_idle(&self) {
        self.peers.set(self.index, IDLE);
    }

    /// Page `page` (a memory offset) is code from now on: waits until no CPU writes to it without looking.
    pub(crate) fn announce_code(&mut self, page: u64) {
        self.tlb.forbid_writes_to(page);
        if self.cpus == 1 {
            return;
        }
        let epoch = self.ram.code_pages().raise_epoch();
        while !self.peers.have_seen(self.index, epoch) {
            // The others may be waiting for this one.
            self.see_epoch();
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_restored_one_after_the_other_agree_on_time() {
        let peers = Peers::new(2);
        assert_eq!(peers.agree_on_offset(3, 10), 0);
        assert_eq!(
            peers.agree_on_offset(0u64.wrapping_sub(500), 10),
            0u64.wrapping_sub(500)
        );
        assert_eq!(
            peers.agree_on_offset(0u64.wrapping_sub(505), 10),
            0u64.wrapping_sub(500)
        );
    }

    #[test]
    fn only_running_cpus_are_waited_for() {
        let peers = Peers::new(3);
        assert!(peers.have_seen(0, 7));
        peers.set(1, 6);
        peers.set(0, 1);
        assert!(!peers.have_seen(0, 7));
        assert!(peers.have_seen(1, 1));
        peers.set(1, 7);
        assert!(peers.have_seen(0, 7));
    }
}
