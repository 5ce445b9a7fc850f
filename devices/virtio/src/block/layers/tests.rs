//! Disks of layers, read by a driver; their tables judged by gdisk and fdisk (by Linux, too: tests/guest_devices).

use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::block::{BlockDevice, BlockOptions, Content};
use crate::driver::Driver;

/// Bytes that tell where they stand, and in which file.
fn pattern(file: usize, bytes: usize) -> Vec<u8> {
    let byte = |at: usize| (at.wrapping_mul(0x9E37_79B1) >> 13) as u8 ^ file as u8;
    (0..bytes).map(byte).collect()
}

fn file(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn files(lengths: &[usize]) -> Vec<File> {
    let each = lengths.iter().enumerate();
    each.map(|(index, len)| file(&pattern(index, *len)))
        .collect()
}

/// A disk of partitions of 3 MiB for the files.
fn start(files: Vec<File>) -> Driver {
    let slots = Slots {
        count: files.len() as u32,
        bytes: 4 << 20,
    };
    of(LayerDisk::in_slots(files, slots).unwrap())
}

fn of(disk: LayerDisk) -> Driver {
    let options = BlockOptions {
        read_only: true,
        id: "layers".to_owned(),
    };
    let bytes = disk.bytes;
    let device = BlockDevice::with(Content::Layers(disk), bytes, &options);
    Driver::start(Box::new(device.unwrap()))
}

fn refusal(files: Vec<File>) -> String {
    let why = BlockDevice::of_layers(files, "").unwrap_err();
    let source = std::error::Error::source(&why);
    let because = source.map_or(String::new(), |why| format!(": {why}"));
    format!("{why}{because}")
}

fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    header
}

/// What the device answers to a read, with the status.
fn read(driver: &mut Driver, sector: u64, room: &[usize]) -> (Vec<u8>, u8) {
    let room = [room, &[1]].concat();
    let (_, mut answer) = driver.request(0, &[&header(0, sector)], &room);
    let status = answer.pop().unwrap();
    (answer, status)
}

fn sectors(driver: &Driver) -> u64 {
    u64::from_le_bytes(driver.config(8).try_into().unwrap())
}

/// The whole disk, by long requests.
fn whole(driver: &mut Driver) -> Vec<u8> {
    let mut bytes = Vec::new();
    let end = sectors(driver);
    for sector in (0..end).step_by(256) {
        let len = 512 * (end - sector).min(256) as usize;
        let (part, status) = read(driver, sector, &[len]);
        assert_eq!((part.len(), status), (len, 0));
        bytes.extend(part);
    }
    bytes
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// First and last sector of partition `number`, by the disk's table.
fn place(disk: &[u8], number: usize) -> (u64, u64) {
    let entry = 1024 + 128 * (number - 1);
    (le64(disk, entry + 32), le64(disk, entry + 40))
}

#[test]
fn each_file_is_a_partition_and_all_else_is_zero() {
    let lengths = [1536, 1, 512, 3 << 20, 70_001];
    let mut driver = start(files(&lengths));
    let mut disk = whole(&mut driver);
    assert_eq!(disk.len() as u64, 512 * sectors(&driver));
    assert_eq!((&disk[512..520], disk[510]), (&b"EFI PART"[..], 0x55));
    for (index, len) in lengths.into_iter().enumerate() {
        let (first, last) = place(&disk, index + 1);
        assert_eq!(
            (first, last),
            (index as u64 * 8192 + 2048, index as u64 * 8192 + 8191)
        );
        let bytes = &mut disk[first as usize * 512..][..len];
        assert!(bytes == pattern(index, len), "file {index}");
        bytes.fill(0);
    }
    // Without the files, nothing is left between the tables.
    let usable = le64(&disk, 512 + 40) as usize * 512..(le64(&disk, 512 + 48) as usize + 1) * 512;
    assert!(disk[usable.clone()].iter().all(|byte| *byte == 0));
    assert_eq!(disk.len() - usable.end, 33 * 512);
}

#[test]
fn a_read_may_begin_in_one_file_and_end_in_the_table_behind_the_last() {
    let mut driver = start(files(&[(3 << 20) - 300, (3 << 20) - 200]));
    let disk = whole(&mut driver);
    let (first, last) = place(&disk, 2);
    assert_eq!((first, last), (8192 + 2048, sectors(&driver) - 34));
    for (sector, room) in [
        (first - 2, [700, 324]),
        (first - 1, [1, 2047]),
        (last, [511, 1025]),
        (0, [1000, 1048]),
        (sectors(&driver) - 3, [3, 1533]),
    ] {
        let (bytes, status) = read(&mut driver, sector, &room);
        let from = sector as usize * 512;
        assert_eq!(status, 0, "{sector}");
        assert!(
            bytes == disk[from..from + room[0] + room[1]],
            "from {sector}"
        );
    }
}

#[test]
fn what_lies_outside_the_disk_is_an_error_and_nothing_is_written() {
    let layers = files(&[4096, 8192]);
    let kept = layers[1].try_clone().unwrap();
    let mut driver = start(layers);
    let end = sectors(&driver);
    for sector in [end, end - 1, u64::MAX, u64::MAX / 512, 1 << 55] {
        assert_eq!(read(&mut driver, sector, &[1024]).1, 1, "{sector}");
    }
    assert_eq!(read(&mut driver, 0, &[100]).1, 1);
    let range = [&4096u64.to_le_bytes()[..], &[8, 0, 0, 0, 0, 0, 0, 0]].concat();
    for (kind, data, status) in [(1, vec![9; 512], 1), (11, range.clone(), 1), (13, range, 1)] {
        let (_, answer) = driver.request(0, &[&header(kind, 4096), &data], &[1]);
        assert_eq!(answer, [status], "request {kind}");
    }
    // A flush is nothing to do.
    assert_eq!(driver.request(0, &[&header(4, 0)], &[1]).1, [0]);
    let mut bytes = vec![0; 8192];
    kept.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == pattern(1, 8192));
    driver.write(0x14, 0);
    assert_ne!(
        driver.read(0x10) & 1 << 5,
        0,
        "the guest knows it as read-only"
    );
}

#[test]
fn a_file_that_became_shorter_is_an_error_where_it_lacks_bytes() {
    let layers = files(&[4096, 4096]);
    let cut = layers[0].try_clone().unwrap();
    let mut driver = start(layers);
    cut.set_len(1024).unwrap();
    assert_eq!(read(&mut driver, 2048, &[1024]).1, 0);
    for (sector, len) in [(2048, 2048), (2050, 512), (2050, 3 << 20)] {
        assert_eq!(read(&mut driver, sector, &[len]).1, 1, "{sector}, {len}");
    }
    assert_eq!(read(&mut driver, 8192 + 2048, &[4096]).0, pattern(1, 4096));
}

#[test]
fn files_that_are_no_layers_are_refused() {
    assert_eq!(refusal(Vec::new()), "0 layers: a disk has 1 to 255");
    let many = || (0..256).map(|_| file(b"x")).collect();
    assert_eq!(refusal(many()), "256 layers: a disk has 1 to 255");
    assert!(BlockDevice::of_layers(many().into_iter().skip(1).collect(), "").is_ok());
    let empty = || file(b"");
    let text = refusal(vec![file(b"x"), empty()]);
    assert_eq!(text, "layer 2 is unfit: it is empty");
    let device = File::open("/dev/zero").unwrap();
    let folder = File::open("/").unwrap();
    for other in [device, folder] {
        let text = refusal(vec![other]);
        assert_eq!(text, "layer 1 is unfit: it is no regular file");
    }
    let long = empty();
    long.set_len(256 << 30).unwrap();
    assert!(refusal(vec![long]).ends_with("it is longer than 262143 MiB"));
    let write_only = File::options()
        .append(true)
        .open(tempfile::NamedTempFile::new().unwrap().path());
    let write_only = write_only.unwrap();
    write_only.set_len(512).unwrap();
    assert!(refusal(vec![write_only]).starts_with("layer 1 is unfit: "));
}

#[test]
fn the_table_does_not_depend_on_the_files() {
    let table = |lengths: &[usize]| {
        let mut driver = Driver::start(Box::new(
            BlockDevice::of_layers(files(lengths), "").unwrap(),
        ));
        let end = sectors(&driver);
        let (first, _) = read(&mut driver, 0, &[2048 * 512]);
        let (last, _) = read(&mut driver, end - 33, &[33 * 512]);
        (end, first, last)
    };
    let few = table(&[5000]);
    assert!(few == table(&[6000; 16]));
    assert_eq!(few.0, 16 * (512 << 20) + 33);
    assert!(few != table(&[6000; 17]));
    assert_eq!(table(&[1; 17]), table(&[2; 255]));
    // No two are called the same.
    let names: std::collections::BTreeSet<_> = (0..16)
        .map(|index| few.1[1024 + 16 + 128 * index..][..16].to_vec())
        .collect();
    assert_eq!(names.len(), 16);
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|why| panic!("{program}: {why}: run `cargo xtask setup`"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.is_empty(),
        "{text}{errors}"
    );
    text
}

#[test]
fn gdisk_and_fdisk_find_no_fault_with_the_table() {
    // A layer, more than fit a partition's usual numbers, more than fit a usual table.
    for count in [1, 40, MAX_PARTITIONS] {
        let slots = Slots {
            count: count as u32,
            bytes: 2 << 20,
        };
        let mut driver = of(LayerDisk::in_slots(files(&[4096]), slots).unwrap());
        let disk = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(disk.path(), whole(&mut driver)).unwrap();
        let disk = disk.path().to_str().unwrap();
        let verdict = run("/usr/sbin/sgdisk", &["-v", disk]);
        assert!(verdict.contains("No problems found"), "{verdict}");
        // That partitions end anywhere is all it has to say.
        for doubt in ["doesn't begin", "Warning"] {
            assert!(!verdict.contains(doubt), "{verdict}");
        }
        let verdict = run("/usr/sbin/sfdisk", &["--verify", disk]);
        assert!(verdict.contains("No errors detected"), "{verdict}");
        let found = run("/usr/sbin/sfdisk", &["--list", disk]);
        let partitions = found.lines().filter(|line| line.starts_with(disk));
        assert_eq!(partitions.count(), count, "{found}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_read_is_the_disks_bytes_or_an_error(
        lengths in prop::collection::vec(1usize..(3 << 20), 1..4),
        requests in prop::collection::vec(
            // Not more at once than the driver has memory for.
            (0u64..24_000, prop::collection::vec(1usize..900_000, 1..5)), 1..12),
    ) {
        let mut driver = start(files(&lengths));
        let disk = whole(&mut driver);
        for (sector, mut room) in requests {
            // Mostly whole sectors.
            let sum: usize = room.iter().sum();
            room[0] += sum.next_multiple_of(512) - sum;
            let (from, len) = (sector as usize * 512, sum.next_multiple_of(512));
            let (bytes, status) = read(&mut driver, sector, &room);
            match disk.get(from..from + len) {
                Some(expected) => prop_assert!(status == 0 && bytes == expected),
                None => prop_assert_eq!(status, 1),
            }
        }
    }
}
