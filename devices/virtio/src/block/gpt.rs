//! A GUID partition table (UEFI 2.10 §5.3) over partitions of given lengths, as bytes.
//!
//! ```text
//! sector 0      1       2 …                 MiB boundaries …                        last
//!        MBR    header  entries             partition 1 ▒ partition 2 ▒ …   entries header
//!        └─────────── start ──────────┘                                     └──── end ────┘
//! ```

use super::SECTOR;

/// The most partitions Linux looks at (`DISK_MAX_PARTS`, which counts the whole disk too).
pub const MAX_PARTITIONS: usize = 255;

const HEADER_BYTES: u32 = 92;
const ENTRY_BYTES: u32 = 128;
/// The fewest entries a table has room for (§5.3.2: 16 KiB).
const FEWEST_ENTRIES: u32 = 128;
/// Where partitions begin: at multiples of this many sectors, 1 MiB.
const ALIGNMENT: u64 = 2048;
/// "Linux filesystem data", 0FC63DAF-8483-4772-8E79-3D69D8477DE4, as it is written.
const LINUX_DATA: [u8; 16] = [
    0xAF, 0x3D, 0xC6, 0x0F, 0x83, 0x84, 0x72, 0x47, 0x8E, 0x79, 0x3D, 0x69, 0xD8, 0x47, 0x7D, 0xE4,
];

/// A GUID, as it is written.
pub(super) type Guid = [u8; 16];

/// One partition to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Partition {
    /// Its length: more than 0; the last sector may be one in part.
    pub(super) bytes: u64,
    /// Its own, that no other partition has.
    pub(super) guid: Guid,
}

/// The table, and where everything lies.
#[derive(Debug)]
pub(super) struct Table {
    /// The disk's first bytes.
    pub(super) start: Vec<u8>,
    /// The byte at which each partition begins.
    pub(super) offsets: Vec<u64>,
    /// The byte at which the disk's last bytes begin.
    pub(super) end_at: u64,
    /// The disk's last bytes.
    pub(super) end: Vec<u8>,
}

/// The table of a disk named `disk` with these partitions in this order; `None` when there are none, or too many, or one
/// has no byte, or they are longer than any disk.
pub(super) fn table(disk: Guid, partitions: &[Partition]) -> Option<Table> {
    if partitions.is_empty() || partitions.len() > MAX_PARTITIONS {
        return None;
    }
    let room = (partitions.len() as u32).next_multiple_of(FEWEST_ENTRIES);
    let entry_sectors = u64::from(room * ENTRY_BYTES) / SECTOR;
    let first_usable = 2 + entry_sectors;
    let mut entries = Vec::new();
    let mut offsets = Vec::new();
    let mut next = first_usable;
    for (index, partition) in partitions.iter().enumerate() {
        let first = next.checked_next_multiple_of(ALIGNMENT)?;
        let sectors = partition.bytes.div_ceil(SECTOR);
        let last = first.checked_add(sectors.checked_sub(1)?)?;
        entries.extend(LINUX_DATA);
        entries.extend(partition.guid);
        entries.extend(first.to_le_bytes());
        entries.extend(last.to_le_bytes());
        // No attributes.
        entries.extend([0; 8]);
        entries.extend(name(&format!("layer {}", index + 1)));
        offsets.push(first.checked_mul(SECTOR)?);
        next = last.checked_add(1)?;
    }
    entries.resize((room * ENTRY_BYTES) as usize, 0);
    let last_usable = next - 1;
    let end_at = next.checked_mul(SECTOR)?;
    let last_sector = next.checked_add(entry_sectors)?;
    // What is of the disk must be of its bytes, too.
    last_sector.checked_add(1)?.checked_mul(SECTOR)?;
    let header = |own, other, entries_at| Header {
        own,
        other,
        usable: (first_usable, last_usable),
        disk,
        entries_at,
        room,
        checksum: crc32fast::hash(&entries),
    };
    let start = [
        &protective_record(last_sector)[..],
        &header(1, last_sector, 2).bytes(),
        &entries,
    ];
    let end = [&entries[..], &header(last_sector, 1, next).bytes()];
    Some(Table {
        start: start.concat(),
        offsets,
        end_at,
        end: end.concat(),
    })
}

/// A partition's name: at most 36 units of UTF-16.
fn name(text: &str) -> [u8; 72] {
    let mut name = [0; 72];
    for (place, unit) in name.chunks_exact_mut(2).zip(text.encode_utf16()) {
        place.copy_from_slice(&unit.to_le_bytes());
    }
    name
}

/// The master boot record that keeps older programs off (§5.2.3): one partition of type EE over everything.
fn protective_record(last_sector: u64) -> [u8; SECTOR as usize] {
    let mut record = [0; SECTOR as usize];
    // From sector 1 (head 0, sector 2) to where cylinders do not reach.
    record[446..454].copy_from_slice(&[0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF]);
    record[454..458].copy_from_slice(&1u32.to_le_bytes());
    let sectors = u32::try_from(last_sector).unwrap_or(u32::MAX);
    record[458..462].copy_from_slice(&sectors.to_le_bytes());
    record[510..].copy_from_slice(&[0x55, 0xAA]);
    record
}

/// What differs between the two headers, and what they say.
struct Header {
    own: u64,
    other: u64,
    usable: (u64, u64),
    disk: Guid,
    entries_at: u64,
    room: u32,
    checksum: u32,
}

impl Header {
    fn bytes(&self) -> [u8; SECTOR as usize] {
        let mut fields = Vec::with_capacity(HEADER_BYTES as usize);
        fields.extend(b"EFI PART");
        // Revision 1.0.
        fields.extend(0x0001_0000u32.to_le_bytes());
        fields.extend(HEADER_BYTES.to_le_bytes());
        // Its own checksum, made over zeros here; and a reserved field.
        fields.extend([0; 8]);
        for sector in [self.own, self.other, self.usable.0, self.usable.1] {
            fields.extend(sector.to_le_bytes());
        }
        fields.extend(self.disk);
        fields.extend(self.entries_at.to_le_bytes());
        fields.extend(self.room.to_le_bytes());
        fields.extend(ENTRY_BYTES.to_le_bytes());
        fields.extend(self.checksum.to_le_bytes());
        let checksum = crc32fast::hash(&fields);
        fields[16..20].copy_from_slice(&checksum.to_le_bytes());
        let mut sector = [0; SECTOR as usize];
        sector[..fields.len()].copy_from_slice(&fields);
        sector
    }
}
