//! A GUID partition table (UEFI 2.10 §5.3) over partitions in slots of one length, as bytes.
//!
//! ```text
//! sector 0      1       2 …           1 MiB         slot    + 1 MiB              last
//!        MBR    header  entries       partition 1   ▒▒▒▒▒▒▒▒partition 2 …   entries header
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

/// Which partitions there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots {
    /// How many: 1 to [`MAX_PARTITIONS`].
    pub(super) count: u32,
    /// Bytes from the beginning of one to that of the next: whole MiB, 2 at least.
    pub(super) bytes: u64,
}

impl Slots {
    /// Bytes of a partition.
    pub(super) fn room(self) -> u64 {
        self.bytes.saturating_sub(ALIGNMENT * SECTOR)
    }
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

/// The table of a disk with these slots; `None` when there are none, or too many, or they are too short or longer than
/// any disk. The same slots make the same table.
pub(super) fn table(slots: Slots) -> Option<Table> {
    let count = usize::try_from(slots.count).ok()?;
    let is_whole = slots.bytes.is_multiple_of(ALIGNMENT * SECTOR) && slots.room() > 0;
    if count == 0 || count > MAX_PARTITIONS || !is_whole {
        return None;
    }
    let room = slots.count.next_multiple_of(FEWEST_ENTRIES);
    let entry_sectors = u64::from(room * ENTRY_BYTES) / SECTOR;
    let first_usable = 2 + entry_sectors;
    let slot = slots.bytes / SECTOR;
    let next = slot.checked_mul(u64::from(slots.count))?;
    let mut entries = Vec::new();
    let mut offsets = Vec::new();
    for index in 0..u64::from(slots.count) {
        let first = index * slot + ALIGNMENT;
        let last = (index + 1) * slot - 1;
        entries.extend(LINUX_DATA);
        entries.extend(guid(index + 1));
        entries.extend(first.to_le_bytes());
        entries.extend(last.to_le_bytes());
        // No attributes.
        entries.extend([0; 8]);
        entries.extend(name(&format!("layer {}", index + 1)));
        offsets.push(first.checked_mul(SECTOR)?);
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
        disk: guid(0),
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

/// The GUID of partition `number`, or of the disk with 0: of version 8, whose bytes are of one's own making (RFC 9562
/// §5.8); its first three fields are written little-endian. Only one disk of a machine has such partitions.
fn guid(number: u64) -> Guid {
    let mut guid = *b"atoll layer\0\0\0\0\0";
    guid[12..].copy_from_slice(&(number as u32).to_be_bytes());
    guid[7] = guid[7] & 0x0F | 0x80;
    guid[8] = guid[8] & 0x3F | 0x80;
    guid
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
