//! Every device against random rings, buffers and registers: it may refuse, but not panic, hang or leave memory.

use proptest::prelude::*;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use vm_memory::{Bytes, GuestAddress};

use crate::device::VirtioDevice;
use crate::driver::{Driver, SIZE};
use crate::{
    BalloonDevice, BlockDevice, BlockOptions, ConsoleDevice, FsDevice, FsOptions, RngDevice,
    VsockDevice, VsockOptions,
};

/// One of each, with whatever must live as long.
fn device(number: usize) -> (Box<dyn VirtioDevice>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let pair = |kind| rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
    let device: Box<dyn VirtioDevice> = match number {
        0 => Box::new(RngDevice::new()),
        1 => Box::new(BalloonDevice::new()),
        2 => {
            let file = tempfile::tempfile().unwrap();
            file.set_len(1 << 20).unwrap();
            Box::new(BlockDevice::new(file, &BlockOptions::default()).unwrap())
        }
        3 => {
            let (input, output) = pair(SocketType::STREAM);
            Box::new(ConsoleDevice::new(Some(input), Some(output)).unwrap())
        }
        4 => {
            let options = VsockOptions {
                guest_cid: 3,
                path: folder.path().join("v"),
                max_connections: 4,
            };
            Box::new(VsockDevice::new(options).unwrap())
        }
        5 => {
            let (tap, _wire) = pair(SocketType::DGRAM);
            Box::new(crate::net::over_any(tap))
        }
        6 => {
            let layers = [700_000, 1].map(|bytes| {
                let file = tempfile::tempfile().unwrap();
                file.set_len(bytes).unwrap();
                file
            });
            Box::new(BlockDevice::of_layers(layers.into(), "").unwrap())
        }
        _ => {
            let share = rustix::fs::open(
                folder.path(),
                rustix::fs::OFlags::PATH,
                rustix::fs::Mode::empty(),
            );
            let mut options = FsOptions::new("x");
            options.overlay_upper = true;
            Box::new(FsDevice::new(share.unwrap(), options).unwrap())
        }
    };
    (device, folder)
}

/// Where random descriptors point: into a megabyte of random bytes, at the end of memory, or anywhere.
fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0x10_0000u64..0x20_0000,
        1 => 0x7F_F000u64..0x80_1000,
        1 => any::<u64>(),
    ]
}

fn len() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0u32..600, 1 => 0u32..0x10_0000, 1 => any::<u32>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_device_trusts_its_rings(
        number in 0usize..8,
        queue in 0usize..5,
        bytes in prop::collection::vec(prop_oneof![0u8..16, any::<u8>()], 512),
        descriptors in prop::collection::vec((address(), len(), 0u16..8, 0u16..18), 16),
        heads in prop::collection::vec(0u16..18, 1..24),
        event_index in any::<bool>(),
    ) {
        let (device, _folder) = device(number);
        let queue = queue % device.queue_sizes().len();
        let features = if event_index { u64::MAX } else { !crate::transport::RING_EVENT_IDX };
        let mut driver = Driver::with_features(device, features);
        for at in (0x10_0000u64..0x20_0000).step_by(0x1_0000) {
            driver.memory.write_slice(&bytes, GuestAddress(at)).unwrap();
        }
        for (position, descriptor) in descriptors.into_iter().enumerate() {
            driver.descriptor(queue, position as u16 % SIZE, descriptor);
        }
        for head in heads {
            driver.make_available(queue, head);
            driver.kick(queue);
            driver.transport.host_ready();
        }
        let state = driver.transport.save();
        driver.write(0x70, 0);
        prop_assert_eq!(driver.read(0x70), 0);
        prop_assert!(driver.transport.restore(&state).is_ok());
        driver.transport.resume();
    }

    #[test]
    fn no_device_trusts_accesses_to_its_registers(
        number in 0usize..8,
        accesses in prop::collection::vec((0u64..0x200, any::<u64>(), 0usize..9), 1..100),
    ) {
        let (device, _folder) = device(number);
        let driver = Driver::with_features(device, u64::MAX);
        for (offset, value, width) in accesses {
            driver.transport.read(offset, &mut [0; 8][..width]);
            driver.transport.write(offset, &value.to_le_bytes()[..width]);
        }
        driver.write(0x70, 0);
        prop_assert_eq!(driver.read(0x70), 0);
    }
}
