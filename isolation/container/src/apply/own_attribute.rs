//! What a process tells security modules about itself, by files below `/proc/<pid>/attr`. Child-safe throughout.
//!
//! All of them are void after execve(2): the program finds nothing set.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use atoll_sys::rustix::fs::{self, CWD, Mode, OFlags};
use atoll_sys::{Errno, Result, inside};

use super::child::Scene;
use super::mounting::verified_proc;

/// Has the next execve(2) enter an AppArmor profile.
pub(super) fn apparmor(scene: &mut Scene<'_>, value: &CStr) -> Result<()> {
    let proc = verified_proc(scene)?;
    // The first is Linux 5.8 and later.
    let file = match open(proc, own_pid(), b"/attr/apparmor/exec") {
        Err(Errno::NOENT) => open(proc, own_pid(), b"/attr/exec")?,
        outcome => outcome?,
    };
    write(&file, value.to_bytes())
}

/// Has the next execve(2) enter an SELinux label.
pub(super) fn selinux(scene: &mut Scene<'_>, label: &CStr) -> Result<()> {
    let file = open(verified_proc(scene)?, own_pid(), b"/attr/exec")?;
    write(&file, label.to_bytes_with_nul())
}

/// Labels the keys and keyrings that are made from now on.
///
/// Called while the file tree is still the host's: its procfs is checked to be one, and numbers us as it sees us.
pub(super) fn label_keys(label: &[u8]) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let proc = fs::openat(CWD, c"/proc", flags, Mode::empty())?;
    if fs::fstatfs(&proc)?.f_type != fs::PROC_SUPER_MAGIC {
        return Err(Errno::NODEV);
    }
    let mut room = [MaybeUninit::uninit(); 16];
    let (digits, _) = fs::readlinkat_raw(&proc, c"self", &mut room)?;
    let pid = std::str::from_utf8(digits).ok();
    let pid = pid.and_then(|digits| digits.parse().ok());
    let file = open(proc.as_fd(), pid.ok_or(Errno::INVAL)?, b"/attr/keycreate")?;
    write(&file, label)
}

/// This process in its own PID namespace, which a procfs of ours numbers it by.
fn own_pid() -> u32 {
    let pid = atoll_sys::rustix::process::getpid();
    pid.as_raw_nonzero().get().unsigned_abs()
}

fn open(proc: BorrowedFd<'_>, pid: u32, rest: &[u8]) -> Result<OwnedFd> {
    let mut text = [0_u8; 64];
    let path = inside::numbered_path(&mut text, b"", pid, rest)?;
    inside::open_exactly(proc, path, OFlags::WRONLY)
}

fn write(file: &OwnedFd, value: &[u8]) -> Result<()> {
    atoll_sys::rustix::io::write(file, value).map(|_| ())
}
