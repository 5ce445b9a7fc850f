//! Checkpoint and restore by CRIU.
//!
//! ```text
//! configuration + options ──options.rs (pure)──▶ request
//!                                                  │ session.rs: criu swrk 3, a socket pair
//!                                                  ▼
//!                   notifications ◀── criu ──▶ images, log
//! ```
//!
//! CRIU is a child in the container's control groups; to restore, in a mount namespace of its own where the root file
//! system is mounted, so nothing is left on the host whoever is killed. The restored first process is CRIU's sibling, our child.
//!
//! What is in the image folder is CRIU's and, as with runc, `descriptors.json`: what the standard streams were.
//!
//! Source: CRIU images/rpc.proto, Documentation/criu.txt.

mod dump;
mod options;
mod place;
mod restore;
mod rpc;
mod session;

pub use options::{CgroupsMode, CheckpointRequest, CriuRequest, PageServer, RestoreRequest};
pub use restore::restore;

use atoll_spec::Spec;

use crate::error::{Error, Result};
use crate::wall::{ISOLATION, Wall};

/// What another wall changes in a configuration, CRIU would have to be told as well.
fn refuse_wall(spec: &Spec) -> Result<()> {
    match Wall::of(spec)? {
        Wall::Process => Ok(()),
        Wall::System | Wall::Chroot => Err(Error::Plan {
            field: format!("annotations[{ISOLATION}]"),
            reason: "only application containers are checkpointed".to_owned(),
        }),
    }
}
