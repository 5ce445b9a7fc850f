//! Layers on the real kernel, one module per promise. Needs root.

#![expect(clippy::unwrap_used, reason = "tests may, their shared functions too")]

mod erofs;
mod gnu_tar;
mod hostile;
mod mutated;
mod store;
mod support;
