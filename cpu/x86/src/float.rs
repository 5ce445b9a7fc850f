//! SSE floating point: single and double precision under MXCSR.
//!
//! Each function takes MXCSR, adds the flags the instruction raises, and gives
//! [`SimdException`] instead of a result when one of them is not masked.

pub mod arithmetic;
pub mod compare;
pub mod convert;
pub mod estimate;

mod control;
mod format;

pub use control::{
    DENORMAL, INVALID, MXCSR_MASK, OVERFLOW, PRECISION, SimdException, UNDERFLOW, ZERO_DIVIDE,
};
pub use format::Float;
