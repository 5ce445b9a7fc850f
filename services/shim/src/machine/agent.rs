//! The agent's outcomes as the Task API has them.

use atoll_guest::protocol::{Fault, FaultKind, Outcome};
use ttrpc::Code;

use crate::failure::Failure;

/// The outcome, or the failure it is.
pub(super) fn outcome(outcome: Outcome) -> Result<Outcome, Failure> {
    match outcome {
        Outcome::Failed(Fault { kind, message }) => {
            let code = match kind {
                FaultKind::NotFound => Code::NOT_FOUND,
                FaultKind::AlreadyExists => Code::ALREADY_EXISTS,
                FaultKind::WrongStatus => Code::FAILED_PRECONDITION,
                FaultKind::InvalidArgument => Code::INVALID_ARGUMENT,
                FaultKind::Other => Code::UNKNOWN,
            };
            Err(Failure::new(code, message))
        }
        other => Ok(other),
    }
}
