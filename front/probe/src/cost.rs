//! What one of a thing costs, in nanoseconds.
//!
//! Each is the best of several batches of a few milliseconds: what else runs on the host can make a
//! batch slower, never faster. The spread between containers is the caller's to see.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// A batch that takes this long is long enough to be measured by any clock.
const BATCH: Duration = Duration::from_millis(3);
const BATCHES: usize = 5;
/// Bytes of a page on x86-64.
const PAGE: usize = 4096;
/// Bytes the allocator always asks the kernel for, and never keeps: over `M_MMAP_THRESHOLD`'s maximum.
const FRESH: usize = 40 << 20;
/// Pages of a batch of page faults.
const FAULTS: usize = 512;
/// Bytes of one copy: more than the processor's nearest caches hold.
const COPY: usize = 1 << 20;

/// A system call that does next to nothing: getppid(2), which no library remembers.
pub(crate) fn system_call_ns() -> f64 {
    best(|count| {
        for _ in 0..count {
            black_box(rustix::process::getppid());
        }
    })
}

/// The first write to an anonymous page of 4 KiB. Not a number when memory can't be had.
pub(crate) fn page_fault_ns() -> f64 {
    // With huge pages one fault would serve 512 pages. A kernel without them has nothing to forbid.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let mut memory: Vec<u8> = Vec::new();
    if memory.try_reserve_exact(FRESH).is_err() {
        return f64::NAN;
    }
    // `vec!` asks for zeroed memory, which the allocator gets from the kernel untouched.
    drop(memory);
    let mut memory = vec![0u8; FRESH];
    let mut batch_ns = Vec::new();
    for batch in memory.chunks_mut(FAULTS * PAGE).take(2 * BATCHES) {
        let started = Instant::now();
        for page in batch.chunks_mut(PAGE) {
            page[0] = black_box(1);
        }
        batch_ns.push(nanoseconds(started.elapsed()));
    }
    black_box(&memory);
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let pages = FAULTS as f64;
    batch_ns.into_iter().fold(f64::NAN, f64::min) / pages
}

/// One step of a generator of random numbers: three shifts and three exclusive ors, each waiting for
/// the one before.
pub(crate) fn integer_ns() -> f64 {
    let mut state = black_box(0x9E37_79B9_7F4A_7C15u64);
    let best = best(|count| {
        for _ in 0..count {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
        }
        black_box(state);
    });
    black_box(state);
    best
}

/// Copying 1 KiB, as part of copies of 1 MiB.
pub(crate) fn copy_ns() -> f64 {
    let from = vec![1u8; COPY];
    let mut to = vec![2u8; COPY];
    let once = best(|count| {
        for _ in 0..count {
            to.copy_from_slice(black_box(&from));
            black_box(&to);
        }
    });
    once / 1024.0
}

/// Nanoseconds of one, by batches that grow until they are long enough.
fn best(mut batch: impl FnMut(u32)) -> f64 {
    let mut count = 1u32;
    let mut timed = |count: u32| {
        let started = Instant::now();
        batch(count);
        started.elapsed()
    };
    while timed(count) < BATCH && count < u32::MAX / 2 {
        count *= 2;
    }
    let all = (0..BATCHES).map(|_| nanoseconds(timed(count)) / f64::from(count));
    all.fold(f64::INFINITY, f64::min)
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_grow_until_they_can_be_measured() {
        let mut longest = 0;
        let ns = best(|count| {
            longest = longest.max(count);
            std::thread::sleep(Duration::from_micros(100) * count);
        });
        assert!(longest >= 16, "{longest}");
        assert!(ns >= 100_000.0, "{ns}");
    }

    #[test]
    fn everything_costs_something() {
        for ns in [system_call_ns(), page_fault_ns(), integer_ns(), copy_ns()] {
            assert!(ns.is_finite() && ns > 0.0, "{ns}");
        }
    }
}
