//! virtio devices over memory-mapped I/O.
