//! Containers on the real kernel. Needs root, and busybox linked statically.

mod inside;
mod support;
