//! A process that does nothing but be there, for what wants a process before there is one.

use std::os::fd::{AsFd, OwnedFd};

use crate::process::{self, Cloned};
use crate::{Result, descriptors};

/// Such a process, ended and reaped when dropped; it ends with the calling thread, too.
#[derive(Debug)]
pub struct Placeholder {
    /// Its id.
    pub pid: u32,
    pidfd: OwnedFd,
}

impl Placeholder {
    /// Makes one, a child of the caller.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> Result<Self> {
        let maker = rustix::process::getpid();
        // SAFETY: the child makes system calls only, and ends without returning.
        match unsafe { process::clone_process(0, None) }? {
            Cloned::Child => {
                // SAFETY: nothing of ours is used or dropped in this process any more. Left open, nobody would see the
                // end of streams that are in the caller's hands.
                let _ = unsafe { descriptors::close_range(0, u32::MAX) };
                let _ = process::set_death_signal(libc::SIGKILL);
                // The caller may have ended before it was said.
                while rustix::process::getppid() == Some(maker) {
                    // SAFETY: pause takes nothing; it returns after a signal only.
                    unsafe { libc::pause() };
                }
                process::exit_now(0)
            }
            Cloned::Parent { pid, pidfd } => Ok(Self { pid, pidfd }),
        }
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        let _ = process::send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        let _ = process::wait(self.pidfd.as_fd());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_until_it_is_dropped() {
        let placeholder = Placeholder::new().unwrap();
        let folder = format!("/proc/{}", placeholder.pid);
        assert!(std::fs::metadata(&folder).is_ok());
        drop(placeholder);
        assert!(std::fs::metadata(&folder).is_err());
    }
}
