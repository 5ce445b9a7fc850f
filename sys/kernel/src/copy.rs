//! Copying a file tree without allocating: for what a new process puts into a fresh file system.
//!
//! Child-safe throughout: names come from a buffer on the stack, contents go from kernel to kernel. Both trees are only
//! walked by descriptors and without following symlinks, so whoever changes the source meanwhile leads nowhere else.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RawDir, Stat, Timespec, Timestamps, Uid, chownat, fchmod,
    mkdirat, mknodat, openat, readlinkat_raw, sendfile, statat, symlinkat, utimensat,
};

use crate::{Errno, Result};

/// The deepest tree copied; each level takes about 3 KiB of stack.
const MOST_LEVELS: u32 = 64;
/// Room for directory entries of a level, in bytes.
const ENTRIES_BYTES: usize = 2048;

/// Copies what is in the folder `from` into the folder `to`: folders, files, symlinks, fifos and device nodes, with
/// owners, modes and times. Sockets are left out, and extended attributes. Child-safe.
///
/// * `from`, `to`: opened for reading, not `O_PATH`.
///
/// # Errors
/// The kernel's; `EEXIST` for names that are there already, `ELOOP` for a tree more than 64 levels deep.
pub fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    copy_folder(from, to, 0)
}

fn copy_folder(from: BorrowedFd<'_>, to: BorrowedFd<'_>, level: u32) -> Result<()> {
    if level >= MOST_LEVELS {
        return Err(Errno::LOOP);
    }
    let mut room = [MaybeUninit::uninit(); ENTRIES_BYTES];
    let mut entries = RawDir::new(from, &mut room);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if copy_entry(from, to, name, &stat, level)? {
            keep_attributes(to, name, &stat)?;
        }
    }
    Ok(())
}

/// Copies one entry; false when it is of a kind that isn't.
fn copy_entry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
    level: u32,
) -> Result<bool> {
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::Directory => {
            mkdirat(to, name, Mode::RWXU)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let (inner, copy) = (open(from, name, flags)?, open(to, name, flags)?);
            copy_folder(inner.as_fd(), copy.as_fd(), level + 1)?;
        }
        FileType::RegularFile => {
            let source = open(from, name, OFlags::RDONLY | OFlags::NONBLOCK)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let copy = openat(to, name, flags | OFlags::CLOEXEC, Mode::RUSR)?;
            // Not by the length of before: the file may have changed since.
            while sendfile(&copy, &source, None, 1 << 20)? > 0 {}
        }
        FileType::Symlink => {
            let mut target = [MaybeUninit::<u8>::uninit(); 4097];
            let (target, rest) = readlinkat_raw(from, name, &mut target)?;
            let Some(end) = rest.first_mut() else {
                return Err(Errno::NAMETOOLONG);
            };
            end.write(0);
            let length = target.len();
            // SAFETY: `target` is the buffer's initialised start and `end`, the byte right behind it, has just been written.
            let text = unsafe { std::slice::from_raw_parts(target.as_ptr(), length + 1) };
            let text = CStr::from_bytes_with_nul(text).map_err(|_| Errno::INVAL)?;
            symlinkat(text, to, name)?;
        }
        FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
            mknodat(to, name, kind, mode, stat.st_rdev)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn open(folder: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(folder, name, flags, Mode::empty())
}

fn keep_attributes(to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<()> {
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(to, name, Some(uid), Some(gid), nofollow)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if matches!(kind, FileType::Directory | FileType::RegularFile) {
        // After the owner, whose change takes set-user-ID bits away.
        let file = open(to, name, OFlags::RDONLY)?;
        fchmod(&file, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    }
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    utimensat(to, name, &times, nofollow)
}

fn time(secs: i64, nanosecs: u64) -> Timespec {
    Timespec {
        tv_sec: secs,
        tv_nsec: i64::try_from(nanosecs).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn everything_comes_along() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("a/b/file"), vec![7; 100_000]).unwrap();
        fs::write(from.join("empty"), "").unwrap();
        for number in 0..200 {
            fs::write(from.join("a").join(format!("many-{number}")), "x").unwrap();
        }
        fs::set_permissions(from.join("a/b/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::set_permissions(from.join("a"), fs::Permissions::from_mode(0o1777)).unwrap();
        symlink("/nowhere", from.join("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            from.join("fifo"),
            FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
        copy_tree(
            File::open(&from).unwrap().as_fd(),
            File::open(&to).unwrap().as_fd(),
        )
        .unwrap();
        let copy = fs::metadata(to.join("a/b/file")).unwrap();
        let source = fs::metadata(from.join("a/b/file")).unwrap();
        assert_eq!((copy.len(), copy.mode() & 0o7777), (100_000, 0o4751));
        assert_eq!(copy.mtime_nsec(), source.mtime_nsec());
        assert_eq!(fs::metadata(to.join("a")).unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(fs::read_dir(to.join("a")).unwrap().count(), 201);
        assert_eq!(
            fs::read_link(to.join("link")).unwrap().to_str(),
            Some("/nowhere")
        );
        assert!(fs::metadata(to.join("fifo")).unwrap().file_type().is_fifo());
    }

    #[test]
    fn trees_without_end_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let deep = "d/".repeat(70);
        fs::create_dir_all(folder.path().join("from").join(deep)).unwrap();
        fs::create_dir(folder.path().join("to")).unwrap();
        let open = |name: &str| File::open(folder.path().join(name)).unwrap();
        let outcome = copy_tree(open("from").as_fd(), open("to").as_fd());
        assert_eq!(outcome, Err(Errno::LOOP));
    }
}
