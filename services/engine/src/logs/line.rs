//! One line of a json-file log, `{"log":"…\n","stream":"stdout","time":"…"}`, taken apart without a general JSON parser.
//!
//! Lines of other writers (other member order, attributes) go through serde. Page: docs/formats/json-log.md.

use serde::Deserialize;

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// The output, still escaped as in JSON.
    pub(super) text: Text<'a>,
    /// `stdout` is false.
    pub(super) is_stderr: bool,
    /// RFC 3339.
    pub(super) time: std::borrow::Cow<'a, str>,
}

/// Output, escaped or not.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Text<'a> {
    /// As in JSON, without the quotes.
    Escaped(&'a [u8]),
    /// As it was written.
    Plain(String),
}

#[derive(Deserialize)]
struct Irregular {
    log: String,
    stream: String,
    time: String,
}

/// Takes a line apart; `None` when it is none (torn by a power cut, say).
pub(super) fn parse(line: &[u8]) -> Option<Line<'_>> {
    regular(line).or_else(|| {
        let Irregular { log, stream, time } = serde_json::from_slice(line).ok()?;
        Some(Line {
            text: Text::Plain(log),
            is_stderr: stream == "stderr",
            time: time.into(),
        })
    })
}

fn regular(line: &[u8]) -> Option<Line<'_>> {
    let rest = line.strip_prefix(b"{\"log\":\"")?;
    let end = string_end(rest)?;
    let (text, rest) = (&rest[..end], &rest[end..]);
    let rest = rest.strip_prefix(b"\",\"stream\":\"std")?;
    let (is_stderr, rest) = match rest.strip_prefix(b"out") {
        Some(rest) => (false, rest),
        None => (true, rest.strip_prefix(b"err")?),
    };
    let time = rest.strip_prefix(b"\",\"time\":\"")?.strip_suffix(b"\"}")?;
    if time.contains(&b'"') {
        return None;
    }
    let time = std::str::from_utf8(time).ok()?.into();
    Some(Line {
        text: Text::Escaped(text),
        is_stderr,
        time,
    })
}

/// Where the string that `bytes` begins with ends: at the first quote that no backslash escapes.
fn string_end(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from
            + bytes[from..]
                .iter()
                .position(|byte| matches!(byte, b'"' | b'\\'))?;
        if bytes[at] == b'"' {
            return Some(at);
        }
        from = at + 2;
        if from > bytes.len() {
            return None;
        }
    }
}

impl Text<'_> {
    /// Appends the output as it was written.
    pub(super) fn append_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Plain(text) => out.extend_from_slice(text.as_bytes()),
            Self::Escaped(bytes) => unescape(bytes, out),
        }
    }
}

fn unescape(mut bytes: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = bytes.iter().position(|byte| *byte == b'\\') {
        out.extend_from_slice(&bytes[..at]);
        let (byte, used) = match bytes.get(at + 1) {
            Some(b'n') => (b'\n', 2),
            Some(b't') => (b'\t', 2),
            Some(b'r') => (b'\r', 2),
            Some(b'b') => (8, 2),
            Some(b'f') => (12, 2),
            Some(b'u') => {
                let used = unescape_unicode(&bytes[at..], out);
                bytes = &bytes[at + used..];
                continue;
            }
            Some(byte) => (*byte, 2),
            None => (b'\\', 1),
        };
        out.push(byte);
        bytes = &bytes[at + used..];
    }
    out.extend_from_slice(bytes);
}

/// Appends the character of `\uXXXX` or of a surrogate pair; answers how many bytes it took.
fn unescape_unicode(bytes: &[u8], out: &mut Vec<u8>) -> usize {
    let unit = |from: usize| -> Option<u32> {
        let digits = std::str::from_utf8(bytes.get(from..from + 6)?).ok()?;
        u32::from_str_radix(digits.strip_prefix("\\u")?, 16).ok()
    };
    let Some(first) = unit(0) else {
        out.extend_from_slice(b"\\u");
        return 2;
    };
    let (code, used) = match (first, unit(6)) {
        (0xd800..=0xdbff, Some(second @ 0xdc00..=0xdfff)) => {
            (0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00), 12)
        }
        _ => (first, 6),
    };
    let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &str) -> Option<String> {
        let mut out = Vec::new();
        parse(line.as_bytes())?.text.append_to(&mut out);
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn regular_lines_are_read() {
        let line = br#"{"log":"a\"\\b\u003c\ud83d\ude00\n","stream":"stderr","time":"2026-01-01T00:00:00Z"}"#;
        let parsed = parse(line).unwrap();
        assert!(parsed.is_stderr);
        assert_eq!(parsed.time, "2026-01-01T00:00:00Z");
        assert!(matches!(parsed.text, Text::Escaped(_)));
        assert_eq!(
            text(std::str::from_utf8(line).unwrap()).unwrap(),
            "a\"\\b<😀\n"
        );
    }

    #[test]
    fn irregular_lines_are_read() {
        let line = r#"{"time":"t","stream":"stdout","log":"x\n","attrs":{"a":"b"}}"#;
        assert_eq!(text(line).unwrap(), "x\n");
        let line = r#"{"log":"y\n","stream":"stdout","attrs":{"a":"b"},"time":"t"}"#;
        assert_eq!(text(line).unwrap(), "y\n");
    }

    #[test]
    fn torn_lines_are_none() {
        for torn in [
            "",
            "{",
            "{\"log\":\"abc",
            "{\"log\":\"abc\\",
            "{\"log\":\"a\",\"stream\":\"std",
        ] {
            assert_eq!(parse(torn.as_bytes()), None, "{torn}");
        }
    }

    #[test]
    fn both_decoders_agree() {
        for inner in [
            "plain\\n",
            "\\u0000\\u001b[0m",
            "\\ud800x",
            "tab\\t\\r\\b\\f\\/",
            "ü\\u20ac",
        ] {
            let line = format!("{{\"log\":\"{inner}\",\"stream\":\"stdout\",\"time\":\"t\"}}");
            let expected = serde_json::from_str::<Irregular>(&line).map(|line| line.log);
            if let Ok(expected) = expected {
                assert_eq!(text(&line).unwrap(), expected, "{inner}");
            }
        }
    }
}
