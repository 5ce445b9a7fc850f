//! Signals by name and number, as Docker's clients send them.

use crate::error::{Error, Result};

/// Name and number on every Linux architecture we run on.
const SIGNALS: &[(&str, u32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// `SIGKILL`.
pub(crate) const KILL: u32 = 9;
/// `SIGTERM`.
pub(crate) const TERM: u32 = 15;

const RTMIN: u32 = 34;
const RTMAX: u32 = 64;

/// Reads `9`, `KILL`, `SIGKILL`, `sigkill`, `RTMIN+3`.
///
/// # Errors
/// 400 in dockerd's words.
pub(crate) fn parse(text: &str) -> Result<u32> {
    let invalid = || Error::invalid(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<u32>() {
        return if (1..=RTMAX).contains(&number) {
            Ok(number)
        } else {
            Err(invalid())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    let number = match (
        name,
        name.strip_prefix("RTMIN+"),
        name.strip_prefix("RTMAX-"),
    ) {
        ("RTMIN", ..) => Some(RTMIN),
        ("RTMAX", ..) => Some(RTMAX),
        (_, Some(above), _) => above
            .parse::<u32>()
            .ok()
            .and_then(|above| RTMIN.checked_add(above)),
        (_, _, Some(below)) => below
            .parse::<u32>()
            .ok()
            .and_then(|below| RTMAX.checked_sub(below)),
        _ => None,
    };
    number
        .filter(|number| (RTMIN..=RTMAX).contains(number))
        .ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("sigterm", 15),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
        ] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for bad in ["", "0", "65", "SIGNOPE", "RTMIN+99", "-9", "RTMAX-40"] {
            assert_eq!(
                parse(bad).unwrap_err().to_string(),
                format!("invalid signal: {bad}")
            );
        }
    }
}
