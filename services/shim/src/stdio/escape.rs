//! Output bytes inside a JSON string, as Docker's json-file driver writes them.

/// Appends `data` to `out`, escaped, up to the first line feed or `limit` bytes.
///
/// Returns how many bytes of `data` were taken and whether they ended with a line feed (written as
/// `\n`). A character that `data` cuts off at its end is not taken unless `is_last`, nor is one that
/// would pass the limit.
pub(crate) fn append(out: &mut Vec<u8>, data: &[u8], limit: usize, is_last: bool) -> (usize, bool) {
    let mut at = 0;
    while at < data.len() && at < limit {
        let window = &data[at..data.len().min(limit)];
        let plain = plain_prefix(window);
        if plain > 0 {
            out.extend_from_slice(&window[..plain]);
            at += plain;
            continue;
        }
        match data[at] {
            b'\n' => {
                out.extend_from_slice(b"\\n");
                return (at + 1, true);
            }
            byte if byte < 0x80 => {
                escape_ascii(out, byte);
                at += 1;
            }
            _ => match character(&data[at..]) {
                Character::Whole(len) if at + len > limit => return (at, false),
                Character::Whole(len) => {
                    match &data[at..at + len] {
                        [0xe2, 0x80, last @ (0xa8 | 0xa9)] => {
                            out.extend_from_slice(b"\\u202");
                            out.push(HEX[usize::from(last & 15)]);
                        }
                        bytes => out.extend_from_slice(bytes),
                    }
                    at += len;
                }
                Character::CutOff if !is_last => return (at, false),
                Character::CutOff | Character::Invalid => {
                    out.extend_from_slice(b"\\ufffd");
                    at += 1;
                }
            },
        }
    }
    (at, false)
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Control bytes and the five that Docker's encoder escapes.
fn escape_ascii(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\r' => out.extend_from_slice(b"\\r"),
        _ => out.extend_from_slice(&[
            b'\\',
            b'u',
            b'0',
            b'0',
            HEX[usize::from(byte >> 4)],
            HEX[usize::from(byte & 15)],
        ]),
    }
}

/// Length of the start of `data` that needs no escape and is ASCII.
fn plain_prefix(data: &[u8]) -> usize {
    const CHUNK: usize = 32;
    let mut at = 0;
    // Whole chunks without a branch a byte, which the compiler turns into vector instructions.
    while let Some(chunk) = data.get(at..at + CHUNK) {
        let special = chunk
            .iter()
            .fold(0u8, |special, byte| special | u8::from(is_special(*byte)));
        if special != 0 {
            break;
        }
        at += CHUNK;
    }
    at + data[at..]
        .iter()
        .position(|byte| is_special(*byte))
        .unwrap_or(data.len() - at)
}

/// Whether a byte can't be copied as it is.
const fn is_special(byte: u8) -> bool {
    (byte < 0x20)
        | (byte >= 0x80)
        | (byte == b'"')
        | (byte == b'\\')
        | (byte == b'<')
        | (byte == b'>')
        | (byte == b'&')
}

enum Character {
    Whole(usize),
    CutOff,
    Invalid,
}

/// The character of more than one byte that `data` starts with.
fn character(data: &[u8]) -> Character {
    let len = match data[0] {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return Character::Invalid,
    };
    // Binary output fails here mostly; saying so early keeps it fast.
    if data.get(1).is_some_and(|second| second & 0xc0 != 0x80) {
        return Character::Invalid;
    }
    let have = &data[..data.len().min(len)];
    match std::str::from_utf8(have) {
        Ok(_) => Character::Whole(len),
        Err(error) if error.error_len().is_none() && have.len() < len => Character::CutOff,
        Err(_) => Character::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(data: &[u8]) -> String {
        let mut out = Vec::new();
        let (taken, _) = append(&mut out, data, usize::MAX, true);
        assert_eq!(taken, data.len());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn as_docker_escapes() {
        assert_eq!(escaped(b"plain text"), "plain text");
        assert_eq!(
            escaped(b"\"\\<>&\r\t\x1b\x7f"),
            "\\\"\\\\\\u003c\\u003e\\u0026\\r\\u0009\\u001b\x7f"
        );
        assert_eq!(escaped("é€😀".as_bytes()), "é€😀");
        assert_eq!(escaped("\u{2028}\u{2029}".as_bytes()), "\\u2028\\u2029");
        assert_eq!(escaped(b"a\xffb\xe2\x82"), "a\\ufffdb\\ufffd\\ufffd");
        assert_eq!(escaped(b"\xed\xa0\x80"), "\\ufffd\\ufffd\\ufffd");
        let long = "x".repeat(70) + "\"" + &"y".repeat(70);
        assert_eq!(
            escaped(long.as_bytes()),
            "x".repeat(70) + "\\\"" + &"y".repeat(70)
        );
    }

    #[test]
    fn stops_at_a_line_feed_at_the_limit_and_before_half_a_character() {
        let mut out = Vec::new();
        assert_eq!(append(&mut out, b"ab\ncd", 100, true), (3, true));
        assert_eq!(out, b"ab\\n");
        out.clear();
        assert_eq!(append(&mut out, b"abcdef", 4, true), (4, false));
        assert_eq!(out, b"abcd");
        out.clear();
        assert_eq!(append(&mut out, "ab€".as_bytes(), 4, true), (2, false));
        out.clear();
        assert_eq!(append(&mut out, b"ab\xe2\x82", 100, false), (2, false));
        assert_eq!(out, b"ab");
    }
}
