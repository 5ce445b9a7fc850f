//! The initial ramdisk: the guest's first process and the kernel modules it needs.

mod cpio;
mod modules;

use std::fs;
use std::path::Path;

pub use cpio::Archive;
pub use modules::{DEFAULT_MODULES, ModuleFile, modules_for};

use crate::error::MachineError;

/// An archive with `agent` as `/init`, and `modules` in `/modules` with their order.
///
/// # Errors
/// [`MachineError::Io`] when a file cannot be read or unpacked.
pub fn build(agent: &Path, modules: &[ModuleFile]) -> Result<Archive, MachineError> {
    let program = fs::read(agent).map_err(MachineError::io(format!("read {}", agent.display())))?;
    let mut archive = Archive::default();
    archive.folder("dev");
    // Without it the kernel has no console to give to the first process.
    archive.character_device("dev/console", 5, 1);
    archive.file("init", 0o755, &program);
    if !modules.is_empty() {
        archive.folder("modules");
        let mut order = String::new();
        for module in modules {
            archive.file(&format!("modules/{}", module.name), 0o644, &module.read()?);
            order.push_str(&module.name);
            order.push('\n');
        }
        archive.file("modules/order", 0o644, order.as_bytes());
    }
    Ok(archive)
}
