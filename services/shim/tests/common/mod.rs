//! What the tests share.

use std::path::{Path, PathBuf};

use atoll_shim_protocol::spawn;

/// The shim to test: what `ATOLL_BIN` has, else this package's example.
pub(crate) fn program() -> PathBuf {
    if let Some(folder) = std::env::var_os("ATOLL_BIN") {
        return Path::new(&folder).join(spawn::PROGRAM);
    }
    let own = std::env::current_exe().unwrap();
    let folder = own.parent().and_then(Path::parent).unwrap();
    folder.join("examples/shim")
}
