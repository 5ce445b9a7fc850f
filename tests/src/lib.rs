//! Integration tests against the real kernel and real clients.
