//! MXCSR (Intel SDM vol. 1 §10.2.3) and what follows from its flags.

use thiserror::Error;

use crate::real::Rounding;

/// Invalid operation: flag in MXCSR and in the x87 status word.
pub const INVALID: u32 = 1;
/// Denormal operand.
pub const DENORMAL: u32 = 1 << 1;
/// Division by zero.
pub const ZERO_DIVIDE: u32 = 1 << 2;
/// Overflow.
pub const OVERFLOW: u32 = 1 << 3;
/// Underflow.
pub const UNDERFLOW: u32 = 1 << 4;
/// Precision: the result is not exact.
pub const PRECISION: u32 = 1 << 5;

/// Found before the result is computed.
const BEFORE: u32 = INVALID | DENORMAL | ZERO_DIVIDE;
/// All flags.
const FLAGS: u32 = 0x3F;
const MASKS_SHIFT: u32 = 7;
const DENORMALS_ARE_ZERO: u32 = 1 << 6;
const FLUSH_TO_ZERO: u32 = 1 << 15;
const ROUNDING_SHIFT: u32 = 13;

/// The bits of MXCSR that exist (FXSAVE's MXCSR_MASK).
pub const MXCSR_MASK: u32 = 0xFFFF;

/// An unmasked floating-point exception: the instruction has no result, its flags are in MXCSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("unmasked SIMD floating-point exception")]
pub struct SimdException;

/// MXCSR taken apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Control {
    pub(crate) rounding: Rounding,
    /// Denormal operands count as zero.
    pub(crate) denormals_are_zero: bool,
    /// Results too small for a normal number become zero.
    pub(crate) flush: bool,
    /// Overflow is masked.
    pub(crate) overflow_masked: bool,
    /// Underflow is masked.
    pub(crate) underflow_masked: bool,
}

impl Control {
    pub(crate) fn new(mxcsr: u32) -> Self {
        let underflow_masked = mxcsr >> MASKS_SHIFT & UNDERFLOW != 0;
        Self {
            rounding: Rounding::from_bits(mxcsr >> ROUNDING_SHIFT),
            denormals_are_zero: mxcsr & DENORMALS_ARE_ZERO != 0,
            flush: mxcsr & FLUSH_TO_ZERO != 0 && underflow_masked,
            overflow_masked: mxcsr >> MASKS_SHIFT & OVERFLOW != 0,
            underflow_masked,
        }
    }
}

/// Whether MXCSR rounds to nearest, as the host does.
#[inline(always)]
pub(crate) fn rounds_to_nearest(mxcsr: u32) -> bool {
    mxcsr >> ROUNDING_SHIFT & 3 == 0
}

/// Whether an inexact result leaves no trace: PE is set already, and masked.
#[inline(always)]
pub(crate) fn may_be_inexact(mxcsr: u32) -> bool {
    const QUIET: u32 = PRECISION | PRECISION << MASKS_SHIFT;
    mxcsr & QUIET == QUIET
}

/// Notes an instruction's `flags` in MXCSR.
///
/// Exceptions found before computing win: when one of them is unmasked, those found after are not reported (Intel SDM
/// vol. 1 §11.5.4).
pub(crate) fn report(mxcsr: &mut u32, flags: u32) -> Result<(), SimdException> {
    let unmasked = !(*mxcsr >> MASKS_SHIFT) & FLAGS;
    if flags & BEFORE & unmasked != 0 {
        *mxcsr |= flags & BEFORE;
        return Err(SimdException);
    }
    *mxcsr |= flags & FLAGS;
    if flags & unmasked != 0 {
        return Err(SimdException);
    }
    Ok(())
}
