//! SSE floating point: single and double precision under MXCSR.
//!
//! Each function takes MXCSR, adds the flags the instruction raises, and gives
//! [`SimdException`] instead of a result when one of them is not masked.

pub mod arithmetic;
pub mod compare;
pub mod convert;
pub mod estimate;

mod control;
pub(crate) mod format;

pub(crate) use control::Control;
pub use control::{
    DENORMAL, INVALID, MXCSR_MASK, OVERFLOW, PRECISION, SimdException, UNDERFLOW, ZERO_DIVIDE,
};
pub use format::Float;

/// The encoding of an invalid operation's result in single precision.
pub(crate) const INDEFINITE_SINGLE: u64 = <f32 as Float>::INDEFINITE;
/// The same in double precision.
pub(crate) const INDEFINITE_DOUBLE: u64 = <f64 as Float>::INDEFINITE;
