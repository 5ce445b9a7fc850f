//! Container ids.

use std::fmt;
use std::str::FromStr;

/// A container's id: 1 to 1024 letters, digits, `_`, `+`, `-`, `.`; not `.` or `..`.
///
/// Safe as a file name and in log lines.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(String);

impl ContainerId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ContainerId {
    type Err = crate::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
        let is_valid = (1..=1024).contains(&text.len())
            && text.chars().all(is_plain)
            && !matches!(text, "." | "..");
        if !is_valid {
            return Err(crate::Error::InvalidId(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_file_names() {
        for good in ["a", "web-1", "A_b.c+d", &"x".repeat(1024)] {
            assert!(good.parse::<ContainerId>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(1025)] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad}");
        }
    }
}
