//! Acting on files as another user for a moment, without giving up capabilities.
//!
//! Safety contract of the module: all calls take numbers only.

use crate::{Errno, Result, capability, process};

/// Runs `action` with the calling thread's user and group for files changed to `uid` and `gid`, and its capabilities as
/// they are. What is made belongs to them, on mounts with shifted ids too, where the caller's own ids may mean nothing.
///
/// # Errors
/// `EPERM` without `CAP_SETUID` and `CAP_SETGID`; those of `action`.
pub fn acting_as<T>(uid: u32, gid: u32, action: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = Before {
        uid: change(libc::SYS_setfsuid, u32::MAX),
        gid: change(libc::SYS_setfsgid, u32::MAX),
        sets: capability::current()?,
        is_dumpable: process::is_dumpable(),
    };
    change(libc::SYS_setfsgid, gid);
    change(libc::SYS_setfsuid, uid);
    // The calls never fail, they only say what was.
    let is = (
        change(libc::SYS_setfsuid, u32::MAX),
        change(libc::SYS_setfsgid, u32::MAX),
    );
    if is != (uid, gid) {
        return Err(Errno::PERM);
    }
    // Capabilities for files are lost when user 0 becomes another.
    capability::set(before.sets)?;
    action()
}

/// What the thread was, and becomes again.
struct Before {
    uid: u32,
    gid: u32,
    sets: capability::Sets,
    is_dumpable: bool,
}

impl Drop for Before {
    fn drop(&mut self) {
        change(libc::SYS_setfsuid, self.uid);
        change(libc::SYS_setfsgid, self.gid);
        // What was allowed once is allowed again.
        let _ = capability::set(self.sets);
        let _ = process::set_dumpable(self.is_dumpable);
    }
}

/// Changes an id for files; answers the one before. An id that there isn't changes nothing.
fn change(call: libc::c_long, id: u32) -> u32 {
    // SAFETY: setfsuid and setfsgid take a number and concern the calling thread only.
    let before = unsafe { libc::syscall(call, id) };
    // The kernel returns an id, which has 32 bits.
    u32::try_from(before & 0xffff_ffff).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn what_is_made_belongs_to_the_user_and_nothing_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mode = fs::Permissions::from_mode(0o700);
        fs::set_permissions(folder.path(), mode).unwrap();
        let path = folder.path().join("file");
        let owner = || {
            fs::write(&path, "").unwrap();
            let facts = fs::metadata(&path).unwrap();
            fs::remove_file(&path).unwrap();
            (facts.uid(), facts.gid())
        };
        let before = (
            owner(),
            capability::current().unwrap(),
            process::is_dumpable(),
        );
        // Made in a folder that only root may write to.
        assert_eq!(
            acting_as(70_000, 70_001, || Ok(owner())).unwrap(),
            (70_000, 70_001)
        );
        assert_eq!(
            (
                owner(),
                capability::current().unwrap(),
                process::is_dumpable()
            ),
            before
        );
        let failed = acting_as(1, 1, || Err::<(), _>(Errno::IO));
        assert_eq!((failed, owner()), (Err(Errno::IO), before.0));
    }
}
