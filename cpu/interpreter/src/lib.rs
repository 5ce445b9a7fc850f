//! An x86-64 CPU in software.

#![forbid(unsafe_code)]
