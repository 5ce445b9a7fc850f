//! What the integration tests share: private engines, a small image, leak checks, terminals.
//!
//! ```text
//! test → Engine (atoll engine in a network namespace of its own, temporary roots)
//!            ↑ docker CLI / atoll / bollard / registry
//! ```
//!
//! Every test needs root and the programs of `cargo xtask setup`; a missing one fails the test
//! loudly. Engines end by pid when their guard drops, with every container they hold; a guard that
//! finds a mount, cgroup or process left behind fails the test.

#![forbid(unsafe_code)]

pub mod bundle;
pub mod engine;
pub mod image;
pub mod leaks;
pub mod programs;
pub mod registry;
pub mod script;
pub mod terminal;
pub mod waiting;

pub use engine::Engine;
pub use script::Ran;
