//! The APIC timer: counts down, once or again and again, or waits for a time stamp.
//!
//! Source: Intel SDM vol. 3 §11.5.4.

/// Frequency at which it counts when the divider is 1; the one KVM has, which saved machines rely on.
const TIMER_KHZ: u64 = 1_000_000;

/// How the timer's local vector table entry has it run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
}

impl Mode {
    /// The mode in bits 17 and 18 of the entry.
    pub(super) fn of(entry: u32) -> Self {
        match entry >> 17 & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            // 3 is reserved; the timer then is silent as with no deadline.
            _ => Self::TscDeadline,
        }
    }
}

/// When the timer fires next, in the guest's TSC.
#[derive(Clone, Debug)]
pub(super) struct Timer {
    tsc_khz: u32,
    /// The next expiry.
    pub(super) due: Option<u64>,
}

impl Timer {
    pub(super) fn new(tsc_khz: u32) -> Self {
        Self {
            tsc_khz: tsc_khz.max(1),
            due: None,
        }
    }

    /// Ticks of the TSC that `count` counts take, at least 1.
    pub(super) fn ticks(&self, count: u32, divide: u32) -> u64 {
        let counts = u128::from(count) * u128::from(divisor(divide));
        let ticks = counts * u128::from(self.tsc_khz) / u128::from(TIMER_KHZ);
        u64::try_from(ticks).unwrap_or(u64::MAX).max(1)
    }

    /// What the current-count register shows at `tsc`.
    pub(super) fn remaining(&self, initial: u32, divide: u32, tsc: u64) -> u32 {
        let Some(due) = self.due else { return 0 };
        let left = u128::from(due.saturating_sub(tsc)) * u128::from(TIMER_KHZ);
        let counts = left / u128::from(self.tsc_khz) / u128::from(divisor(divide));
        u32::try_from(counts).unwrap_or(u32::MAX).min(initial)
    }

    /// Moves a periodic timer past `tsc`. Periods that were missed are dropped: the guest is told of one.
    pub(super) fn advance(&mut self, initial: u32, divide: u32, tsc: u64) {
        let period = self.ticks(initial, divide);
        let due = self.due.unwrap_or(tsc);
        let missed = tsc.saturating_sub(due) / period;
        self.due = Some(due.saturating_add(period.saturating_mul(missed + 1)));
    }
}

/// What the divide configuration register divides by: bits 0, 1 and 3 are a power of two, but 7 means 1.
fn divisor(divide: u32) -> u64 {
    let code = divide & 3 | divide >> 1 & 4;
    1 << ((code + 1) & 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dividers_are_those_of_the_manual() {
        let dividers = [0, 1, 2, 3, 8, 9, 10, 11].map(divisor);
        assert_eq!(dividers, [2, 4, 8, 16, 32, 64, 128, 1]);
    }

    #[test]
    fn missed_periods_become_one() {
        let mut timer = Timer::new(1_000_000);
        timer.due = Some(1000);
        timer.advance(100, 0xB, 5_050);
        assert_eq!(timer.due, Some(5_100));
        assert_eq!(timer.remaining(100, 0xB, 5_050), 50);
    }

    #[test]
    fn extreme_counts_do_not_overflow() {
        let mut timer = Timer::new(u32::MAX);
        let ticks = timer.ticks(u32::MAX, 10);
        assert!(ticks > 1 << 40);
        timer.due = Some(u64::MAX - 1);
        timer.advance(u32::MAX, 10, u64::MAX);
        assert_eq!(timer.due, Some(u64::MAX));
    }
}
