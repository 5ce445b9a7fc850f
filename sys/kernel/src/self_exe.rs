//! Keeping our own program file out of a container's reach (CVE-2019-5736).
//!
//! A process that enters a container shows its program as `/proc/<pid>/exe`; a container can also
//! make us execute ourselves (`/proc/self/exe` as its program). Whoever opens that link gets the
//! host's file, writable by root as soon as nobody executes it. So before we enter a container we
//! execute ourselves once more from a *detached, read-only* bind mount of our program: the link then
//! leads to that mount, which refuses writing for ever (`EROFS`), is in no mount namespace (so
//! nobody can remount, bind or clone it) and shares the page cache with the original. It costs
//! about 25 µs and one execve(2); copying the program into a sealed memfd, which is the fallback
//! without `CAP_SYS_ADMIN`, costs about ten times that and memory for each container.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};

use crate::mount::{self, Attributes, Change};
use crate::{Errno, Result, check};

const SELF_EXE: &CStr = c"/proc/self/exe";

/// Executes this program again from a place that can't be written, unless it already is; returns
/// only when it is.
///
/// Call first thing in `main`, before threads, with the arguments to pass on.
///
/// # Errors
/// The kernel's, when neither a detached mount nor a memfd could be made and executed.
pub fn protect() -> io::Result<()> {
    if is_protected() {
        return Ok(());
    }
    let program = match detached_read_only() {
        Ok(mount) => mount,
        Err(_) => sealed_copy()?,
    };
    Err(execute(program.as_fd()).into())
}

/// Whether the running program can't be written through `/proc/<pid>/exe`.
///
/// True for a detached read-only mount (the link reads `/`: the program is its mount's root) and
/// for a sealed memfd.
#[must_use]
pub fn is_protected() -> bool {
    let Ok(exe) = rustix::fs::openat(
        rustix::fs::CWD,
        SELF_EXE,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    ) else {
        return false;
    };
    let is_mount_root = rustix::fs::readlinkat(rustix::fs::CWD, SELF_EXE, Vec::new())
        .is_ok_and(|link| link.as_c_str() == c"/");
    let is_read_only = rustix::fs::fstatvfs(&exe)
        .is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY));
    if is_mount_root && is_read_only {
        return true;
    }
    rustix::fs::fcntl_get_seals(&exe).is_ok_and(|seals| seals.contains(SealFlags::WRITE))
}

/// A detached read-only mount of the program `path`, to execute containers' shims from without
/// their having to protect themselves again. Execute it with `execveat(fd, "", AT_EMPTY_PATH)` or
/// as `/proc/self/fd/N`.
///
/// # Errors
/// The kernel's.
pub fn detached_read_only_of(path: &CStr) -> Result<OwnedFd> {
    let mount = mount::clone_tree(rustix::fs::CWD, path, false, false)?;
    let read_only = Change::attributes(Attributes::RDONLY, Attributes::empty());
    mount::set_attributes(mount.as_fd(), c"", false, &read_only)?;
    Ok(mount)
}

fn detached_read_only() -> Result<OwnedFd> {
    detached_read_only_of(SELF_EXE)
}

fn sealed_copy() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = match rustix::fs::memfd_create(
        c"atoll",
        flags | MemfdFlags::from_bits_retain(libc::MFD_EXEC),
    ) {
        // MFD_EXEC is Linux 6.3.
        Err(Errno::INVAL) => rustix::fs::memfd_create(c"atoll", flags)?,
        outcome => outcome?,
    };
    let mut copy = File::from(copy);
    io::copy(
        &mut File::open(OsStr::from_bytes(SELF_EXE.to_bytes()))?,
        &mut copy,
    )?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    Ok(copy.into())
}

/// Executes `program` with this process' arguments and environment.
fn execute(program: BorrowedFd<'_>) -> Errno {
    let arguments = strings(std::env::args_os().map(OsStringExt::into_vec));
    let environment = strings(std::env::vars_os().map(|(name, value)| {
        let mut text = name.into_vec();
        text.push(b'=');
        text.extend(value.into_vec());
        text
    }));
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        let all = texts.iter().map(|text| text.as_ptr());
        all.chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(&arguments), pointers(&environment));
    // SAFETY: both arrays end with a null pointer and point to NUL-terminated strings in
    // `arguments` and `environment`, which live until the call returns.
    let outcome = check(unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    });
    outcome.err().unwrap_or(Errno::IO)
}

/// Strings of the kernel never hold a NUL, so none is lost.
fn strings(texts: impl Iterator<Item = Vec<u8>>) -> Vec<CString> {
    texts.filter_map(|text| CString::new(text).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detached_program_can_not_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::write(&path, "x").unwrap();
        let path = CString::new(path.into_os_string().into_vec()).unwrap();
        let program = detached_read_only_of(&path).unwrap();
        let place = format!("/proc/self/fd/{}", program.as_raw_fd());
        let error = File::options().write(true).open(place).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    }

    #[test]
    fn sealed_copy_can_not_be_written() {
        use std::io::Write;
        let mut copy = File::from(sealed_copy().unwrap());
        assert!(copy.write_all(b"x").is_err());
    }

    #[test]
    fn the_test_program_is_not_protected() {
        assert!(!is_protected());
    }
}
