//! Kernels: found, taken out of their bzImage, and loaded into guest memory.

pub(crate) mod banner;
mod bzimage;
mod decompress;
mod elf;
mod find;
mod store;

pub use bzimage::{BzImage, SetupHeader};
pub(crate) use decompress::xz_file;
pub use elf::{Elf, Loaded, Protocol};
pub use find::{Found, find, newest};
pub(crate) use store::hex;
pub use store::{Kernel, KernelStore};

#[cfg(test)]
pub(crate) use elf::tests::{elf as tests_elf, with_notes as tests_elf_with_notes};
