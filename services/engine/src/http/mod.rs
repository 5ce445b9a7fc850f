//! HTTP as Docker's clients speak it: heads, versions, queries, bodies, hijacked connections.

pub(crate) mod body;
pub(crate) mod connection;
pub(crate) mod hijack;
pub(crate) mod query;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod router;
pub(crate) mod server;
pub(crate) mod version;
