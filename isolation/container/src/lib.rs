//! Containers: a bundle in, running processes out.
