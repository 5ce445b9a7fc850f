//! The system call filter.

use atoll_seccomp::Arch;
use atoll_spec::Seccomp;

use super::fault;
use crate::error::Result;

/// A compiled filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeccompPlan {
    /// Classic BPF instructions.
    pub program: Vec<[u8; 8]>,
    /// `SECCOMP_FILTER_FLAG_…`.
    pub flags: u64,
}

/// Compiles a filter.
///
/// # Errors
/// [`crate::Error::Plan`] for a filter that can't be.
pub(crate) fn plan(profile: &Seccomp) -> Result<SeccompPlan> {
    let program = match atoll_seccomp::compile(profile, Arch::X86_64) {
        Ok(program) => program,
        Err(error) => return fault("linux.seccomp", error.to_string()),
    };
    if program.notifies() {
        return fault("linux.seccomp", "SCMP_ACT_NOTIFY is not supported yet");
    }
    Ok(SeccompPlan {
        program: program.instructions().to_vec(),
        flags: program.flags(),
    })
}
