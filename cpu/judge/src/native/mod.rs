//! The real processor: cases run in a child process, entered and left by signal frames.
//!
//! ```text
//!   parent  run(cases) ── batch in shared memory, asked += 1 ─►  child  rt_sigreturn(frame of case i)
//!                                                                         │ the case's code, in user mode
//!           outcomes  ◄── done = asked ── all done ◄─ next case ◄─ signal ┘ frame holds the whole state after
//! ```
//!
//! A case costs two system calls' worth of time and no context switch between processes; a batch costs one.

mod child;
mod shared;

use std::io;
use std::mem::size_of;
use std::ptr;
use std::sync::atomic::Ordering;

use thiserror::Error;

use self::shared::{SLOTS, Shared};
use crate::case::{Case, Outcome};
use crate::layout;

/// Why the real processor could not be asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NativeError {
    /// The kernel refused.
    #[error("{0} failed")]
    Kernel(&'static str, #[source] io::Error),
    /// The kernel or the processor has no FSGSBASE, by which cases get their segment bases.
    #[error("user code cannot set FS and GS on this host")]
    SegmentBases,
    /// A case that [`Case::is_valid`] refuses.
    #[error("case {0} of the batch is malformed")]
    Malformed(usize),
    /// The child died or hangs.
    #[error("the child process {0} at case {1} of the batch")]
    Child(&'static str, u32),
}

/// A child process that executes cases on the real processor.
#[derive(Debug)]
pub struct Native {
    shared: *mut Shared,
    child: libc::pid_t,
}

// SAFETY: the mapping belongs to this value; it is used through `&mut self` only.
unsafe impl Send for Native {}

/// `HWCAP2_FSGSBASE` of the kernel's asm/hwcap2.h.
const FSGSBASE: u64 = 1 << 1;
/// How long the child may be silent before it counts as hung, in seconds.
const PATIENCE: u32 = 30;

impl Native {
    /// Starts the child. It dies with the thread that calls this.
    ///
    /// # Errors
    /// [`NativeError`] when there is no memory or process to be had, or the host is too old.
    pub fn new() -> Result<Self, NativeError> {
        // SAFETY: getauxval only reads.
        if unsafe { libc::getauxval(libc::AT_HWCAP2) } & FSGSBASE == 0 {
            return Err(NativeError::SegmentBases);
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh mapping where the kernel likes.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size_of::<Shared>(),
                protection,
                flags,
                -1,
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(NativeError::Kernel("mmap", io::Error::last_os_error()));
        }
        let mut native = Self {
            shared: memory.cast(),
            child: 0,
        };
        native.shared().background = *layout::background();
        // SAFETY: the child only runs `child`, which is made for a fork of a process with threads.
        match unsafe { libc::fork() } {
            -1 => Err(NativeError::Kernel("fork", io::Error::last_os_error())),
            // SAFETY: a fresh fork; the mapping is shared memory.
            0 => unsafe { child::child(native.shared) },
            pid => {
                native.child = pid;
                Ok(native)
            }
        }
    }

    /// Executes `cases`; gives their outcomes in order.
    ///
    /// # Errors
    /// [`NativeError::Malformed`]; [`NativeError::Child`] when a case killed the child: this value is then of no more use.
    pub fn run(&mut self, cases: &[Case]) -> Result<Vec<Outcome>, NativeError> {
        if let Some(bad) = cases.iter().position(|case| !case.is_valid()) {
            return Err(NativeError::Malformed(bad));
        }
        let mut outcomes = Vec::with_capacity(cases.len());
        for batch in cases.chunks(SLOTS) {
            let shared = self.shared();
            for (slot, case) in shared.slots.iter_mut().zip(batch) {
                slot.put(case);
            }
            shared.count.store(batch.len() as u32, Ordering::Relaxed);
            let asked = shared.asked.fetch_add(1, Ordering::Release) + 1;
            self.wait(asked)?;
            let slots = &self.shared().slots[..batch.len()];
            outcomes.extend(slots.iter().map(|slot| slot.outcome()));
        }
        Ok(outcomes)
    }

    /// Executes one case.
    ///
    /// # Errors
    /// As [`Native::run`].
    pub fn run_one(&mut self, case: &Case) -> Result<Outcome, NativeError> {
        let mut outcomes = self.run(std::slice::from_ref(case))?;
        outcomes.pop().ok_or(NativeError::Child("gave nothing", 0))
    }

    fn shared(&mut self) -> &mut Shared {
        // SAFETY: the mapping is ours and as large; the child writes to it only between a batch's being asked and done,
        // when nobody holds this reference (`run` waits in between).
        unsafe { &mut *self.shared }
    }

    /// Waits until batch `asked` is done.
    fn wait(&self, asked: u32) -> Result<(), NativeError> {
        let shared = self.shared;
        // SAFETY: the counters are atomics in the mapping of this value.
        let (word, wake, index) = unsafe { (&(*shared).done, &(*shared).asked, &(*shared).index) };
        // SAFETY: the word is mapped; waking writes nothing.
        unsafe {
            libc::syscall(libc::SYS_futex, wake.as_ptr(), libc::FUTEX_WAKE, 1);
        }
        for _ in 0..PATIENCE {
            let second = libc::timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            let done = word.load(Ordering::Acquire);
            if done == asked {
                return Ok(());
            }
            // SAFETY: the word is mapped, the time on our stack.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    word.as_ptr(),
                    libc::FUTEX_WAIT,
                    done,
                    &raw const second,
                );
            }
            // SAFETY: asks about our own child, takes no status.
            let gone = unsafe { libc::waitpid(self.child, ptr::null_mut(), libc::WNOHANG) };
            if gone != 0 && word.load(Ordering::Acquire) != asked {
                return Err(NativeError::Child("died", index.load(Ordering::Relaxed)));
            }
        }
        if word.load(Ordering::Acquire) == asked {
            return Ok(());
        }
        Err(NativeError::Child("hangs", index.load(Ordering::Relaxed)))
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: kills and reaps our own child, if there is one, then unmaps what is ours.
        unsafe {
            if self.child > 0 {
                libc::kill(self.child, libc::SIGKILL);
                libc::waitpid(self.child, ptr::null_mut(), 0);
            }
            libc::munmap(self.shared.cast(), size_of::<Shared>());
        }
    }
}
