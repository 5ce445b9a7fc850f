//! Paths inside a root file system that somebody else may be changing.
//!
//! Every look-up goes through openat2(2) with `RESOLVE_IN_ROOT`: symlinks, absolute or with `..`,
//! stay inside the root; magic links (`/proc/*/fd`, `/proc/*/root`) are refused. What is missing is
//! made one component at a time, each opened right after it was made, so a component swapped for a
//! symlink in between is followed inside the root or refused, never outside.
//!
//! Everything here is child-safe: paths live in buffers on the stack.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use crate::{Errno, Result};

/// What a missing path becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A folder with mode 0755.
    Folder,
    /// An empty file with mode 0644, in folders with mode 0755.
    File,
}

/// The longest path handled, as the kernel's.
const LONGEST: usize = 4096;
/// How many symlinks to nowhere are followed while making a path.
const MOST_LINKS: u32 = 40;

/// Opens `path` inside `root`; absolute and relative mean the same. Child-safe.
///
/// # Errors
/// The kernel's; `ELOOP` for magic links.
pub fn open(root: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    open_resolving(root, path, flags, resolve)
}

/// Opens `path` below `dir` without leaving it, without symlinks and without crossing mounts.
/// Child-safe.
///
/// For procfs and other trees where anything unexpected is an attack.
///
/// # Errors
/// `ELOOP` for symlinks, `EXDEV` for mounts and `..` above `dir`, else the kernel's.
pub fn open_exactly(dir: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    open_resolving(dir, path, flags, resolve)
}

fn open_resolving(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve) {
            // A rename somewhere on the system raced with `..`: openat2(2) asks to try again.
            Err(Errno::AGAIN) if tries < 128 => tries += 1,
            outcome => return outcome,
        }
    }
}

/// Opens what an `O_PATH` descriptor refers to. Child-safe; needs `/proc`.
///
/// # Errors
/// The kernel's.
pub fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd> {
    let mut text = [0_u8; 32];
    let path = proc_fd_path(fd, &mut text)?;
    rustix::fs::openat(
        rustix::fs::CWD,
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// `/proc/self/fd/N`, written into `text`. Child-safe.
///
/// # Errors
/// `ENAMETOOLONG` never in practice: the buffer holds any number.
pub fn proc_fd_path<'a>(fd: BorrowedFd<'_>, text: &'a mut [u8; 32]) -> Result<&'a CStr> {
    numbered_path(text, b"/proc/self/fd/", fd.as_raw_fd().unsigned_abs(), b"")
}

/// The most digits of a 32-bit number.
pub(crate) const DIGITS: usize = 10;

/// `number` in decimal, at the end of `room`. Child-safe and async-signal-safe.
pub(crate) fn decimal(number: u32, room: &mut [u8; DIGITS]) -> &[u8] {
    let mut first = room.len();
    let mut rest = number;
    loop {
        first -= 1;
        // A remainder by ten fits a byte.
        room[first] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    &room[first..]
}

/// `before`, the number, `after`, written into `text`. Child-safe.
///
/// # Errors
/// `ENAMETOOLONG` when `text` is too short.
pub fn numbered_path<'a>(
    text: &'a mut [u8],
    before: &[u8],
    number: u32,
    after: &[u8],
) -> Result<&'a CStr> {
    let mut digits = [0; DIGITS];
    let digits = decimal(number, &mut digits);
    let mut end = 0;
    for part in [before, digits, after, b"\0"] {
        let place = text
            .get_mut(end..end + part.len())
            .ok_or(Errno::NAMETOOLONG)?;
        place.copy_from_slice(part);
        end += part.len();
    }
    CStr::from_bytes_with_nul(&text[..end]).map_err(|_| Errno::INVAL)
}

/// Opens `path` inside `root` as an `O_PATH` descriptor, making it and its folders when missing.
/// Child-safe.
///
/// A dangling symlink's target is made, inside the root, as image builders expect.
///
/// # Errors
/// The kernel's; `ELOOP` after 40 dangling links, `ENAMETOOLONG` beyond 4095 bytes.
pub fn open_or_make(root: BorrowedFd<'_>, path: &CStr, missing: Missing) -> Result<OwnedFd> {
    match open(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        outcome => return outcome,
    }
    let mut wanted = PathBuffer::new();
    wanted.push(path.to_bytes())?;
    let mut links = 0;
    // `done` is how much of `wanted` is known to exist as folders.
    let mut done = 0;
    loop {
        let Some(component) = wanted.component_from(done) else {
            return open(root, &wanted.as_c_str(wanted.len)?, OFlags::PATH);
        };
        let (start, end) = component;
        let is_last = wanted.component_from(end).is_none();
        let prefix = wanted.as_c_str(end)?;
        match open(root, &prefix, OFlags::PATH) {
            Ok(found) if is_last => return Ok(found),
            Ok(_) => {
                done = end;
                continue;
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        let folder = open(
            root,
            &wanted.as_c_str(start)?,
            OFlags::PATH | OFlags::DIRECTORY,
        )?;
        let name = wanted.text(start, end)?;
        let kind = if is_last { missing } else { Missing::Folder };
        match make(&folder, &name, kind) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        match open(root, &wanted.as_c_str(end)?, OFlags::PATH) {
            Ok(found) if is_last => return Ok(found),
            Ok(_) => done = end,
            Err(Errno::NOENT) => {
                // It exists and leads nowhere: a symlink. Go on with its target.
                links += 1;
                if links > MOST_LINKS {
                    return Err(Errno::LOOP);
                }
                done = wanted.follow(&folder, start, end)?;
            }
            Err(error) => return Err(error),
        }
    }
}

fn make(folder: &OwnedFd, name: &CStr, missing: Missing) -> Result<()> {
    let permissions = Mode::from_raw_mode(0o755);
    match missing {
        Missing::Folder => rustix::fs::mkdirat(folder, name, permissions),
        Missing::File => {
            let permissions = Mode::from_raw_mode(0o644);
            rustix::fs::mknodat(folder, name, FileType::RegularFile, permissions, 0)
        }
    }
}

/// A path on the stack.
struct PathBuffer {
    bytes: [u8; LONGEST],
    len: usize,
}

/// A NUL-terminated piece of a [`PathBuffer`].
struct Piece {
    bytes: [u8; LONGEST],
    len: usize,
}

impl std::ops::Deref for Piece {
    type Target = CStr;
    fn deref(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes[..=self.len]).unwrap_or(c"")
    }
}

impl PathBuffer {
    fn new() -> Self {
        Self {
            bytes: [0; LONGEST],
            len: 0,
        }
    }

    fn push(&mut self, part: &[u8]) -> Result<()> {
        let end = self.len + part.len();
        if end >= LONGEST {
            return Err(Errno::NAMETOOLONG);
        }
        self.bytes[self.len..end].copy_from_slice(part);
        self.len = end;
        Ok(())
    }

    /// The next component at or after `from`, as start and end.
    fn component_from(&self, from: usize) -> Option<(usize, usize)> {
        let rest = &self.bytes[from..self.len];
        let start = from + rest.iter().position(|&byte| byte != b'/')?;
        let rest = &self.bytes[start..self.len];
        let end = rest
            .iter()
            .position(|&byte| byte == b'/')
            .map_or(self.len, |at| start + at);
        Some((start, end))
    }

    fn text(&self, start: usize, end: usize) -> Result<Piece> {
        let part = &self.bytes[start..end];
        let mut piece = Piece {
            bytes: [0; LONGEST],
            len: part.len(),
        };
        piece.bytes[..part.len()].copy_from_slice(part);
        Ok(piece)
    }

    /// The path up to `end`; the root itself when that is empty.
    fn as_c_str(&self, end: usize) -> Result<Piece> {
        if end == 0 {
            return Ok(Piece {
                bytes: {
                    let mut bytes = [0; LONGEST];
                    bytes[0] = b'.';
                    bytes
                },
                len: 1,
            });
        }
        self.text(0, end)
    }

    /// Replaces the component `start..end`, a symlink in `folder`, by its target; returns where to
    /// go on making.
    fn follow(&mut self, folder: &OwnedFd, start: usize, end: usize) -> Result<usize> {
        let name = self.text(start, end)?;
        let mut target = [std::mem::MaybeUninit::<u8>::uninit(); LONGEST];
        let (target, _) = rustix::fs::readlinkat_raw(folder, &*name, &mut target)?;
        let rest = self.text(end, self.len)?;
        let is_absolute = target.first() == Some(&b'/');
        self.len = if is_absolute { 0 } else { start };
        self.push(target)?;
        self.push(&rest.bytes[..rest.len])?;
        Ok(if is_absolute { 0 } else { start })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn root() -> (tempfile::TempDir, File) {
        let outer = tempfile::tempdir().unwrap();
        fs::create_dir(outer.path().join("root")).unwrap();
        let root = File::open(outer.path().join("root")).unwrap();
        (outer, root)
    }

    fn listing(path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).unwrap();
        let mut names: Vec<_> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn makes_folders_and_files() {
        let (outer, root) = root();
        open_or_make(root.as_fd(), c"/a/b/c", Missing::Folder).unwrap();
        open_or_make(root.as_fd(), c"a/b/file", Missing::File).unwrap();
        open_or_make(root.as_fd(), c"/", Missing::Folder).unwrap();
        assert!(outer.path().join("root/a/b/c").is_dir());
        assert!(outer.path().join("root/a/b/file").is_file());
    }

    #[test]
    fn symlinks_and_dots_stay_inside() {
        let (outer, root) = root();
        let path = outer.path().join("root");
        symlink("/../../..", path.join("up")).unwrap();
        symlink("../../escape", path.join("out")).unwrap();
        symlink("/etc", path.join("absolute")).unwrap();
        open_or_make(root.as_fd(), c"/up/one", Missing::Folder).unwrap();
        open_or_make(root.as_fd(), c"/out/two", Missing::Folder).unwrap();
        open_or_make(root.as_fd(), c"/absolute/three", Missing::File).unwrap();
        open_or_make(root.as_fd(), c"/../../four", Missing::File).unwrap();
        assert_eq!(listing(outer.path()), ["root"]);
        assert!(path.join("one").is_dir());
        assert!(path.join("escape/two").is_dir());
        assert!(path.join("etc/three").is_file());
        assert!(path.join("four").is_file());
    }

    #[test]
    fn dangling_file_link_is_made_at_its_target() {
        let (outer, root) = root();
        let path = outer.path().join("root");
        fs::create_dir(path.join("etc")).unwrap();
        symlink("../run/resolve/stub.conf", path.join("etc/resolv.conf")).unwrap();
        open_or_make(root.as_fd(), c"/etc/resolv.conf", Missing::File).unwrap();
        assert!(path.join("run/resolve/stub.conf").is_file());
    }

    #[test]
    fn loops_end() {
        let (outer, root) = root();
        symlink("b", outer.path().join("root/a")).unwrap();
        symlink("a", outer.path().join("root/b")).unwrap();
        let error = open_or_make(root.as_fd(), c"/a/x", Missing::Folder).unwrap_err();
        assert_eq!(error, Errno::LOOP);
    }

    #[test]
    fn exact_opening_refuses_links() {
        let (outer, root) = root();
        symlink("/etc/passwd", outer.path().join("root/link")).unwrap();
        let error = open_exactly(root.as_fd(), c"link", OFlags::RDONLY).unwrap_err();
        assert_eq!(error, Errno::LOOP);
    }

    #[test]
    fn proc_path_is_spelled_right() {
        let (_outer, root) = root();
        let mut text = [0; 32];
        let path = proc_fd_path(root.as_fd(), &mut text).unwrap();
        let expected = format!("/proc/self/fd/{}", root.as_raw_fd());
        assert_eq!(path.to_str().unwrap(), expected);
        let mut text = [0; 8];
        let path = numbered_path(&mut text, b"/a/", u32::MAX, b"/b");
        assert_eq!(path, Err(Errno::NAMETOOLONG));
        assert_eq!(
            numbered_path(&mut text, b"/a/", 0, b"/b").unwrap(),
            c"/a/0/b"
        );
    }
}
