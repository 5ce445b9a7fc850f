//! Sizes, times and names as people read them; Docker's own words and roundings.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A number of bytes with three digits and a decimal unit: `1.24MB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut unit = 0;
    let mut divisor = 1u64;
    while bytes / divisor >= 1000 && unit + 1 < UNITS.len() {
        divisor *= 1000;
        unit += 1;
    }
    let whole = bytes / divisor;
    let digits: u32 = if whole >= 100 {
        0
    } else if whole >= 10 {
        1
    } else {
        2
    };
    let scale = 10u64.pow(digits);
    let scaled =
        (u128::from(bytes) * u128::from(scale) + u128::from(divisor / 2)) / u128::from(divisor);
    let (whole, fraction) = (scaled / u128::from(scale), scaled % u128::from(scale));
    let mut text = whole.to_string();
    if fraction > 0 {
        let width = usize::try_from(digits).unwrap_or(0);
        let padded = format!("{fraction:0width$}");
        text.push('.');
        text.push_str(padded.trim_end_matches('0'));
    }
    text + UNITS[unit]
}

/// A span in one unit: `3 minutes`, `About an hour`, `2 weeks`.
pub(crate) fn span(seconds: u64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, ..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".to_owned(),
        (_, _, ..48) => format!("{hours} hours"),
        (_, _, ..336) => format!("{} days", hours / 24),
        (_, _, ..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, ..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// How long ago a time (seconds since 1970) was: `3 minutes ago`.
pub(crate) fn ago(created: i64) -> String {
    let passed = Timestamp::now().as_second().saturating_sub(created).max(0);
    format!("{} ago", span(u64::try_from(passed).unwrap_or(0)))
}

/// A time (seconds since 1970) in UTC: `2026-11-23 13:00:00 +0000 UTC`.
pub(crate) fn time(created: i64) -> String {
    Timestamp::from_second(created).map_or_else(
        |_| created.to_string(),
        |time| {
            time.to_zoned(TimeZone::UTC)
                .strftime("%Y-%m-%d %H:%M:%S +0000 UTC")
                .to_string()
        },
    )
}

/// The first twelve digits of an id, without its algorithm.
pub(crate) fn short_id(id: &str) -> String {
    let digits = id.split_once(':').map_or(id, |(_, digits)| digits);
    digits.chars().take(12).collect()
}

/// A text cut to `limit` characters, the last of them an ellipsis.
pub(crate) fn shorten(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let kept: String = text.chars().take(limit.saturating_sub(1)).collect();
    kept + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_dockers() {
        let cases = [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (4_270_000, "4.27MB"),
            (13_300, "13.3kB"),
            (117_000_000, "117MB"),
            (117_600_000, "118MB"),
            (2_000_000_000, "2GB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size(u64::MAX), "18447PB");
    }

    #[test]
    fn spans_read_as_dockers() {
        let hour = 3600;
        let cases = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (120, "2 minutes"),
            (hour, "About an hour"),
            (47 * hour, "47 hours"),
            (49 * hour, "2 days"),
            (15 * 24 * hour, "2 weeks"),
            (90 * 24 * hour, "3 months"),
            (800 * 24 * hour, "2 years"),
        ];
        for (seconds, text) in cases {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn ids_and_texts_are_cut() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(shorten("abcdef", 6), "abcdef");
        assert_eq!(shorten("abcdefg", 6), "abcde…");
        assert_eq!(time(0), "1970-01-01 00:00:00 +0000 UTC");
    }
}
