//! Compares every function with the processor that runs the test.
//!
//! Inputs are pseudo-random with many corner cases, from a fixed seed, so that a failure repeats.

#![expect(
    unsafe_code,
    reason = "the judge is the real processor, which only assembly can ask"
)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "tests take values apart into bits"
)]
#![cfg(target_arch = "x86_64")]

mod float;
mod integer;
mod native;
mod random;
mod text;
mod transcendental;
mod trap;
mod x87;
