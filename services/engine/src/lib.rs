//! The engine: the Docker Engine API over images, networks and shims.
//!
//! ```text
//! client ─ http ─► api ─► container ─► shim::client ─ ttrpc ─► shim ─► process
//!            │      │         │  └──► spec (pure), files, network
//!            │      │         └─► record on disk, events
//!            │      └─► images (atoll-image), execs, logs
//!            └─ hijacked connection ◄── shim::attach ──► the shim's attach socket
//! ```
//!
//! Threads: two workers that serve, and threads for blocking work that end when idle. Signals: SIGTERM and SIGINT end the
//! engine. When it ends, also by kill -9, containers and their shims go on; the next engine on the same roots finds them by
//! their records and sockets ([`container::restore`]). When a shim dies, its container is killed and recorded as such.
//!
//! Never here: unsafe code, knowledge of how a container is built (isolation/container, called by the shim), HTTP clients'
//! words in the layers below. Entry point: [`run`].

#![recursion_limit = "256"]
#![forbid(unsafe_code)]

mod api;
mod args;
mod container;
mod copying;
mod engine;
mod error;
mod events;
mod exec;
mod http;
mod image_errors;
mod lock;
mod logs;
mod names;
mod network;
mod paths;
mod run;
mod settings;
mod shim;
mod signal;
mod sockets;
mod time;
mod types;
mod volume;

pub use args::EngineArgs;
pub use error::{Error, ErrorKind};
pub use lock::LockError;
pub use run::run;
pub use settings::SettingsError;
