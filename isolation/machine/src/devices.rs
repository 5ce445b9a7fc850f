//! The virtio devices of a configured machine.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use atoll_memory::PAGE;
use atoll_sys::tap;
use atoll_virtio::{
    BalloonDevice, BlockDevice, BlockOptions, ConsoleDevice, DeviceError, FsDevice, FsOptions,
    NetDevice, NetOptions, RngDevice, VirtioDevice, VsockDevice, VsockOptions,
};
use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};

use crate::config::{Disk, NetworkCard, Share, Sockets, VmmConfig};
use crate::error::MachineError;

/// Connections between guest and host at once.
const MAX_CONNECTIONS: usize = 1024;
/// `struct virtio_net_hdr_v1` (virtio 1.3 §5.1.6).
const NET_HEADER: u8 = 12;

/// The devices that `config` asks for, in the order of their addresses: disks, entropy, network cards, sockets, shares,
/// balloon, console.
///
/// # Errors
/// [`MachineError::Io`] when a host end cannot be opened or is not fit for its device.
pub fn of_config(config: &VmmConfig) -> Result<Vec<Box<dyn VirtioDevice>>, MachineError> {
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
    for disk in &config.disks {
        devices.push(Box::new(block(disk)?));
    }
    devices.push(Box::new(RngDevice::new()));
    for card in &config.networks {
        devices.push(Box::new(network(card)?));
    }
    if let Some(sockets) = &config.sockets {
        devices.push(Box::new(vsock(sockets)?));
    }
    for share in &config.shares {
        devices.push(Box::new(file_system(share)?));
    }
    if let Some(bytes) = config.balloon_bytes {
        devices.push(Box::new(balloon(bytes)));
    }
    if let Some(path) = &config.console {
        devices.push(Box::new(console(path)?));
    }
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
    BlockDevice::new(file, &options).map_err(unfit(action))
}

fn network(card: &NetworkCard) -> Result<NetDevice, MachineError> {
    let action = format!("attach a network card to tap {}", card.tap);
    let tap = tap::open(&card.tap, NET_HEADER)
        .map_err(|errno| MachineError::io(action.clone())(errno.into()))?;
    let options = NetOptions {
        mac: card.mac.unwrap_or_else(|| address_of(&card.tap)),
        mtu: card.mtu,
        offload: true,
    };
    NetDevice::new(tap, &options).map_err(unfit(action))
}

/// A hardware address for a card on tap `name`: unicast, locally administered, the same for the same name.
fn address_of(name: &str) -> [u8; 6] {
    let hash = Sha256::digest(name.as_bytes());
    [0x02, hash[0], hash[1], hash[2], hash[3], hash[4]]
}

fn vsock(sockets: &Sockets) -> Result<VsockDevice, MachineError> {
    let options = VsockOptions {
        guest_cid: sockets.cid,
        path: sockets.path.clone(),
        max_connections: MAX_CONNECTIONS,
    };
    let action = format!("attach sockets at {}", sockets.path.display());
    VsockDevice::new(options).map_err(unfit(action))
}

fn file_system(share: &Share) -> Result<FsDevice, MachineError> {
    let action = format!("share {} as {}", share.path.display(), share.tag);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory: OwnedFd = rustix::fs::open(&share.path, flags, Mode::empty())
        .map_err(|errno| MachineError::io(action.clone())(errno.into()))?;
    let mut options = FsOptions::new(&share.tag);
    options.read_only = share.read_only;
    FsDevice::new(directory, options).map_err(unfit(action))
}

fn balloon(bytes: u64) -> BalloonDevice {
    let device = BalloonDevice::new();
    let pages = u32::try_from(bytes / PAGE).unwrap_or(u32::MAX);
    device.control().want(pages);
    device
}

fn console(path: &Path) -> Result<ConsoleDevice, MachineError> {
    let action = format!("attach a console at {}", path.display());
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let failed = |errno: rustix::io::Errno| MachineError::io(action.clone())(errno.into());
    let input = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
    let output = input
        .try_clone()
        .map_err(MachineError::io(action.clone()))?;
    ConsoleDevice::new(Some(input), Some(output)).map_err(unfit(action))
}

/// The device's reason, with what was tried.
fn unfit(action: String) -> impl FnOnce(DeviceError) -> MachineError {
    move |why| MachineError::io(action)(io::Error::other(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> VmmConfig {
        let text =
            r#"{"kernel":"k","kernel_store":"s","command_line":"c","memory_bytes":4096,"cpus":1"#;
        serde_json::from_str(&format!("{text},{more}}}")).unwrap()
    }

    fn refusal(more: &str) -> String {
        let Err(error) = of_config(&config(more)) else {
            panic!("{more} was taken");
        };
        error.to_string()
    }

    #[test]
    fn all_devices_come_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        let more = format!(
            r#""sockets":{{"path":"{path}/v"}},"shares":[{{"path":"{path}","tag":"t"}}],
               "balloon_bytes":0,"console":"/dev/null""#
        );
        let devices = of_config(&config(&more)).unwrap();
        let kinds: Vec<_> = devices.iter().map(|device| device.device_type()).collect();
        let kinds = format!("{kinds:?}");
        assert_eq!(kinds, "[Rng, Vsock, Fs, Balloon, Console]");
    }

    #[test]
    fn host_ends_that_are_not_there_are_named() {
        let more = r#""shares":[{"path":"/none","tag":"t"}]"#;
        assert_eq!(refusal(more), "cannot share /none as t");
        let more = r#""sockets":{"path":"/none/v"}"#;
        assert_eq!(refusal(more), "cannot attach sockets at /none/v");
        let more = r#""networks":[{"tap":"a-name-of-16-byt"}]"#;
        assert!(refusal(more).contains("tap a-name-of-16-byt"));
        assert!(refusal(r#""console":"/none/c""#).contains("/none/c"));
    }

    #[test]
    fn a_hardware_address_is_a_taps_own() {
        assert_eq!(address_of("t"), address_of("t"));
        assert_ne!(address_of("t"), address_of("u"));
        assert_eq!(address_of("t")[0] & 3, 2);
    }
}
