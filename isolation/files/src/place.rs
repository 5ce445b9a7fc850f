//! A path in the container, and what is there.

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};

use atoll_sys::{Errno, inside};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat};

use crate::PathStat;
use crate::error::{FilesError, kernel, printable};

/// Longest path, in bytes, as the kernel's.
const LONGEST: usize = 4095;
/// How many symlinks are followed when telling where one leads.
const MOST_LINKS: u32 = 255;

/// A path in the container, without `.`, `..` and doubled slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Names from the root; none is the root itself.
    pub(crate) names: Vec<Vec<u8>>,
    /// A symlink at its end is followed.
    pub(crate) follows: bool,
    /// What the last name is to clients.
    pub(crate) shown: Vec<u8>,
}

impl Place {
    /// Reads a path; `..` goes up by the text.
    pub(crate) fn parse(path: &str) -> Result<Self, FilesError> {
        let wrong = |reason| FilesError::Path {
            path: path.to_owned(),
            reason,
        };
        if path.contains('\0') {
            return Err(wrong("contains a zero byte"));
        }
        if path.len() > LONGEST {
            return Err(wrong("is too long"));
        }
        let mut names: Vec<Vec<u8>> = Vec::new();
        for name in path.split('/') {
            match name {
                "" | "." => {}
                ".." => drop(names.pop()),
                name => names.push(name.as_bytes().to_vec()),
            }
        }
        let is_current = path == "." || path.ends_with("/.");
        let shown = match names.last() {
            _ if is_current => b".".to_vec(),
            Some(name) => name.clone(),
            None => b"/".to_vec(),
        };
        Ok(Self {
            follows: is_current || path.ends_with('/') || names.is_empty(),
            names,
            shown,
        })
    }

    /// As text, absolute.
    pub(crate) fn text(&self) -> Vec<u8> {
        joined(&self.names)
    }

    /// Looks what is there.
    pub(crate) fn find(&self, root: BorrowedFd<'_>) -> Result<Found, FilesError> {
        let failed = |errno| match errno {
            Errno::NOENT => FilesError::NotFound(printable(&self.text())),
            errno => kernel("look at", &self.text(), errno),
        };
        let file = match self.names.split_last() {
            Some((last, parents)) if !self.follows => {
                let parent =
                    open(root, parents, OFlags::PATH | OFlags::DIRECTORY).map_err(failed)?;
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(&parent, &last[..], flags, Mode::empty())
            }
            _ => open(root, &self.names, OFlags::PATH | OFlags::DIRECTORY),
        };
        let file = file.map_err(failed)?;
        let stat = fstat(&file).map_err(failed)?;
        Ok(Found { file, stat })
    }
}

/// Opens names below the root; symlinks stay in it.
pub(crate) fn open(
    root: BorrowedFd<'_>,
    names: &[Vec<u8>],
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    inside::open(root, &c_path(names)?, flags)
}

/// The path of names below the root.
pub(crate) fn c_path(names: &[Vec<u8>]) -> Result<CString, Errno> {
    CString::new(joined(names)).map_err(|_| Errno::INVAL)
}

fn joined(names: &[Vec<u8>]) -> Vec<u8> {
    if names.is_empty() {
        return b"/".to_vec();
    }
    let mut path = Vec::new();
    for name in names {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path
}

/// What is at a place.
#[derive(Debug)]
pub(crate) struct Found {
    /// Opened with `O_PATH`, a symlink itself too.
    pub(crate) file: OwnedFd,
    /// Its status then.
    pub(crate) stat: Stat,
}

impl Found {
    /// Its type.
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// As clients are told.
    pub(crate) fn stat(&self, root: BorrowedFd<'_>, place: &Place) -> Result<PathStat, FilesError> {
        let link_target = match self.kind() {
            FileType::Symlink => printable(&joined(&target(root, &place.names)?)),
            _ => String::new(),
        };
        Ok(PathStat {
            name: printable(&place.shown),
            size: u64::try_from(self.stat.st_size).unwrap_or(0),
            mode: go_mode(self.stat.st_mode),
            mtime: (
                self.stat.st_mtime,
                u32::try_from(self.stat.st_mtime_nsec).unwrap_or(0),
            ),
            link_target,
        })
    }
}

/// Where a path leads when all symlinks are followed inside the root; what does not exist is taken as it is written.
///
/// Only told to clients, who ask anew with it: no decision rests on it.
fn target(root: BorrowedFd<'_>, names: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, FilesError> {
    let failed = |errno| kernel("follow", &joined(names), errno);
    let mut left: VecDeque<Vec<u8>> = names.iter().cloned().collect();
    let mut done: Vec<Vec<u8>> = Vec::new();
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        match &name[..] {
            b"" | b"." => continue,
            b".." => {
                done.pop();
                continue;
            }
            _ => done.push(name),
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let Ok(file) = open(root, &done, flags) else {
            continue;
        };
        let stat = fstat(&file).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(failed(Errno::LOOP));
        }
        let text = readlinkat(&file, "", Vec::new()).map_err(failed)?;
        done.pop();
        if text.as_bytes().starts_with(b"/") {
            done.clear();
        }
        for part in text.as_bytes().split(|byte| *byte == b'/').rev() {
            left.push_front(part.to_vec());
        }
        // Links to links that grow are cut off as the kernel would.
        if left.iter().map(Vec::len).sum::<usize>() > LONGEST {
            return Err(failed(Errno::NAMETOOLONG));
        }
    }
    Ok(done)
}

/// Type and permissions in the bits of Go's `fs.FileMode`.
fn go_mode(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let bits = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let set: u32 = bits
        .iter()
        .filter(|(bit, _)| mode & bit != 0)
        .map(|(_, go)| go)
        .sum();
    kind | set | mode & 0o777
}

/// Status of `name` in an open directory, a symlink's own.
pub(crate) fn stat_at(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Stat, Errno> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_are_cleaned_by_their_text() {
        let parse = |path: &str| {
            let place = Place::parse(path).unwrap();
            let shown = printable(&place.shown);
            (printable(&place.text()), place.follows, shown)
        };
        let is =
            |path: &str, follows: bool, shown: &str| (path.to_owned(), follows, shown.to_owned());
        assert_eq!(parse("/a//b"), is("/a/b", false, "b"));
        assert_eq!(parse("a/./b/"), is("/a/b", true, "b"));
        assert_eq!(parse("/a/b/."), is("/a/b", true, "."));
        assert_eq!(parse("../../x/../y"), is("/y", false, "y"));
        assert_eq!(parse("/"), is("/", true, "/"));
        assert_eq!(parse("."), is("/", true, "."));
        assert!(Place::parse("a\0b").is_err() && Place::parse(&"x".repeat(5000)).is_err());
    }

    #[test]
    fn links_are_told_and_stay_inside() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("root/d")).unwrap();
        fs::write(folder.path().join("secret"), "x").unwrap();
        let root = File::open(folder.path().join("root")).unwrap();
        let link = |target: &str, name: &str| {
            symlink(target, folder.path().join("root").join(name)).unwrap();
        };
        link("../../../secret", "out");
        link("/d/none", "absolute");
        link("b", "a");
        link("a", "b");
        let stat = |path: &str| {
            let place = Place::parse(path).unwrap();
            place
                .find(root.as_fd())
                .and_then(|found| found.stat(root.as_fd(), &place))
        };
        let out = stat("/out").unwrap();
        assert_eq!(
            (out.link_target.as_str(), out.mode & 1 << 27),
            ("/secret", 1 << 27)
        );
        assert_eq!(stat("absolute").unwrap().link_target, "/d/none");
        assert!(matches!(stat("/out/"), Err(FilesError::NotFound(_))));
        assert!(matches!(stat("/nope"), Err(FilesError::NotFound(_))));
        assert!(stat("/a").is_err() && stat("/a/x").is_err());
        assert_eq!(stat("/d/").unwrap().mode & (1 << 31), 1 << 31);
        assert_eq!(stat("/").unwrap().name, "/");
    }
}
