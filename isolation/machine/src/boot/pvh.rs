//! The other entry: protected mode without paging, and `struct hvm_start_info`.
//!
//! Source: Xen docs/misc/pvh.pandoc; public headers arch-x86/hvm/start_info.h, version 1.

use atoll_cpu_api::{DescriptorTable, Segment, VcpuState};
use atoll_memory::Region;

use super::ACPI_ADDRESS;
use super::memory_map::memory_map;

/// Where the structure is; what it points to follows.
pub(super) const START_INFO: u64 = 0x7000;
const MODULES: u64 = START_INFO + 0x40;
const MEMORY_MAP: u64 = START_INFO + 0x80;

const MAGIC: u32 = 0x336E_C578;
const VERSION: u32 = 1;

/// The structure for a kernel with this command line, ramdisk (address and bytes) and memory.
pub(super) fn start_info(
    command_line: u64,
    initrd: Option<(u64, u64)>,
    memory: &[Region],
) -> Vec<u8> {
    let map = memory_map(memory);
    let mut info = Vec::new();
    for number in [MAGIC, VERSION, 0, u32::from(initrd.is_some())] {
        info.extend(number.to_le_bytes());
    }
    let modules = initrd.map_or(0, |_| MODULES);
    for address in [modules, command_line, ACPI_ADDRESS, MEMORY_MAP] {
        info.extend(address.to_le_bytes());
    }
    info.extend((map.len() as u32).to_le_bytes());
    if let Some((address, bytes)) = initrd {
        info.resize((MODULES - START_INFO) as usize, 0);
        for number in [address, bytes, 0, 0] {
            info.extend(number.to_le_bytes());
        }
    }
    info.resize((MEMORY_MAP - START_INFO) as usize, 0);
    for (start, end, kind) in map {
        for number in [start, end - start, kind.into()] {
            info.extend(number.to_le_bytes());
        }
    }
    info
}

/// The state at `entry`: flat segments, interrupts and paging off, EBX holds the structure's address.
pub(super) fn state(entry: u64) -> VcpuState {
    let flat = |attributes| Segment {
        selector: 0,
        base: 0,
        limit: u32::MAX,
        attributes,
    };
    let data = flat(0xC093);
    let mut state = VcpuState {
        rip: entry,
        cr0: 0x11,
        idtr: DescriptorTable { base: 0, limit: 0 },
        ..VcpuState::default()
    };
    state.registers[3] = START_INFO;
    state.segments.cs = flat(0xC09B);
    state.segments.ds = data;
    state.segments.es = data;
    state.segments.ss = data;
    state.segments.fs = data;
    state.segments.gs = data;
    state.segments.tr = Segment {
        selector: 0,
        base: 0,
        limit: 0x67,
        attributes: 0x8B,
    };
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_points_to_is_there() {
        let memory = [Region {
            address: 0,
            len: 0x800_0000,
            offset: 0,
        }];
        let info = start_info(0x2_0000, Some((0x700_0000, 99)), &memory);
        let at = |address: u64| {
            let from = usize::try_from(address - START_INFO).unwrap();
            u64::from_le_bytes(info[from..from + 8].try_into().unwrap())
        };
        assert_eq!(at(START_INFO), 1 << 32 | u64::from(MAGIC));
        assert_eq!(at(START_INFO + 8), 1 << 32, "one module");
        assert_eq!(at(START_INFO + 24), 0x2_0000);
        assert_eq!(at(START_INFO + 32), ACPI_ADDRESS);
        let (module, map) = (at(START_INFO + 16), at(START_INFO + 40));
        assert_eq!((at(module), at(module + 8)), (0x700_0000, 99));
        assert_eq!(at(START_INFO + 48), 4);
        assert_eq!((at(map), at(map + 8), at(map + 16)), (0, 0x9_FC00, 1));
        assert_eq!(at(map + 3 * 24 + 8), 0x7F0_0000);
        assert!(info.len() <= 0x1000);
        let none = start_info(0x2_0000, None, &memory);
        assert_eq!(none[12..24], [0; 12]);
    }
}
