//! The meaning of x86-64 instructions as pure functions over plain values: no memory, no guest, no loop.
//!
//! ```text
//!   integer  u8, u16, u32, u64 as operands          flags  RFLAGS' status bits, evaluated when asked for
//!   alu      add … div, shifts, rotates, bits       each: (operands, &mut Flags) → result
//!   simd     vectors as bytes                       each: (vectors, immediate) → vector
//!   float    SSE floating point                     each: (vectors, &mut MXCSR) → vector or SimdException
//!   x87      the unit as a value                    each: a method of it; what is stored is given back
//! ```
//!
//! It never touches guest memory and never executes; `cpu/interpreter` does.

#![forbid(unsafe_code)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "taking the low part of a value is what most instructions do"
)]

pub mod alu;
pub mod cpuid;
pub mod flags;
pub mod float;
pub mod integer;
mod real;
pub mod shift;
pub mod simd;
pub mod x87;
