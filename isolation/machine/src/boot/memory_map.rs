//! What is where in the guest's physical memory, as firmware would tell.
//!
//! Source: ACPI 6.5 table 15.4 for the types.

use atoll_memory::Region;

use super::{ACPI_ADDRESS, ACPI_BYTES};

const USABLE: u32 = 1;
const RESERVED: u32 = 2;
/// First byte after the memory under 640 KiB; the last KiB is the extended BIOS data area of old.
const LOW_END: u64 = 0x9_FC00;
const HIGH_START: u64 = 0x10_0000;

/// The map of `memory`, whose first region begins at 0: start, end, type.
pub(super) fn memory_map(memory: &[Region]) -> Vec<(u64, u64, u32)> {
    let mut map = vec![
        (0, LOW_END, USABLE),
        (LOW_END, 0xA_0000, RESERVED),
        (ACPI_ADDRESS, ACPI_ADDRESS + ACPI_BYTES, RESERVED),
    ];
    for region in memory {
        let start = region.address.max(HIGH_START);
        let end = region.address + region.len;
        if start < end {
            map.push((start, end, USABLE));
        }
    }
    map
}
