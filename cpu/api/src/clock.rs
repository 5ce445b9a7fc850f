//! Guest time.

use std::time::{Duration, Instant};

/// A time stamp counter that advances with the host's monotonic clock.
///
/// All CPUs of a machine share one, so that their counters never differ.
#[derive(Clone, Copy, Debug)]
pub struct TscClock {
    origin: Instant,
    /// Counter at `origin`.
    base: u64,
    khz: u32,
}

impl TscClock {
    /// A counter that shows `base` now and advances `khz` thousand times a second; `khz` is at least 1.
    pub fn new(base: u64, khz: u32) -> Self {
        Self {
            origin: Instant::now(),
            base,
            khz: khz.max(1),
        }
    }

    /// Its frequency in kHz.
    pub fn khz(&self) -> u32 {
        self.khz
    }

    /// The counter now.
    #[inline]
    pub fn now(&self) -> u64 {
        self.base.wrapping_add(self.ticks(self.origin.elapsed()))
    }

    /// The host's time at which the counter shows `tsc`; the origin when that is past.
    pub fn instant_of(&self, tsc: u64) -> Instant {
        let ticks = u128::from(tsc.saturating_sub(self.base));
        let nanoseconds = ticks * 1_000_000 / u128::from(self.khz);
        // 580 years at most, so that the sum cannot overflow an Instant.
        let nanoseconds = u64::try_from(nanoseconds).unwrap_or(u64::MAX) / 4 * 4;
        self.origin
            .checked_add(Duration::from_nanos(nanoseconds))
            .unwrap_or_else(|| self.origin + Duration::from_secs(1 << 31))
    }

    /// Nanoseconds of `ticks` ticks.
    pub fn nanoseconds(&self, ticks: u64) -> u64 {
        u64::try_from(u128::from(ticks) * 1_000_000 / u128::from(self.khz)).unwrap_or(u64::MAX)
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "2^64 ticks are centuries")]
    fn ticks(&self, elapsed: Duration) -> u64 {
        if self.khz == 1_000_000 {
            return elapsed.as_secs().wrapping_mul(1_000_000_000)
                + u64::from(elapsed.subsec_nanos());
        }
        (elapsed.as_nanos() * u128::from(self.khz) / 1_000_000) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_and_host_time_agree() {
        for khz in [1, 1_000_000, 2_712_345] {
            let clock = TscClock::new(1 << 40, khz);
            let now = clock.now();
            assert!(now >= 1 << 40);
            let ahead = now + u64::from(khz) * 5_000;
            let wait = clock.instant_of(ahead) - clock.instant_of(now);
            assert!((wait.as_secs_f64() - 5.0).abs() < 0.01, "{wait:?} at {khz}");
            assert_eq!(clock.nanoseconds(u64::from(khz)), 1_000_000);
        }
        assert!(TscClock::new(5, 1).instant_of(u64::MAX) > Instant::now());
    }
}
