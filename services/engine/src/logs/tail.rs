//! Finding where the last N lines of a log begin.

use std::{fs::File, io, os::unix::fs::FileExt as _};

const BLOCK: u64 = 64 << 10;

/// The offset at which the last `lines` lines of `file` begin, and how many lines there are from it.
///
/// * `len_bytes`: where the file ends for this purpose.
///
/// # Errors
/// As pread(2).
pub(super) fn start_of_last(file: &File, len_bytes: u64, lines: u64) -> io::Result<(u64, u64)> {
    let mut block = vec![0; usize::try_from(BLOCK).unwrap_or(1)];
    let mut end = len_bytes;
    let mut found = 0;
    // A last line that has no newline yet counts too.
    let mut is_last_byte = true;
    while end > 0 {
        let from = end.saturating_sub(BLOCK);
        let len = usize::try_from(end - from).unwrap_or(block.len());
        let part = &mut block[..len];
        file.read_exact_at(part, from)?;
        for (index, byte) in part.iter().enumerate().rev() {
            let ends_line = *byte == b'\n';
            if !is_last_byte && ends_line {
                found += 1;
                if found == lines {
                    return Ok((from + index as u64 + 1, found));
                }
            }
            is_last_byte = false;
        }
        end = from;
    }
    Ok((0, if len_bytes == 0 { 0 } else { found + 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(text: &str, lines: u64) -> (u64, u64) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, text).unwrap();
        start_of_last(&File::open(path).unwrap(), text.len() as u64, lines).unwrap()
    }

    #[test]
    fn last_lines_are_found() {
        assert_eq!(start("a\nb\nc\n", 1), (4, 1));
        assert_eq!(start("a\nb\nc\n", 2), (2, 2));
        assert_eq!(start("a\nb\nc\n", 3), (0, 3));
        assert_eq!(start("a\nb\nc\n", 9), (0, 3));
        assert_eq!(start("a\nb\nc", 1), (4, 1));
        assert_eq!(start("", 1), (0, 0));
        let long = "x".repeat(70_000) + "\n";
        assert_eq!(start(&format!("{long}{long}"), 1), (70_001, 1));
    }
}
