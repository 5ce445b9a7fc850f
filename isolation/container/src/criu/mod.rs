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
use atoll_sys::capability;

use crate::error::{Error, Result};
use crate::plan::HostFacts;
use crate::wall::Wall;

/// Refuses what CRIU would come to grief with later, and less clearly.
///
/// Source: CRIU 3.17, mount-v2.c (mounts are made without an id map), pstree.c (pids are restored as they were).
fn refuse(spec: &Spec, facts: &HostFacts) -> Result<()> {
    let fault = |what, reason| Err(Error::NotForCriu { what, reason });
    match Wall::of(spec)? {
        Wall::Process => {}
        Wall::System => {
            return fault(
                "behind the wall system",
                "criu cannot restore idmapped mounts, by which its users are its own",
            );
        }
        Wall::Chroot => {
            return fault(
                "behind the wall chroot",
                "its process ids are the host's, and others may have them when it is to go on",
            );
        }
    }
    if facts.is_in_user_namespace || !facts.capabilities.holds(capability::SYS_ADMIN) {
        return fault(
            "of a user without privilege",
            "criu needs privilege on the host, outside of user namespaces",
        );
    }
    Ok(())
}
