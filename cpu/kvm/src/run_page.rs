//! The page a vCPU shares with the kernel, as threads other than the vCPU's own use it.

use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};

use atoll_cpu_api::CpuError;
use kvm_bindings::{kvm_run, kvm_run__bindgen_ty_1__bindgen_ty_4 as Io};
use kvm_ioctls::VcpuFd;

use crate::error::last;

const PAGE: usize = 4096;

/// A second mapping of the first page of `struct kvm_run`.
///
/// `kvm-ioctls` keeps the first and hands out `&mut` to it, which a pausing thread cannot share. This one is reached by
/// atomics only and outlives the vCPU, so a handle that is kept too long writes to memory that nobody reads.
#[derive(Debug)]
pub(crate) struct RunPage(*mut u8);

// SAFETY: every access through the pointer is an atomic one.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

impl RunPage {
    pub(crate) fn new(vcpu: &VcpuFd) -> Result<Self, CpuError> {
        // SAFETY: a fresh mapping at an address the kernel chooses touches nothing of ours.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(last("mmap of a vCPU"));
        }
        Ok(Self(address.cast()))
    }

    fn byte(&self, offset: usize) -> &AtomicU8 {
        assert!(offset < PAGE, "offsets are constants of the structure");
        // SAFETY: the offset lies in the page (line above), which stays mapped as long as `self`; a byte is always
        // aligned, and through this mapping it is reached by atomics only.
        unsafe { AtomicU8::from_ptr(self.0.add(offset)) }
    }

    /// Makes KVM_RUN return EINTR at once, now or the next time, until [`RunPage::take_back`].
    pub(crate) fn demand_exit(&self) {
        self.byte(offset_of!(kvm_run, immediate_exit))
            .store(1, Ordering::SeqCst);
    }

    /// Lets KVM_RUN execute again.
    pub(crate) fn take_back(&self) {
        self.byte(offset_of!(kvm_run, immediate_exit))
            .store(0, Ordering::SeqCst);
    }

    /// After a KVM_EXIT_IO: bytes of each of its accesses.
    pub(crate) fn io_bytes(&self) -> usize {
        let offset = offset_of!(kvm_run, __bindgen_anon_1) + offset_of!(Io, size);
        usize::from(self.byte(offset).load(Ordering::Relaxed)).max(1)
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: address and length are those of the mapping made in `new`; `byte` lends references no longer than
        // `self`. Failure would only leave it mapped.
        unsafe {
            libc::munmap(self.0.cast(), PAGE);
        }
    }
}
