//! The container's passwd file, read for `HOME` only.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;

use atoll_sys::inside;
use atoll_sys::rustix::fs::OFlags;

/// The most of the file that is read; images' files are a few KiB.
const MOST_BYTES: u64 = 1 << 20;

/// `HOME=<folder>` of user `uid` by the `etc/passwd` below `root`, if it says.
///
/// The file is the image's: it may be anything, so only a regular file is read, up to a limit.
pub(crate) fn home(root: BorrowedFd<'_>, uid: u32) -> Option<CString> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(inside::open(root, c"/etc/passwd", flags).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut text).ok()?;
    let folder = home_of(&text, uid)?;
    CString::new([b"HOME=", folder].concat()).ok()
}

/// The home folder field of the first line for `uid`.
fn home_of(text: &[u8], uid: u32) -> Option<&[u8]> {
    let wanted = uid.to_string();
    for line in text.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b':');
        if fields.nth(2) == Some(wanted.as_bytes()) {
            return fields.nth(2).filter(|folder| !folder.is_empty());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_is_the_sixth_field() {
        let text = b"root:x:0:0:root:/root:/bin/sh\n# c\nweb:x:33:33::/var/www:\nbad:x:44\n";
        assert_eq!(home_of(text, 0), Some(&b"/root"[..]));
        assert_eq!(home_of(text, 33), Some(&b"/var/www"[..]));
        assert_eq!(home_of(text, 44), None);
        assert_eq!(home_of(text, 1), None);
    }
}
