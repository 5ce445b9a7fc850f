//! Whether KVM on this host is worth using: a small guest is run, because looking at `/dev/kvm` does not tell.
//!
//! Some hosts, virtual machines themselves, have a `/dev/kvm` that opens and answers every query, then emulates the
//! guest's kernel in software, at 0.3 million instructions a second, while its user programs (ring 3) run at the
//! processor's speed. The software CPU of this project is 200 times faster than that emulation, so both are measured.
//!
//! In 64-bit mode the guest runs a loop in ring 0, whose length it is given through a port: short at first, four times
//! as long each time, until one takes a millisecond. Then it enters ring 3, adds with SSE, exchanges 16 bytes by
//! CMPXCHG16B, and runs such loops again.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use atoll_cpu_api::{Bus, CpuError, Hypervisor, Stop, Vcpu, VcpuHandle, VmConfig};
use atoll_memory::GuestMemory;
use thiserror::Error;

use crate::hypervisor::Kvm;

mod guest;

/// Million instructions a second from which on KVM is used.
///
/// A processor that executes the guest itself does over 1000 in either ring. KVM inside an emulated machine (QEMU TCG)
/// does 300 to 900, or 80 on a host twice as busy as it can be. A KVM that emulates does 0.3 to 3 in ring 0. The value
/// is far from both, and below what the software CPU does, so that a busy moment does not decide.
pub const MINIMUM_MIPS: f64 = 25.0;

/// A loop that takes this long is long enough to be measured.
const SLICE: Duration = Duration::from_millis(1);
/// Loops of that length that are tried before a slow one is believed: the host may have been busy.
const SLICES: u32 = 5;
/// How long the guest may take in all before it is given up.
const PATIENCE: Duration = Duration::from_millis(500);
const MEMORY_BYTES: u64 = 64 << 10;

/// KVM works on this host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    /// Million instructions a second in a loop of two instructions, in ring 0.
    pub kernel_mips: f64,
    /// The same in ring 3.
    pub user_mips: f64,
}

/// Why KVM is not to be used on this host.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Unusable {
    /// No device, no right to it, a kernel without what is needed, or the probe guest could not be run.
    #[error("KVM cannot be used")]
    Failed(#[from] CpuError),
    /// The probe guest did not execute what every guest may.
    #[error("KVM's guest failed at {0}")]
    Wrong(&'static str),
    /// It did not come to its end.
    #[error("KVM's guest did not finish within {} ms", PATIENCE.as_millis())]
    Stuck,
    /// Its TSC does not advance. So it is where the kernel corrected the TSC's frequency upwards, some seconds after its
    /// start, when KVM was loaded already.
    #[error("the TSC of KVM's guest stands still")]
    NoTsc,
    /// It executes, but below [`MINIMUM_MIPS`].
    #[error("KVM executes {mips:.1} million instructions a second in ring {ring}, so it emulates")]
    Slow {
        /// The ring in which it is slow, 0 or 3.
        ring: u8,
        /// Million instructions a second there.
        mips: f64,
    },
}

/// Runs the probe guest. Takes 10 to 20 ms, a thread, and 64 KiB; at most half a second.
///
/// Blocks. Opens `/dev/kvm` and closes it again.
///
/// # Errors
/// [`Unusable`], with the reason.
pub fn probe() -> Result<Probe, Unusable> {
    let memory = GuestMemory::new(MEMORY_BYTES).map_err(|error| CpuError::Host {
        what: "memory of the probe guest",
        source: std::io::Error::other(error),
    })?;
    guest::load(&memory.ram());
    let config = VmConfig {
        vcpus: 1,
        tsc_khz: None,
    };
    let vm = Kvm::open()?.create_vm(config, memory)?;
    let mut vcpu = vm.create_vcpu(0, None)?;
    vcpu.set_state(&guest::state())?;
    let bus = Arc::new(ProbeBus {
        handle: vcpu.handle(),
        progress: Mutex::default(),
    });
    let (stop, in_time) = run(&mut *vcpu, &bus)?;
    if vcpu.state()?.tsc == vcpu.state()?.tsc {
        return Err(Unusable::NoTsc);
    }
    let progress =
        std::mem::take(&mut *bus.progress.lock().unwrap_or_else(PoisonError::into_inner));
    progress.verdict(stop, in_time)
}

/// Runs the guest to its end, or until it is paused because its time is over.
fn run(vcpu: &mut dyn Vcpu, bus: &Arc<ProbeBus>) -> Result<(Stop, bool), CpuError> {
    let (finished, finish) = channel::<()>();
    let handle = vcpu.handle();
    let bus: Arc<dyn Bus> = Arc::<ProbeBus>::clone(bus);
    thread::scope(|scope| {
        let watch = scope.spawn(move || {
            let late = finish.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
            if late {
                handle.pause();
            }
            late
        });
        let stop = vcpu.run(&bus);
        drop(finished);
        let late = watch.join().unwrap_or(true);
        Ok((stop?, !late))
    })
}

/// How far the guest came.
#[derive(Debug, Default)]
struct Progress {
    /// What it reported last; 0 before anything.
    stage: u8,
    /// Loop it was sent into, and when.
    running: Option<(u32, Instant)>,
    /// Loops of a [`SLICE`] or more so far, in the present ring.
    slices: u32,
    /// The best speed of those.
    mips: f64,
    /// The speed of ring 0, when that is known.
    kernel_mips: Option<f64>,
    finished: bool,
}

impl Progress {
    /// The guest ended the loop it was sent into: the length of the next, 0 to go to ring 3; `None` when enough is
    /// known.
    fn next_loop(&mut self, now: Instant) -> Option<u32> {
        let Some((count, since)) = self.running.filter(|(count, _)| *count > 0) else {
            return Some(guest::FIRST_LOOP);
        };
        let took = now.saturating_duration_since(since);
        if took < SLICE {
            return Some(count.saturating_mul(4));
        }
        self.slices += 1;
        let mips = 2.0 * f64::from(count) / took.as_secs_f64() / 1e6;
        self.mips = self.mips.max(mips);
        if self.mips < MINIMUM_MIPS && self.slices < SLICES {
            return Some(count);
        }
        if self.mips >= MINIMUM_MIPS && self.kernel_mips.is_none() {
            self.kernel_mips = Some(self.mips);
            (self.slices, self.mips) = (0, 0.0);
            return Some(0);
        }
        self.finished = true;
        None
    }

    fn verdict(&self, stop: Stop, in_time: bool) -> Result<Probe, Unusable> {
        let mips = self.mips;
        match (self.finished, self.kernel_mips) {
            (true, Some(kernel_mips)) if mips >= MINIMUM_MIPS => Ok(Probe {
                kernel_mips,
                user_mips: mips,
            }),
            (true, Some(_)) => Err(Unusable::Slow { ring: 3, mips }),
            (true, None) => Err(Unusable::Slow { ring: 0, mips }),
            _ if stop == Stop::Paused && !in_time => Err(Unusable::Stuck),
            _ => Err(Unusable::Wrong(guest::stage(self.stage))),
        }
    }
}

/// The guest's ports.
struct ProbeBus {
    handle: Arc<dyn VcpuHandle>,
    progress: Mutex<Progress>,
}

impl Bus for ProbeBus {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let next = if port == guest::LOOP_PORT {
            progress.next_loop(Instant::now())
        } else {
            Some(0)
        };
        if next.is_none() {
            self.handle.pause();
        }
        let count = next.unwrap_or(1);
        for (to, from) in data.iter_mut().zip(count.to_le_bytes()) {
            *to = from;
        }
        progress.running = Some((count, Instant::now()));
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        if let (guest::STAGE_PORT, [stage, ..]) = (port, data) {
            let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.stage = *stage;
        }
    }

    fn memory_read(&self, _address: u64, data: &mut [u8]) {
        data.fill(0xFF);
    }

    fn memory_write(&self, _address: u64, _data: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Progress after loops of so many microseconds and rounds.
    fn after(loops: &[(u64, u32)]) -> Progress {
        let mut progress = Progress::default();
        let mut now = Instant::now();
        for &(microseconds, count) in loops {
            progress.running = Some((count, now));
            now += Duration::from_micros(microseconds);
            progress.next_loop(now);
        }
        progress
    }

    #[test]
    fn loops_grow_until_one_takes_a_millisecond_in_each_ring() {
        let mut progress = Progress::default();
        let start = Instant::now();
        for ring in [0, 3] {
            assert_eq!(progress.next_loop(start), Some(guest::FIRST_LOOP));
            progress.running = Some((64, start));
            assert_eq!(progress.next_loop(start + SLICE / 2), Some(256));
            progress.running = Some((1 << 20, start));
            let next = (ring == 0).then_some(0);
            assert_eq!(progress.next_loop(start + SLICE), next);
            progress.running = Some((0, start));
        }
    }

    #[test]
    fn a_host_is_used_when_both_rings_are_fast() {
        let fast = after(&[(10, 64), (2_000, 1 << 20), (1_000, 1 << 20)]);
        let probe = fast.verdict(Stop::Paused, true).unwrap();
        assert!(probe.kernel_mips > 1000.0 && probe.user_mips > 2000.0);
        let slow_loop = (1_500, 256);
        for (before, expected) in [(None, 0), (Some((2_000, 1 << 20)), 3)] {
            let loops: Vec<_> = before
                .into_iter()
                .chain([slow_loop; SLICES as usize])
                .collect();
            match after(&loops).verdict(Stop::Paused, true) {
                Err(Unusable::Slow { ring, mips }) => {
                    assert_eq!(ring, expected);
                    assert!((0.3..0.4).contains(&mips), "{mips}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn one_busy_moment_does_not_condemn_a_host() {
        let busy_once = after(&[(190_000, 1 << 20), (1_000, 1 << 20), (1_000, 1 << 20)]);
        assert!(busy_once.verdict(Stop::Paused, true).is_ok());
    }

    #[test]
    fn a_guest_that_dies_or_hangs_is_named_by_what_it_did_last() {
        let dead = Progress {
            stage: 2,
            ..Progress::default()
        };
        let verdict = dead.verdict(Stop::TripleFault, true);
        assert!(
            matches!(verdict, Err(Unusable::Wrong("SSE"))),
            "{verdict:?}"
        );
        let verdict = dead.verdict(Stop::Paused, false);
        assert!(matches!(verdict, Err(Unusable::Stuck)), "{verdict:?}");
    }
}
