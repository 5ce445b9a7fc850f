//! The engine: the Docker Engine API over images, networks and shims.
