use std::os::unix::fs::{FileExt, MetadataExt};

use proptest::prelude::*;

use super::*;
use crate::driver::{Driver, Part};

const DISK: u64 = 64 * SECTOR;

fn disk() -> File {
    let file = tempfile::tempfile().unwrap();
    let bytes: Vec<u8> = (0..DISK).map(|at| (at / SECTOR) as u8).collect();
    file.write_all_at(&bytes, 0).unwrap();
    file
}

fn start(file: &File, read_only: bool) -> Driver {
    let options = BlockOptions {
        read_only,
        id: "layer-1".into(),
    };
    let device = BlockDevice::new(file.try_clone().unwrap(), &options).unwrap();
    Driver::start(Box::new(device))
}

fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    header
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

fn status_of(driver: &mut Driver, out: &[&[u8]]) -> u8 {
    let (written, answer) = driver.request(0, out, &[1]);
    assert_eq!(written, 1);
    answer[0]
}

#[test]
fn the_guest_sees_capacity_and_limits() {
    let driver = start(&disk(), false);
    let config = driver.config(60);
    assert_eq!(config[..8], 64u64.to_le_bytes());
    assert_eq!(config[12..16], 254u32.to_le_bytes());
    assert_eq!(config[20..24], 512u32.to_le_bytes());
    let mut two = [0; 2];
    driver.transport.read(0x100 + 26, &mut two);
    assert_eq!(two, [8, 0]);
    for read_only in [false, true] {
        let driver = start(&disk(), read_only);
        driver.write(0x14, 0);
        assert_eq!(u64::from(driver.read(0x10)) & F_RO != 0, read_only);
    }
}

#[test]
fn sectors_are_read_into_scattered_buffers() {
    let mut driver = start(&disk(), true);
    let (written, answer) = driver.request(0, &[&header(0, 5)], &[100, 924, 1]);
    assert_eq!(written, 1025);
    assert_eq!(answer[..512], [5; 512]);
    assert_eq!(answer[512..1024], [6; 512]);
    assert_eq!(answer[1024], 0);
    // The status may share a descriptor with the data, and the header may be split.
    let head = header(0, 63);
    let (written, answer) = driver.request(0, &[&head[..3], &head[3..]], &[513]);
    assert_eq!((written, answer[511], answer[512]), (513, 63, 0));
}

#[test]
fn written_sectors_are_in_the_file_and_flushed() {
    let file = disk();
    let mut driver = start(&file, false);
    let head = header(1, 62);
    assert_eq!(status_of(&mut driver, &[&head, &[9; 1000], &[8; 24]]), 0);
    let mut bytes = [0; 1024];
    file.read_exact_at(&mut bytes, 62 * SECTOR).unwrap();
    assert_eq!((bytes[0], bytes[999], bytes[1000]), (9, 9, 8));
    assert_eq!(status_of(&mut driver, &[&header(4, 0)]), 0);
    let (written, answer) = driver.request(0, &[&header(8, 0)], &[20, 1]);
    assert_eq!((written, &answer[..8]), (21, &b"layer-1\0"[..]));
}

#[test]
fn several_requests_are_answered_by_one_doorbell() {
    let mut driver = start(&disk(), true);
    let heads: Vec<u16> = (0..4)
        .map(|sector| {
            let header = header(0, sector);
            driver.submit(0, &[Part::Out(&header), Part::In(512), Part::In(1)])
        })
        .collect();
    driver.kick(0);
    for (sector, head) in heads.iter().enumerate() {
        assert_eq!(driver.used(0), Some((*head, 513)));
        assert_eq!(driver.room(0, *head)[0], sector as u8);
    }
    assert_eq!(driver.interrupts(), 1);
}

#[test]
fn what_lies_outside_the_disk_is_an_error() {
    let file = disk();
    let mut driver = start(&file, false);
    for sector in [64, 63, u64::MAX, u64::MAX / 512, 1 << 55] {
        let (_, answer) = driver.request(0, &[&header(0, sector)], &[1024, 1]);
        assert_eq!(answer[1024], 1, "{sector}");
        assert_eq!(status_of(&mut driver, &[&header(1, sector), &[0; 1024]]), 1);
    }
    let (_, answer) = driver.request(0, &[&header(0, 0)], &[100, 1]);
    assert_eq!(answer[100], 1);
    assert_eq!(file.metadata().unwrap().len(), DISK);
    file.set_len(512).unwrap();
    let (written, answer) = driver.request(0, &[&header(0, 0)], &[1024, 1]);
    assert_eq!((written, answer[1024]), (513, 1));
}

#[test]
fn a_read_only_disk_is_never_written() {
    let file = disk();
    let mut driver = start(&file, true);
    assert_eq!(status_of(&mut driver, &[&header(1, 0), &[9; 512]]), 1);
    for kind in [11, 13] {
        assert_eq!(
            status_of(&mut driver, &[&header(kind, 0), &range(0, 8, 0)]),
            1
        );
    }
    let mut bytes = [9; 512];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [0; 512]);
}

#[test]
fn ranges_are_discarded_and_zeroed() {
    let file = disk();
    let mut driver = start(&file, false);
    let before = file.metadata().unwrap().blocks();
    let head = header(11, 0);
    assert_eq!(status_of(&mut driver, &[&head, &range(8, 32, 0)]), 0);
    assert!(file.metadata().unwrap().blocks() < before);
    for flags in [0, 1] {
        let sector = 48 + 2 * u64::from(flags);
        let ranges = [range(sector, 1, flags), range(sector + 1, 1, flags)].concat();
        assert_eq!(status_of(&mut driver, &[&header(13, 0), &ranges]), 0);
    }
    let mut bytes = [9; 6 * 512];
    file.read_exact_at(&mut bytes, 47 * SECTOR).unwrap();
    assert_eq!((bytes[0], bytes[5 * 512]), (47, 52));
    assert_eq!(bytes[512..5 * 512], [0; 4 * 512]);
    let wrong = [
        (11, range(0, 8, 1), 2),
        (13, range(0, 8, 2), 2),
        (13, range(60, 8, 0), 1),
        (13, range(u64::MAX, u32::MAX, 0), 1),
        (11, vec![0; 15], 1),
        (11, vec![0; 17 * 16], 1),
    ];
    for (kind, range, expected) in wrong {
        assert_eq!(
            status_of(&mut driver, &[&header(kind, 0), &range]),
            expected
        );
    }
    assert_eq!(file.metadata().unwrap().len(), DISK);
}

#[test]
fn zeroes_are_written_where_the_file_system_knows_no_other_way() {
    let file = disk();
    assert!(write_zeroes(&file, 512, 40 * SECTOR).is_ok());
    let mut bytes = vec![9; 42 * 512];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes[512..41 * 512], [0; 40 * 512]);
    assert_eq!(bytes[41 * 512], 41);
}

#[test]
fn unknown_requests_are_unsupported_and_short_ones_need_a_reset() {
    let mut driver = start(&disk(), false);
    assert_eq!(status_of(&mut driver, &[&header(77, 0)]), 2);
    driver.submit(0, &[Part::Out(&[0; 15]), Part::In(1)]);
    driver.kick(0);
    assert!(driver.is_broken());
    let mut driver = start(&disk(), false);
    driver.submit(0, &[Part::Out(&[0; 16])]);
    driver.kick(0);
    assert!(driver.is_broken());
}

#[test]
fn files_that_are_no_disk_are_refused() {
    let file = disk();
    file.set_len(513).unwrap();
    let outcome = BlockDevice::new(file, &BlockOptions::default());
    assert!(matches!(outcome, Err(DeviceError::DiskLength(513))));
    let options = BlockOptions {
        read_only: false,
        id: "a name of more than twenty bytes".into(),
    };
    assert!(matches!(
        BlockDevice::new(disk(), &options),
        Err(DeviceError::Name(_, 20))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn random_requests_never_panic_nor_change_the_length(
        requests in prop::collection::vec(
            (0u32..16, 0u64..80, prop::collection::vec(any::<u8>(), 0..1100), 0usize..1100), 1..30)
    ) {
        let file = disk();
        let mut driver = start(&file, false);
        for (kind, sector, out, room) in requests {
            let header = header(kind, sector);
            driver.submit(0, &[Part::Out(&header), Part::Out(&out), Part::In(room)]);
            driver.kick(0);
        }
        prop_assert_eq!(file.metadata().unwrap().len(), DISK);
    }
}
