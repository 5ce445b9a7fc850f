//! The kernel's refusals as the errors of the contract.

use atoll_cpu_api::CpuError;
use kvm_ioctls::Error;

/// `what` (an ioctl's name) failed.
pub(crate) fn host(what: &'static str) -> impl FnOnce(Error) -> CpuError {
    move |source| CpuError::Host {
        what,
        source: source.into(),
    }
}

/// `what` failed with the thread's last errno.
pub(crate) fn last(what: &'static str) -> CpuError {
    CpuError::Host {
        what,
        source: std::io::Error::last_os_error(),
    }
}
