//! Starting a helper process that inherits one chosen descriptor, in a session of its own.

use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Makes the child of `command` a session leader that has `fd` as descriptor number `number`.
///
/// The command keeps `fd` open until it is dropped. All other descriptors of ours that are close-on-exec stay out of the child.
///
/// * `number`: at least 3; whatever the child has there is replaced.
pub fn detach_with_fd(command: &mut Command, fd: OwnedFd, number: RawFd) {
    let hook = move || {
        // SAFETY: setsid has no preconditions and is async-signal-safe.
        unsafe { libc::setsid() };
        let result = if fd.as_raw_fd() == number {
            // SAFETY: `fd` is owned by this closure, hence open; fcntl is async-signal-safe.
            unsafe { libc::fcntl(number, libc::F_SETFD, 0) }
        } else {
            // SAFETY: `fd` is owned by this closure, hence open; dup2 is async-signal-safe.
            unsafe { libc::dup2(fd.as_raw_fd(), number) }
        };
        if result < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: the hook runs between fork and exec and calls only setsid, fcntl and dup2, which are
    // async-signal-safe; reading errno into an `io::Error` allocates nothing.
    unsafe { command.pre_exec(hook) };
}
