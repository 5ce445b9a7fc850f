//! Where the programs under test and their outside judges are.

use std::path::{Path, PathBuf};

/// A shipped program of ours: `atoll`, `atoll-runtime` or `containerd-shim-atoll-v2`.
///
/// Looked for in `$ATOLL_BIN`, else in `target/atoll/bin`, where `cargo xtask dist` puts it.
///
/// # Panics
/// When it is not there: build it first.
pub fn ours(name: &str) -> PathBuf {
    let folder = std::env::var_os("ATOLL_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/atoll/bin"),
        PathBuf::from,
    );
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "{} is missing; run `cargo xtask dist` first",
        path.display()
    );
    path.canonicalize()
        .expect("an existing file has a canonical path")
}

/// Fails the test with a plain sentence unless it runs as root.
///
/// # Panics
/// When the effective user is not root.
pub fn require_root() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root");
}
