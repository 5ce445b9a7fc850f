//! Thin, safe wrappers over the Linux system calls the rest of Atoll needs.
