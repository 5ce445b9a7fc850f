//! RSDP, XSDT, FADT, MADT and DSDT.

use super::aml;
use crate::apic::APIC_BASE;
use crate::ioapic::IOAPIC_BASE;
use crate::power::{POWER_PORT, RESET_PORT, RESET_VALUE, S5_TYPE};
use crate::rtc::CENTURY;
use crate::serial::{COM1_PIN, COM1_PORT};

const HEADER_BYTES: usize = 36;
const FADT_BYTES: usize = 276;

/// A virtio device over memory-mapped I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioDevice {
    /// Guest physical address of its registers, below 4 GiB.
    pub base: u32,
    /// Their bytes.
    pub len: u32,
    /// The I/O APIC pin it pulses.
    pub pin: u8,
}

/// What the tables tell of.
#[derive(Clone, Debug)]
pub struct Board<'a> {
    /// Processors; their APIC ids count from 0.
    pub processors: u8,
    /// virtio devices, at most 4096.
    pub devices: &'a [MmioDevice],
}

/// The tables as they lie in guest memory from `address` on, the RSDP first; `address` is a multiple of 16.
pub fn tables(board: &Board<'_>, address: u64) -> Vec<u8> {
    let mut bytes = vec![0; 36];
    let mut append = |table: Vec<u8>| {
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        let at = address + bytes.len() as u64;
        bytes.extend(table);
        at
    };
    let dsdt = append(dsdt(board.devices));
    let fadt = append(fadt(dsdt));
    let madt = append(madt(board.processors));
    let entries = [fadt, madt].map(u64::to_le_bytes).concat();
    let xsdt = append(table(*b"XSDT", 1, &entries));
    bytes[..36].copy_from_slice(&rsdp(xsdt));
    bytes
}

/// §5.2.5.3.
fn rsdp(xsdt: u64) -> [u8; 36] {
    let mut rsdp = [0; 36];
    rsdp[..8].copy_from_slice(b"RSD PTR ");
    rsdp[9..15].copy_from_slice(b"ATOLL ");
    rsdp[15] = 2;
    rsdp[20] = 36;
    rsdp[24..32].copy_from_slice(&xsdt.to_le_bytes());
    rsdp[8] = checksum(&rsdp[..20]);
    rsdp[32] = checksum(&rsdp);
    rsdp
}

/// A table with its header (§5.2.6).
fn table(signature: [u8; 4], revision: u8, content: &[u8]) -> Vec<u8> {
    let len = (HEADER_BYTES + content.len()) as u32;
    let mut table = Vec::with_capacity(HEADER_BYTES + content.len());
    table.extend(signature);
    table.extend(len.to_le_bytes());
    table.extend([revision, 0]);
    table.extend(b"ATOLL ");
    table.extend(b"ATOLLVMM");
    table.extend(1u32.to_le_bytes());
    table.extend(b"ATOL");
    table.extend(1u32.to_le_bytes());
    table.extend(content);
    table[9] = checksum(&table);
    table
}

/// §5.2.9, of a hardware-reduced board.
fn fadt(dsdt: u64) -> Vec<u8> {
    // WBINVD works, no fixed power or sleep button, there is a reset register, hardware-reduced.
    const FLAGS: u32 = 1 | 1 << 4 | 1 << 5 | 1 << 10 | 1 << 20;
    // Devices on an ISA bus, no VGA to probe; the keyboard controller's bit is clear, so is "no CMOS clock".
    const BOOT_ARCHITECTURE: u16 = 1 | 1 << 2;
    let mut fadt = vec![0; FADT_BYTES - HEADER_BYTES];
    let mut put = |offset: usize, bytes: &[u8]| {
        let start = offset - HEADER_BYTES;
        fadt[start..start + bytes.len()].copy_from_slice(bytes);
    };
    put(40, &(dsdt as u32).to_le_bytes());
    put(108, &[CENTURY]);
    put(109, &BOOT_ARCHITECTURE.to_le_bytes());
    put(112, &FLAGS.to_le_bytes());
    put(116, &port_register(RESET_PORT));
    put(128, &[RESET_VALUE]);
    put(131, &[5]);
    put(140, &dsdt.to_le_bytes());
    put(244, &port_register(POWER_PORT));
    put(256, &port_register(POWER_PORT + 1));
    put(268, b"ATOLLVMM");
    table(*b"FACP", 6, &fadt)
}

/// A generic address structure of a byte-wide I/O port (§5.2.3.2).
fn port_register(port: u16) -> [u8; 12] {
    let [low, high] = port.to_le_bytes();
    [1, 8, 0, 1, low, high, 0, 0, 0, 0, 0, 0]
}

/// §5.2.12.
fn madt(processors: u8) -> Vec<u8> {
    let mut content = Vec::new();
    content.extend((APIC_BASE as u32).to_le_bytes());
    // No 8259 beside it.
    content.extend(0u32.to_le_bytes());
    for id in 0..processors {
        content.extend([0, 8, id, id, 1, 0, 0, 0]);
    }
    content.extend([1, 12, 0, 0]);
    content.extend((IOAPIC_BASE as u32).to_le_bytes());
    content.extend(0u32.to_le_bytes());
    // Every processor's LINT1 is the NMI line.
    content.extend([4, 6, 0xFF, 0, 0, 1]);
    table(*b"APIC", 5, &content)
}

/// The devices and the sleep type that powers off.
fn dsdt(devices: &[MmioDevice]) -> Vec<u8> {
    let serial = [aml::ports(COM1_PORT, 8), aml::isa_interrupt(COM1_PIN)].concat();
    let serial = [
        aml::name(*b"_HID", &aml::eisa_id(*b"PNP", 0x0501)),
        aml::name(*b"_UID", &aml::integer(0)),
        aml::name(*b"_CRS", &aml::resources(&serial)),
    ]
    .concat();
    let mut content = aml::device(*b"COM1", &serial);
    for (number, device) in (0u32..).zip(devices) {
        content.extend(virtio(number, device));
    }
    let mut content = aml::scope(*b"_SB_", &content);
    let sleep = aml::small_integers(&[S5_TYPE, 0, 0, 0]);
    content.extend(aml::name(*b"_S5_", &sleep));
    table(*b"DSDT", 2, &content)
}

/// A device that Linux's virtio_mmio driver takes (`LNRO0005`).
fn virtio(number: u32, device: &MmioDevice) -> Vec<u8> {
    let digit = |shift: u32| b"0123456789ABCDEF"[(number >> shift & 0xF) as usize];
    let name = [b'V', digit(8), digit(4), digit(0)];
    let resources = [
        aml::memory(device.base, device.len),
        aml::edge_interrupt(u32::from(device.pin)),
    ]
    .concat();
    let content = [
        aml::name(*b"_HID", &aml::string("LNRO0005")),
        aml::name(*b"_UID", &aml::integer(number)),
        aml::name(*b"_CCA", &aml::integer(1)),
        aml::name(*b"_CRS", &aml::resources(&resources)),
    ]
    .concat();
    aml::device(name, &content)
}

/// The byte that makes the sum of all bytes 0.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0, |sum: u8, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: u64 = 0xE_0000;

    fn board(processors: u8, count: u8) -> Vec<u8> {
        let devices: Vec<_> = (0..count)
            .map(|number| MmioDevice {
                base: 0xD000_0000 + u32::from(number) * 0x1000,
                len: 0x1000,
                pin: 5 + number,
            })
            .collect();
        let board = Board {
            processors,
            devices: &devices,
        };
        tables(&board, ADDRESS)
    }

    /// The table at guest physical `at`, checked.
    fn table_at(bytes: &[u8], at: u64) -> &[u8] {
        let start = (at - ADDRESS) as usize;
        let len = u32::from_le_bytes(bytes[start + 4..start + 8].try_into().unwrap());
        let table = &bytes[start..start + len as usize];
        assert_eq!(checksum(table), 0);
        table
    }

    fn pointer(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn pointers_lead_from_the_rsdp_to_every_table() {
        for count in [0, 1, 19] {
            let bytes = board(3, count);
            assert_eq!(checksum(&bytes[..20]), 0);
            assert_eq!(checksum(&bytes[..36]), 0);
            let xsdt = table_at(&bytes, pointer(&bytes, 24));
            assert_eq!((&xsdt[..4], xsdt.len()), (&b"XSDT"[..], 52));
            let fadt = table_at(&bytes, pointer(xsdt, 36));
            assert_eq!((&fadt[..4], fadt.len()), (&b"FACP"[..], 276));
            let madt = table_at(&bytes, pointer(xsdt, 44));
            assert_eq!(madt.len(), 44 + 3 * 8 + 12 + 6);
            assert_eq!(&madt[60..68], [0, 8, 2, 2, 1, 0, 0, 0]);
            let dsdt = table_at(&bytes, pointer(fadt, 140));
            assert_eq!(&dsdt[..4], b"DSDT");
            assert_eq!(u64::from(fadt[40]), pointer(fadt, 140) & 0xFF);
        }
    }

    #[test]
    fn the_fadt_has_its_fields_where_the_specification_has_them() {
        let fadt = fadt(0x1234);
        assert_eq!(fadt[112..116], (1u32 << 20 | 1 << 10 | 0x31).to_le_bytes());
        assert_eq!(fadt[116..128], [1, 8, 0, 1, 0xF9, 0x0C, 0, 0, 0, 0, 0, 0]);
        assert_eq!(fadt[244..256], [1, 8, 0, 1, 0x00, 0x06, 0, 0, 0, 0, 0, 0]);
        assert_eq!(fadt[256..260], [1, 8, 0, 1]);
        assert_eq!(fadt[260], 1);
        assert_eq!((fadt[8], fadt[131], fadt[108]), (6, 5, 0x32));
    }

    #[test]
    fn one_device_is_encoded_byte_by_byte() {
        let device = MmioDevice {
            base: 0xD000_1000,
            len: 0x1000,
            pin: 6,
        };
        let mut expected = vec![0x5B, 0x82, 0x41, 0x04];
        expected.extend(b"V001\x08_HID\x0DLNRO0005\0\x08_UID\x01\x08_CCA\x01\x08_CRS");
        expected.extend([0x11, 0x1A, 0x0A, 0x17, 0x86, 9, 0, 1]);
        expected.extend([0, 0x10, 0, 0xD0, 0, 0x10, 0, 0]);
        expected.extend([0x89, 6, 0, 3, 1, 6, 0, 0, 0, 0x79, 0]);
        assert_eq!(virtio(1, &device), expected);
    }

    /// The judge is `iasl -d` by hand: `ATOLL_DSDT=/tmp/dsdt.aml cargo test -p atoll-platform dsdt_for`.
    #[test]
    fn dsdt_for_a_look_from_outside() {
        let bytes = board(1, 4);
        let xsdt = pointer(&bytes, 24);
        let fadt = pointer(table_at(&bytes, xsdt), 36);
        let dsdt = table_at(&bytes, pointer(table_at(&bytes, fadt), 140));
        if let Some(path) = std::env::var_os("ATOLL_DSDT") {
            std::fs::write(path, dsdt).unwrap();
        }
        assert!(
            dsdt.windows(8)
                .filter(|window| window == b"LNRO0005")
                .count()
                == 4
        );
    }
}
