//! Images: references, content store, registries, import, load and pull.
//!
//! ```text
//! registry ── pull ──┐                    ┌▶ layers (atoll-layer), by chain ID
//! archive ─── load ──┼▶ verified content ─┼▶ blobs: configuration, manifest, by digest
//! tar ──────── import┘                    └▶ database: names → image IDs
//! ```
//! An image appears when all of it is there, in one database transaction; before that, what an
//! interrupted operation leaves is garbage that the next [`ImageStore::open`] removes. Reading
//! uses a snapshot in memory.
//!
//! This crate knows no containers: whoever removes images says which are in use. Entry points:
//! [`ImageStore`], [`Reference`].

#![forbid(unsafe_code)]

mod blobs;
mod changes;
mod config;
mod error;
mod host;
mod image;
mod import;
mod load;
mod manifest;
mod metadata;
mod pins;
mod progress;
mod pull;
mod reference;
mod registry;
mod remove;
mod store;

pub use atoll_layer::{
    ChainId, Digest, DigestError, LayerError, LayerStore, RootfsMountSpec, WritableKind,
    WritableLayer, overlay_mount,
};

pub use self::{
    config::{Healthcheck, History, ImageConfig, RootFs, RunConfig},
    error::{ImageError, RegistryErrorKind},
    host::{HOST_NAME, host_image},
    image::Image,
    import::ImportOptions,
    load::Loaded,
    manifest::Platform,
    progress::{LayerStatus, Progress},
    pull::{Auth, Pulled},
    reference::Reference,
    remove::{ImageUse, RemoveItem},
    store::ImageStore,
};
