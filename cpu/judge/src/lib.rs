//! Judges a CPU backend by the real processor, instruction by instruction. A development tool.
//!
//! ```text
//!   Generator ─► Case ─┬► Native: a child process of ours, entered by rt_sigreturn ─► Outcome ─┐
//!    (seeded)          │                                                                       ├► compare ─► differences
//!   cases/*.txt ───────┴► Guest: any Hypervisor, user mode under our page tables ───► Outcome ─┘
//! ```
//!
//! A [`Case`] is a few bytes of code with all user-visible state; an [`Outcome`] is the state at the first exception,
//! which for code that runs to its end is the breakpoint that follows it. Both worlds map the same pages at the same
//! addresses ([`layout`]), so that page faults and their error codes can be compared too.
//!
//! What manuals leave undefined is masked by [`compare`]; what differs legitimately between processor models (CPUID,
//! time, instructions beyond x86-64-v2) is not generated.
//!
//! Threads: one in each [`Guest`], which ends a case that does not end. Processes: one child for each [`Native`], which
//! dies with the thread that made it.

#![expect(
    unsafe_code,
    reason = "executes generated instructions in a child process, by signal frames of our making"
)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "test data is cut to the widths of operands; x86-64 only"
)]

pub mod case;
pub mod compare;
pub mod fxsave;
pub mod generate;
mod guest;
pub mod judge;
pub mod layout;
mod native;
mod random;
pub mod text;

pub use case::{Case, Changes, End, Outcome, Patch, State};
pub use generate::Generator;
pub use guest::Guest;
pub use judge::{Judge, Tally};
pub use native::{Native, NativeError};
