//! Does what a plan says: everything that can be is prepared here ([`compile`]), then a child
//! executes the prepared [`program`] ([`child`]) and says how it went ([`control`]).

mod child;
pub(crate) mod compile;
pub(crate) mod control;
pub(crate) mod entry;
pub(crate) mod hooks;
mod launch;
pub(crate) mod listener;
mod locks;
mod mounting;
mod own_attribute;
pub(crate) mod passwd;
pub(crate) mod program;
pub(crate) mod rootfs;
pub(crate) mod shift;
pub(crate) mod spawn;
