//! Files replaced whole, locks.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// Replaces the file at `path` by `bytes`: after a crash it holds the old or the new bytes, whole.
///
/// Writes a temporary file beside it, fsyncs, renames, and fsyncs the folder. The permission bits
/// are 0600 for a new name; use [`write_atomic_mode`] for others.
///
/// # Errors
/// The first failing step's; the temporary file is removed.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_atomic_mode(path, bytes, 0o600)
}

/// As [`write_atomic`] with the permission bits `mode`, whatever the umask.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_atomic_mode(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = write_temporary(path, bytes, mode, true)?;
    rename_or_remove(&temporary, path)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Replaces the file at `path` without waiting for the disk: readers see the old or the new bytes,
/// whole, but a power failure may lose both. For state that is void after a reboot.
///
/// # Errors
/// The first failing step's; the temporary file is removed.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = write_temporary(path, bytes, mode, false)?;
    rename_or_remove(&temporary, path)
}

/// Takes an exclusive lock on an open file, or says that someone else holds it.
///
/// The lock lives as long as the open file description.
///
/// # Errors
/// `EWOULDBLOCK` when it is held elsewhere.
pub fn try_lock(file: impl AsFd) -> io::Result<()> {
    rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
    Ok(())
}

fn write_temporary(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    sync: bool,
) -> io::Result<std::path::PathBuf> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    static COUNTER: AtomicU32 = AtomicU32::new(0);

    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary_name = OsString::from(".");
    temporary_name.push(name);
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
    temporary_name.push(format!(".{}-{unique}", std::process::id()));
    let temporary = path.with_file_name(temporary_name);
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)?;
    let written = (|| {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        if sync { file.sync_all() } else { Ok(()) }
    })();
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(temporary)
}

fn rename_or_remove(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to).inspect_err(|_| {
        let _ = fs::remove_file(from);
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn replaces_whole_and_leaves_no_temporary() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic_mode(&path, b"two", 0o644).unwrap();
        replace(&path, b"three", 0o640).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o640
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn failing_rename_leaves_no_temporary() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("child"), b"").unwrap();
        assert!(write_atomic(&path, b"x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn second_lock_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        try_lock(File::open(file.path()).as_ref().unwrap()).unwrap();
        let first = File::open(file.path()).unwrap();
        try_lock(&first).unwrap();
        assert!(try_lock(File::open(file.path()).as_ref().unwrap()).is_err());
    }
}
