//! Shims as the engine sees them: started, talked to, attached to.

pub(crate) mod attach;
pub(crate) mod client;
