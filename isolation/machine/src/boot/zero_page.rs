//! The zero page, `struct boot_params`.
//!
//! Source: Linux Documentation/arch/x86/zero-page.rst.

use atoll_memory::Region;

use super::ACPI_ADDRESS;
use super::memory_map::memory_map;
use crate::kernel::SetupHeader;

/// What the zero page tells.
pub(super) struct Parameters<'a> {
    /// The kernel's own header.
    pub(super) header: &'a SetupHeader,
    /// Where the command line is.
    pub(super) command_line: u64,
    /// Where the initial ramdisk is, and its bytes; both below 4 GiB.
    pub(super) initrd: Option<(u64, u64)>,
    /// Guest memory; the first range begins at 0.
    pub(super) memory: &'a [Region],
}

impl Parameters<'_> {
    /// The page.
    pub(super) fn page(&self) -> [u8; 4096] {
        let mut page = [0; 4096];
        let header = self.header.bytes();
        page[SetupHeader::OFFSET..][..header.len()].copy_from_slice(header);
        let mut put = |at: usize, value: &[u8]| page[at..at + value.len()].copy_from_slice(value);
        put(0x070, &ACPI_ADDRESS.to_le_bytes());
        // A boot loader without a number of its own.
        put(0x210, &[0xFF]);
        let low = |value: u64| (value as u32).to_le_bytes();
        if let Some((address, len)) = self.initrd {
            put(0x218, &low(address));
            put(0x21C, &low(len));
        }
        put(0x228, &low(self.command_line));
        let map = memory_map(self.memory);
        put(0x1E8, &[map.len() as u8]);
        for (number, (start, end, kind)) in map.into_iter().enumerate() {
            let at = 0x2D0 + number * 20;
            put(at, &start.to_le_bytes());
            put(at + 8, &(end - start).to_le_bytes());
            put(at + 16, &kind.to_le_bytes());
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_leaves_out_the_hole_and_reserves_the_tables() {
        let memory = [
            Region {
                address: 0,
                len: 0xC000_0000,
                offset: 0,
            },
            Region {
                address: 1 << 32,
                len: 1 << 30,
                offset: 0xC000_0000,
            },
        ];
        let parameters = Parameters {
            header: &SetupHeader::of_plain_elf(),
            command_line: 0x2_0000,
            initrd: None,
            memory: &memory,
        };
        let page = parameters.page();
        assert_eq!(page[0x1E8], 5);
        let entry = |number: usize| {
            let at = 0x2D0 + number * 20;
            let long = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
            (long(at), long(at + 8), page[at + 16])
        };
        assert_eq!(entry(0), (0, 0x9_FC00, 1));
        assert_eq!(entry(2), (0xE_0000, 0x2_0000, 2));
        assert_eq!(entry(3), (0x10_0000, 0xC000_0000 - 0x10_0000, 1));
        assert_eq!(entry(4), (1 << 32, 1 << 30, 1));
        assert_eq!(page[0x1FE..0x200], [0x55, 0xAA]);
    }
}
