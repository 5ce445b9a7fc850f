//! Keys that leave a terminal and let the container go on.

use crate::error::Error;

/// Docker's default.
pub(crate) const DEFAULT: &str = "ctrl-p,ctrl-q";

/// Finds a sequence of keys in a stream of input.
///
/// Bytes that may be the start of the sequence are held back until it is clear that they are not.
#[derive(Debug)]
pub(crate) struct DetachKeys {
    sequence: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// Reads a list like `ctrl-p,ctrl-q` or `a,b`; an empty text never matches.
    ///
    /// # Errors
    /// [`Error::Value`] for an unknown key.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let key = |name: &str| match name.as_bytes() {
            [byte] => Some(*byte),
            [b'c', b't', b'r', b'l', b'-', byte] => match byte.to_ascii_lowercase() {
                letter @ b'a'..=b'z' => Some(letter - b'a' + 1),
                b'@' => Some(0),
                other @ b'['..=b'_' => Some(other - b'[' + 27),
                _ => None,
            },
            _ => None,
        };
        let names = text.split(',').filter(|name| !name.is_empty());
        let sequence: Option<Vec<u8>> = names.map(key).collect();
        let expected = "expected keys like ctrl-p,ctrl-q or a,b";
        let sequence = sequence.ok_or_else(|| Error::value("--detach-keys", text, expected))?;
        Ok(Self {
            sequence,
            matched: 0,
        })
    }

    /// Takes typed bytes; gives what is to be passed on, and whether the sequence is complete
    /// (bytes after it are dropped).
    pub(crate) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len() + self.matched);
        for byte in typed {
            if self.sequence.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.sequence.len() {
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(&self.sequence[..self.matched]);
            self.matched = usize::from(self.sequence.first() == Some(byte));
            if self.matched == 0 {
                passed.push(*byte);
            } else if self.sequence.len() == 1 {
                return (passed, true);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(keys: &str, typed: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut keys = DetachKeys::parse(keys).unwrap();
        let mut all = Vec::new();
        for part in typed {
            let (passed, is_detached) = keys.filter(part);
            all.extend(passed);
            if is_detached {
                return (all, true);
            }
        }
        (all, false)
    }

    #[test]
    fn the_sequence_is_found_across_reads_and_not_passed_on() {
        assert_eq!(
            filter(DEFAULT, &[b"ab\x10", b"\x11cd"]),
            (b"ab".to_vec(), true)
        );
        assert_eq!(
            filter(DEFAULT, &[b"\x10", b"x\x11"]),
            (b"\x10x\x11".to_vec(), false)
        );
        assert_eq!(
            filter(DEFAULT, &[b"\x10\x10\x11"]),
            (b"\x10".to_vec(), true)
        );
        assert_eq!(filter("a", &[b"xa"]), (b"x".to_vec(), true));
        assert_eq!(filter("", &[b"\x10\x11"]), (b"\x10\x11".to_vec(), false));
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(DetachKeys::parse("ctrl-").is_err() && DetachKeys::parse("meta-x").is_err());
        assert_eq!(
            DetachKeys::parse("ctrl-@,ctrl-[,ctrl-_").unwrap().sequence,
            [0, 27, 31]
        );
    }
}
