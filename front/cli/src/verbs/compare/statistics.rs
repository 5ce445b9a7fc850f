//! Medians with their spread, and how they are written.

use serde::Serialize;

/// The middle of several values, the least and the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Of finite values; `None` when there are none.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values
            .into_iter()
            .filter(|value| value.is_finite())
            .collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let upper = values[values.len() / 2];
        let lower = values[(values.len() - 1) / 2];
        Some(Self {
            median: f64::midpoint(lower, upper),
            min,
            max,
        })
    }

    /// `12.3 ms (11.9–14.0)`, all in the median's unit, or without a spread that can't be seen.
    ///
    /// * `units`: ascending, each with what one of it is in the values' unit.
    pub(super) fn text(self, units: &[(f64, &str)]) -> String {
        let fitting = units.iter().rev().find(|(one, _)| self.median >= *one);
        let &(one, unit) = fitting.or(units.first()).unwrap_or(&(1.0, ""));
        let [median, min, max] = [self.median, self.min, self.max].map(|value| digits(value / one));
        if min == max {
            return format!("{median} {unit}");
        }
        format!("{median} {unit} ({min}–{max})")
    }
}

/// Units of seconds.
pub(super) const SECONDS: &[(f64, &str)] = &[(1e-6, "µs"), (1e-3, "ms"), (1.0, "s")];
/// Units of nanoseconds.
pub(super) const NANOSECONDS: &[(f64, &str)] = &[(1.0, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s")];
/// Units of bytes.
pub(super) const BYTES: &[(f64, &str)] = &[(1.0, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB")];

/// Three digits, as far as they say something.
pub(super) fn digits(value: f64) -> String {
    if value >= 99.95 {
        format!("{value:.0}")
    } else if value >= 9.995 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let of = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[f64::NAN, f64::INFINITY]), None);
        let spread = |median, min, max| Some(Spread { median, min, max });
        assert_eq!(of(&[2.0]), spread(2.0, 2.0, 2.0));
        assert_eq!(of(&[9.0, 1.0, f64::NAN, 2.0]), spread(2.0, 1.0, 9.0));
        assert_eq!(of(&[4.0, 1.0, 2.0, 9.0]), spread(3.0, 1.0, 9.0));
    }

    #[test]
    fn values_are_written_in_the_unit_of_their_median() {
        let spread = |median, min, max| Spread { median, min, max };
        assert_eq!(
            spread(0.0123, 0.009, 1.2).text(SECONDS),
            "12.3 ms (9.00–1200)"
        );
        assert_eq!(spread(0.3e-6, 0.3e-6, 0.3e-6).text(SECONDS), "0.30 µs");
        assert_eq!(spread(99.96, 99.96, 100.2).text(NANOSECONDS), "100 ns");
        assert_eq!(
            spread(1500.0, 999.0, 2000.0).text(NANOSECONDS),
            "1.50 µs (1.00–2.00)"
        );
        assert_eq!(
            spread(7.9e6, 7.9e6, 8.1e6).text(BYTES),
            "7.90 MB (7.90–8.10)"
        );
    }
}
