//! Volumes: folders of the engine's that outlive containers (docs/formats/volume-store.md).
//!
//! A volume is made by one rename and goes by one rename, so a killed engine leaves none half made. Which containers have it
//! follows from their records and is in memory only.

mod options;
mod populate;
mod record;
mod store;

pub(crate) use populate::populate;
pub(crate) use record::{ANONYMOUS_LABEL, VolumeRecord};
pub(crate) use store::{Asked, Volume, VolumeRef, Volumes};

/// The one driver.
pub(crate) const DRIVER: &str = "local";
