//! Kernels: found, taken out of their bzImage, and loaded into guest memory.

mod bzimage;
mod decompress;
mod elf;
mod find;
mod store;

pub use bzimage::{BzImage, SetupHeader};
pub use elf::{Elf, Loaded};
pub use find::{Found, find, newest};
pub use store::{Kernel, KernelStore};
