//! The first CPU at the kernel's 64-bit entry.
//!
//! Source: boot.rst, "64-bit Boot Protocol": long mode, identity-mapped pages, `__BOOT_CS` 0x10 and `__BOOT_DS` 0x18
//! flat, interrupts off, RSI holds the zero page.

use atoll_cpu_api::{DescriptorTable, Segment, VcpuState};

/// Where the zero page is.
pub(super) const ZERO_PAGE: u64 = 0x7000;
const GDT: u64 = 0x500;
const PAGE_TABLES: u64 = 0x9000;
/// Below the page tables, above the zero page.
const STACK: u64 = 0x8FF0;

/// Flat code (64-bit) and data at 0x10 and 0x18.
const DESCRIPTORS: [u64; 4] = [0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF];

/// Descriptor and page tables, and where they go: 4 GiB identity-mapped by 2 MiB pages.
pub(super) fn tables() -> Vec<(u64, Vec<u8>)> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 0x80;
    let bytes = |entries: &[u64]| {
        entries
            .iter()
            .flat_map(|entry| entry.to_le_bytes())
            .collect()
    };
    let directories = PAGE_TABLES + 0x2000;
    let top = [(PAGE_TABLES + 0x1000) | PRESENT_WRITABLE];
    let pointers = [0, 1, 2, 3].map(|gib| (directories + gib * 0x1000) | PRESENT_WRITABLE);
    let large: Vec<u64> = (0..4 * 512)
        .map(|page: u64| page << 21 | LARGE | PRESENT_WRITABLE)
        .collect();
    vec![
        (GDT, bytes(&DESCRIPTORS)),
        (PAGE_TABLES, bytes(&top)),
        (PAGE_TABLES + 0x1000, bytes(&pointers)),
        (directories, bytes(&large)),
    ]
}

/// The state at `entry`.
pub(super) fn state(entry: u64) -> VcpuState {
    let flat = |selector, attributes| Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        attributes,
    };
    let data = flat(0x18, 0xC093);
    let mut state = VcpuState {
        rip: entry,
        cr0: 0x8000_0011,
        cr3: PAGE_TABLES,
        cr4: 0x20,
        // Long mode, enabled and active.
        efer: 0x500,
        gdtr: DescriptorTable {
            base: GDT,
            limit: 8 * 4 - 1,
        },
        idtr: DescriptorTable { base: 0, limit: 0 },
        ..VcpuState::default()
    };
    state.registers[4] = STACK;
    state.registers[6] = ZERO_PAGE;
    state.segments.cs = flat(0x10, 0xA09B);
    state.segments.ds = data;
    state.segments.es = data;
    state.segments.ss = data;
    state.segments.fs = data;
    state.segments.gs = data;
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_gibibytes_are_mapped_to_themselves() {
        let tables = tables();
        let entry = |at: u64| {
            let inside = |(start, bytes): &&(u64, Vec<u8>)| {
                (*start..*start + bytes.len() as u64).contains(&at)
            };
            let (start, bytes) = tables.iter().find(inside).unwrap();
            let from = usize::try_from(at - start).unwrap();
            u64::from_le_bytes(bytes[from..from + 8].try_into().unwrap())
        };
        for address in [0u64, 0x20_0000, 0x4000_0000, 0xFFE0_0000] {
            let mut table = PAGE_TABLES;
            for shift in [39, 30] {
                let found = entry(table + 8 * (address >> shift & 511));
                assert_eq!(found & 0xFFF, 3);
                table = found & !0xFFF;
            }
            let page = entry(table + 8 * (address >> 21 & 511));
            assert_eq!(page, address | 0x83);
        }
        let end = |(at, bytes): &(u64, Vec<u8>)| at + bytes.len() as u64;
        assert!(tables.iter().map(end).max().unwrap() < 0x2_0000);
    }
}
