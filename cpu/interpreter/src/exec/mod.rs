//! What instructions do: one handler for each combination of operation, width and operand places.

pub(crate) mod alu;
pub(crate) mod bits;
pub(crate) mod control;
pub(crate) mod data;
pub(crate) mod exchange;
pub(crate) mod far;
pub(crate) mod flags;
pub(crate) mod float;
pub(crate) mod multiply;
pub(crate) mod pointer;
pub(crate) mod save;
pub(crate) mod shift;
pub(crate) mod stack;
pub(crate) mod string;
pub(crate) mod system;
pub(crate) mod tables;
pub(crate) mod vector;
pub(crate) mod x87;
