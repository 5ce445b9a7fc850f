//! Compares a CPU backend with the real processor.
