//! The shim: one small process per container, speaking containerd's Task API.
