//! Containers: their records, what is done to them, and what they are doing.
//!
//! Nothing here is shared between containers but the registry's maps, which are held for a look-up only: an operation takes
//! its own container's lock, runs in a task of its own (a client that goes away interrupts nothing), and readers see the
//! latest record without waiting.

pub(crate) mod connect;
pub(crate) mod create;
pub(crate) mod defaults;
pub(crate) mod ends;
pub(crate) mod exit;
pub(crate) mod files;
pub(crate) mod handle;
pub(crate) mod host_wall;
pub(crate) mod id_range;
pub(crate) mod lifecycle;
pub(crate) mod mounts;
pub(crate) mod record;
pub(crate) mod registry;
pub(crate) mod remove;
pub(crate) mod restore;
pub(crate) mod rootfs;
pub(crate) mod spec;
pub(crate) mod start;
pub(crate) mod users;
pub(crate) mod volumes;
pub(crate) mod wall;

pub(crate) use handle::ContainerRef;
pub(crate) use record::{Record, Status};
