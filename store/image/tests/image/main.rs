//! Images from archives and registries, one module per promise. Needs root, `skopeo` and
//! Debian's `docker-registry`.

#![expect(clippy::unwrap_used, reason = "tests may, their shared functions too")]

mod import;
mod load;
mod names;
mod registry;
mod server;
mod support;
