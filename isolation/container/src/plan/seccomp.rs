//! The system call filter.

use std::path::PathBuf;

use atoll_seccomp::{Action, Arch};
use atoll_spec::Seccomp;
use serde::{Deserialize, Serialize};

use super::fault;
use crate::error::Result;

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER` and `…_WAIT_KILLABLE_RECV`.
const NEW_LISTENER: u64 = 1 << 3;
const WAIT_KILLABLE_RECV: u64 = 1 << 5;

/// A compiled filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeccompPlan {
    /// Classic BPF instructions.
    pub program: Vec<[u8; 8]>,
    /// `SECCOMP_FILTER_FLAG_…`.
    pub flags: u64,
    /// Who decides calls the filter leaves open.
    pub listener: Option<SeccompListener>,
}

/// Who decides calls a filter leaves open. Spec: config-linux.md#seccomp and #containerprocessstate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompListener {
    /// Unix socket that gets the filter's descriptor.
    pub path: PathBuf,
    /// Text that goes along.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub metadata: String,
}

/// Compiles a filter.
///
/// # Errors
/// [`crate::Error::Plan`] for a filter that can't be.
pub(crate) fn plan(profile: &Seccomp) -> Result<SeccompPlan> {
    let field = "linux.seccomp";
    if profile.default_action == Action::Notify {
        return fault(field, "SCMP_ACT_NOTIFY cannot be used as default action");
    }
    let asks = |name: &str| {
        profile.syscalls.iter().any(|rule| {
            rule.action == Action::Notify && rule.names.iter().any(|known| known == name)
        })
    };
    if asks("write") {
        // The process could not say which descriptor to answer it by.
        return fault(
            field,
            "SCMP_ACT_NOTIFY cannot be used for the write syscall",
        );
    }
    let program = match atoll_seccomp::compile(profile, Arch::X86_64) {
        Ok(program) => program,
        Err(error) => return fault(field, error.to_string()),
    };
    let mut flags = program.flags();
    let listener = match &profile.listener_path {
        Some(path) if program.notifies() => {
            flags |= NEW_LISTENER;
            Some(SeccompListener {
                path: path.into(),
                metadata: profile.listener_metadata.clone().unwrap_or_default(),
            })
        }
        // The kernel takes the flag only along with a listener.
        _ => {
            flags &= !WAIT_KILLABLE_RECV;
            None
        }
    };
    Ok(SeccompPlan {
        program: program.instructions().to_vec(),
        flags,
        listener,
    })
}
