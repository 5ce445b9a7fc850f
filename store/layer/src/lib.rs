//! Layers and file systems: unpack, overlay mounts, the host image's root.
