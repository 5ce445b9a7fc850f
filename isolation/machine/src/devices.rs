//! The virtio devices of a configured machine.

use std::fs::OpenOptions;

use atoll_virtio::{BlockDevice, BlockOptions, RngDevice, VirtioDevice};

use crate::config::{Disk, VmmConfig};
use crate::error::MachineError;

/// The devices that `config` asks for, in the order of their addresses: disks, then entropy.
///
/// # Errors
/// [`MachineError::Io`] when a disk cannot be opened or is no multiple of 512 bytes.
pub fn of_config(config: &VmmConfig) -> Result<Vec<Box<dyn VirtioDevice>>, MachineError> {
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
    for disk in &config.disks {
        devices.push(Box::new(block(disk)?));
    }
    devices.push(Box::new(RngDevice::new()));
    Ok(devices)
}

fn block(disk: &Disk) -> Result<BlockDevice, MachineError> {
    let action = format!("attach disk {}", disk.path.display());
    let file = OpenOptions::new()
        .read(true)
        .write(!disk.read_only)
        .open(&disk.path)
        .map_err(MachineError::io(action.clone()))?;
    let options = BlockOptions {
        read_only: disk.read_only,
        id: String::new(),
    };
    BlockDevice::new(file, &options)
        .map_err(|why| MachineError::io(action)(std::io::Error::other(why)))
}
