//! The virtio devices of a configured machine.

use crate::config::VmmConfig;
use crate::error::MachineError;
use crate::machine::DeviceMaker;

/// Makers of the devices that `config` asks for, in the order of their addresses.
///
/// # Errors
/// [`MachineError::Io`] when a disk cannot be opened.
pub fn of_config(config: &VmmConfig) -> Result<Vec<DeviceMaker>, MachineError> {
    match config.disks.first() {
        None => Ok(Vec::new()),
        Some(disk) => Err(MachineError::io(format!("attach {}", disk.path.display()))(
            std::io::Error::other("this build has no virtio devices"),
        )),
    }
}
