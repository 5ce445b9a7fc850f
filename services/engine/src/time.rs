//! Points in time, as Docker writes and reads them.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Go's zero time: "never".
pub(crate) const ZERO: &str = "0001-01-01T00:00:00Z";

/// Now, in RFC 3339 with nanoseconds and no trailing zeros, as Go's RFC3339Nano.
pub(crate) fn now() -> String {
    format(Timestamp::now())
}

/// `timestamp` as Go's RFC3339Nano in UTC.
pub(crate) fn format(timestamp: Timestamp) -> String {
    timestamp.to_string()
}

/// A file's time, the same way; the zero time for one that no calendar has.
pub(crate) fn rfc3339(seconds: i64, nanos: u32) -> String {
    let nanos = i32::try_from(nanos).unwrap_or(0);
    Timestamp::new(seconds, nanos).map_or_else(|_| ZERO.to_owned(), format)
}

/// Nanoseconds since 1970.
pub(crate) fn now_nanos() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Seconds since 1970 of an RFC 3339 time, 0 when it isn't one.
pub(crate) fn unix_seconds(text: &str) -> i64 {
    text.parse::<Timestamp>().map_or(0, Timestamp::as_second)
}

/// Reads what Docker's clients send for `since` and `until`: `1700000000`, `1700000000.123456789`, or RFC 3339.
pub(crate) fn parse_nanos(text: &str) -> Option<i64> {
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return i64::try_from(timestamp.as_nanosecond()).ok();
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// "2 minutes", "About an hour": how long ago in `docker ps`'s words.
pub(crate) fn human_duration(seconds: i64) -> String {
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{} minutes", seconds / 60),
        3600..7200 => "About an hour".to_owned(),
        7200..172_800 => format!("{} hours", (seconds + 1800) / 3600),
        172_800..1_209_600 => format!("{} days", seconds / 86_400),
        1_209_600..5_184_000 => format!("{} weeks", seconds / 604_800),
        5_184_000..63_072_000 => format!("{} months", seconds / 2_592_000),
        _ => format!("{} years", seconds / 31_536_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_times_are_read() {
        assert_eq!(parse_nanos("1700000000"), Some(1_700_000_000_000_000_000));
        assert_eq!(parse_nanos("1700000000.5"), Some(1_700_000_000_500_000_000));
        assert_eq!(parse_nanos("1970-01-01T00:00:01.25Z"), Some(1_250_000_000));
        assert_eq!(parse_nanos("soon"), None);
        assert_eq!(parse_nanos("99999999999999999999"), None);
        assert_eq!(parse_nanos("1.0000000001"), None);
    }

    #[test]
    fn durations_read_as_dockers() {
        assert_eq!(human_duration(0), "Less than a second");
        assert_eq!(human_duration(59), "59 seconds");
        assert_eq!(human_duration(61), "About a minute");
        assert_eq!(human_duration(3599), "59 minutes");
        assert_eq!(human_duration(3601), "About an hour");
        assert_eq!(human_duration(86_400 * 3), "3 days");
    }
}
