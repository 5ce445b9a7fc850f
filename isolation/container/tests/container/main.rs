//! Containers on the real kernel. Needs root, and busybox linked statically.

mod attacks;
mod checkpoint;
mod exec;
mod failing;
mod hooks;
mod inside;
mod life;
mod mounts;
mod namespaces;
mod network;
mod races;
mod scheduling;
mod seccomp;
mod shares;
mod support;
