//! What an uncompressed kernel says it is.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// How it begins (Linux: init/version-timestamp.c, `linux_banner`).
const BEGIN: &[u8] = b"Linux version ";
/// Bytes searched at once.
const STRETCH: usize = 1 << 20;
/// Bytes of the longest release (`__NEW_UTS_LEN`).
const LONGEST: usize = 64;

/// The release in the banner of the kernel in `file`, as `uname -r` would tell it; `None` when there is no banner.
pub(crate) fn release(file: &File) -> Option<String> {
    let mut bytes = vec![0; STRETCH];
    let mut at = 0;
    loop {
        let mut len = 0;
        while len < STRETCH {
            match file.read_at(&mut bytes[len..], at + len as u64).ok()? {
                0 => break,
                count => len += count,
            }
        }
        let stretch = &bytes[..len];
        let mut found = (0..len).filter(|&start| stretch[start..].starts_with(BEGIN));
        if let Some(release) = found.find_map(|start| word(&stretch[start + BEGIN.len()..])) {
            return Some(release);
        }
        if len < STRETCH {
            return None;
        }
        // One that begins at the end is seen whole in the next.
        at += (STRETCH - BEGIN.len() - LONGEST - 1) as u64;
    }
}

/// A release at the beginning of `bytes`. The kernel has the words of its banner as a format, too: `%s` is none.
fn word(bytes: &[u8]) -> Option<String> {
    let end = bytes
        .iter()
        .take(LONGEST + 1)
        .position(|&byte| byte == b' ')?;
    let text = std::str::from_utf8(&bytes[..end]).ok()?;
    let is_release = text.starts_with(|c: char| c.is_ascii_digit())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._+-~".contains(c));
    is_release.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Option<String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        release(file.as_file())
    }

    #[test]
    fn the_banner_is_found_wherever_it_lies() {
        let banner = b"Linux version 6.1.0-56-cloud-amd64 (debian) #1";
        for before in [0, 1, STRETCH - 30, STRETCH - 1, STRETCH, 2 * STRETCH - 200] {
            let mut bytes = vec![b'L'; before];
            bytes.extend(banner);
            assert_eq!(
                of(&bytes).as_deref(),
                Some("6.1.0-56-cloud-amd64"),
                "{before}"
            );
        }
        for wrong in [
            &b""[..],
            b"Linux version ",
            b"Linux version %s (%s)",
            b"Linux version ../../x (y)",
            b"Linux version 6.1",
        ] {
            assert_eq!(of(wrong), None);
        }
        let both = b"Linux version %s (%s)\0Linux version 6.1-x (y)";
        assert_eq!(of(both).as_deref(), Some("6.1-x"));
    }
}
