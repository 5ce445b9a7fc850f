//! Signals as something to poll.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Result, check};

/// Chosen signals, taken by reading instead of by handlers.
#[derive(Debug)]
pub struct SignalFd {
    fd: OwnedFd,
}

impl SignalFd {
    /// Blocks `signals` for the calling thread and the threads it makes from now on, and opens a
    /// non-blocking, close-on-exec descriptor that becomes readable when one is pending.
    ///
    /// Call before other threads exist. Children inherit the blocked set until they reset it
    /// ([`crate::process::reset_signals`]).
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(signals: &[i32]) -> Result<Self> {
        let mask = signals
            .iter()
            .fold(0_u64, |mask, signal| mask | 1 << (signal - 1));
        // SAFETY: `mask` is the kernel's set of 8 bytes on 64-bit machines; the old set is not
        // asked for.
        check(unsafe {
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_BLOCK,
                &raw const mask,
                std::ptr::null_mut::<u64>(),
                8,
            )
        })?;
        // SAFETY: -1 asks for a new descriptor; `mask` is valid for the 8 bytes announced.
        let fd = check(unsafe {
            libc::syscall(
                libc::SYS_signalfd4,
                -1,
                &raw const mask,
                8,
                libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
            )
        })?;
        let fd = i32::try_from(fd).map_err(|_| crate::Errno::BADF)?;
        // SAFETY: signalfd4(2) just returned it and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// Takes one pending signal; `None` when there is none.
    ///
    /// Signals of one number that came while it was pending are one.
    #[must_use]
    pub fn take(&self) -> Option<i32> {
        // struct signalfd_siginfo has 128 bytes and starts with the signal's number.
        let mut info = [0_u8; 128];
        let count = rustix::io::read(&self.fd, &mut info).ok()?;
        let number = info.first_chunk::<4>().filter(|_| count == info.len())?;
        i32::try_from(u32::from_ne_bytes(*number)).ok()
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read() {
        std::thread::spawn(|| {
            let signals = SignalFd::new(&[libc::SIGUSR1]).unwrap();
            assert_eq!(signals.take(), None);
            let own = rustix::thread::gettid();
            // SAFETY: tkill(2) takes two numbers; the signal is blocked in this thread.
            check(unsafe {
                libc::syscall(libc::SYS_tkill, own.as_raw_nonzero().get(), libc::SIGUSR1)
            })
            .unwrap();
            assert_eq!(signals.take(), Some(libc::SIGUSR1));
            assert_eq!(signals.take(), None);
        })
        .join()
        .unwrap();
    }
}
