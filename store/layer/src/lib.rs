//! Layers and file systems: unpack, overlay mounts, the host image's root.
//!
//! ```text
//! bytes ─▶ decompress ─┬▶ hash ────────────▶ diff ID ─┐
//!                      └▶ parse tar ─▶ extract ───────┴▶ staged ─▶ commit ─▶ D/layers/<chain ID>
//! ```
//! A layer is unpacked into a directory of its own, whatever is below it, so layers can be
//! unpacked before their order is known and at the same time. It appears in the store in one
//! rename, when it is whole and its digest is right. Archives are taken to be hostile. For machines, a
//! layer is also an EROFS image.
//!
//! This crate knows no images, no registries and no processes, and never mounts anything in the
//! caller's mount namespace. Entry points: [`LayerStore`], [`WritableLayer`], [`overlay_mount`].

#![forbid(unsafe_code)]

mod archive;
mod copy;
mod decompress;
mod digest;
mod durability;
mod erofs;
mod error;
mod extract;
mod implied;
mod overlay;
mod sink;
mod staged;
mod store;
mod stream;
mod writable;

pub use self::{
    archive::{ArchiveEntry, ArchiveEntryKind, ArchiveReader, is_layer_start},
    copy::copy_directory,
    decompress::{Compression, SNIFF_BYTES, decompress},
    digest::{ChainId, Digest, DigestError},
    error::LayerError,
    overlay::{RootfsMountSpec, open_rootfs, overlay_mount},
    sink::{LayerSink, PendingLayer},
    staged::StagedLayer,
    store::{Layer, LayerStore},
    stream::read_chunk,
    writable::{WritableKind, WritableLayer},
};
