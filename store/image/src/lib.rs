//! Images: references, content store, registries, import, load and pull.
