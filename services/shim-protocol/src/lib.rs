//! What engine and shim say to each other beyond containerd's Task API.
