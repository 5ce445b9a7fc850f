//! The endpoints: a request taken apart, something done, an answer in dockerd's form.

pub(crate) mod archive;
pub(crate) mod attach;
pub(crate) mod containers;
pub(crate) mod exec;
pub(crate) mod images;
pub(crate) mod inspect;
pub(crate) mod lifecycle;
pub(crate) mod logs;
pub(crate) mod networks;
pub(crate) mod process;
pub(crate) mod system;
pub(crate) mod transfer;
pub(crate) mod volumes;
