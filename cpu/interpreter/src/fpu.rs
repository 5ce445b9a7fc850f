//! Floating point and vector state.

/// The registers, in the form in which they are saved.
pub(crate) type FpuState = atoll_cpu_api::Fpu;
