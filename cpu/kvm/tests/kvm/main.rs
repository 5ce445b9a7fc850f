//! The backend against the host's `/dev/kvm`, with guests of a few instructions.
//!
//! Every test needs `/dev/kvm`, accelerating or not, and fails where it is missing. `cargo xtask nested-kvm` runs the
//! same file inside an emulated machine whose processor has SVM.

#![expect(clippy::unwrap_used, reason = "tests: a failure is a panic")]

mod clocks;
mod exits;
mod guest;
mod interrupts;
mod pausing;
mod states;
mod usable;
