//! Vector instructions on integers, and those that move elements whatever they are: MMX, SSE to SSE4.2.
//!
//! Logic on floating-point vectors (ANDPS, UNPCKLPD, …) is here too: it knows nothing of floating point.

pub mod arithmetic;
pub mod crc;
pub mod shift;
pub mod shuffle;
pub mod text;
mod vector;

pub use vector::{Element, Mmx, Vector, Xmm};
