//! Just enough AML to name devices and their resources.
//!
//! Source: ACPI 6.5 §20.2 (encoding), §6.4 (resource descriptors).

/// `Name (NAME, value)`; `value` is an encoded object.
pub(super) fn name(name: [u8; 4], value: &[u8]) -> Vec<u8> {
    [&[0x08], &name[..], value].concat()
}

/// `Device (NAME) { content }`.
pub(super) fn device(name: [u8; 4], content: &[u8]) -> Vec<u8> {
    [&[0x5B, 0x82], &package(&[&name[..], content].concat())[..]].concat()
}

/// `Scope (\NAME) { content }`.
pub(super) fn scope(name: [u8; 4], content: &[u8]) -> Vec<u8> {
    [
        &[0x10],
        &package(&[&b"\\"[..], &name, content].concat())[..],
    ]
    .concat()
}

/// `Package () { elements }`, of small integers.
pub(super) fn small_integers(elements: &[u8]) -> Vec<u8> {
    let mut content = vec![elements.len() as u8];
    for &element in elements {
        content.extend(integer(u32::from(element)));
    }
    [&[0x12], &package(&content)[..]].concat()
}

/// An integer, in the shortest form.
pub(super) fn integer(value: u32) -> Vec<u8> {
    let bytes = value.to_le_bytes();
    match value {
        0 => vec![0x00],
        1 => vec![0x01],
        2..=0xFF => vec![0x0A, bytes[0]],
        0x100..=0xFFFF => vec![0x0B, bytes[0], bytes[1]],
        _ => [&[0x0C], &bytes[..]].concat(),
    }
}

/// A string without NUL.
pub(super) fn string(text: &str) -> Vec<u8> {
    [&[0x0D], text.as_bytes(), &[0]].concat()
}

/// `EisaId (…)` of a compressed id like `PNP0501` (three capital letters, four hexadecimal digits).
pub(super) fn eisa_id(letters: [u8; 3], number: u16) -> Vec<u8> {
    let [a, b, c] = letters.map(|letter| u16::from(letter & 0x1F));
    let vendor = (a << 10 | b << 5 | c).to_be_bytes();
    [&[0x0C], &vendor[..], &number.to_be_bytes()].concat()
}

/// `ResourceTemplate () { descriptors }`.
pub(super) fn resources(descriptors: &[u8]) -> Vec<u8> {
    // The end tag's checksum may be 0: not computed.
    let bytes = [descriptors, &[0x79, 0]].concat();
    let size = integer(bytes.len() as u32);
    [&[0x11], &package(&[&size[..], &bytes].concat())[..]].concat()
}

/// `IO (Decode16, port, port, 1, len)`.
pub(super) fn ports(first: u16, len: u8) -> Vec<u8> {
    let first = first.to_le_bytes();
    [&[0x47, 1], &first[..], &first, &[1, len]].concat()
}

/// `IRQNoFlags () {irq}`: edge, active high, exclusive, as on an ISA bus; `irq` is 0 to 15.
pub(super) fn isa_interrupt(irq: u8) -> Vec<u8> {
    let mask = (1u16 << (irq & 15)).to_le_bytes();
    vec![0x22, mask[0], mask[1]]
}

/// `Memory32Fixed (ReadWrite, base, len)`.
pub(super) fn memory(base: u32, len: u32) -> Vec<u8> {
    let (base, len) = (base.to_le_bytes(), len.to_le_bytes());
    [&[0x86, 9, 0, 1], &base[..], &len].concat()
}

/// `Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) {interrupt}`.
pub(super) fn edge_interrupt(interrupt: u32) -> Vec<u8> {
    [&[0x89, 6, 0, 3, 1], &interrupt.to_le_bytes()[..]].concat()
}

/// `content` behind a package length that counts itself (§20.2.4); content is under 1 MiB.
fn package(content: &[u8]) -> Vec<u8> {
    let len = content.len();
    let prefix = match len {
        0..=0x3E => vec![(len + 1) as u8],
        0x3F..=0xFFD => {
            let total = len + 2;
            vec![0x40 | (total & 0xF) as u8, (total >> 4) as u8]
        }
        _ => {
            let total = len + 3;
            let low = 0x80 | (total & 0xF) as u8;
            vec![low, (total >> 4) as u8, (total >> 12) as u8]
        }
    };
    [&prefix[..], content].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_lengths_count_themselves() {
        for (len, prefix) in [
            (0, &[0x01][..]),
            (0x3E, &[0x3F]),
            (0x3F, &[0x41, 0x04]),
            (0xFFD, &[0x4F, 0xFF]),
            (0xFFE, &[0x81, 0x00, 0x01]),
        ] {
            let package = package(&vec![0xAA; len]);
            assert!(package.starts_with(prefix), "{len:#x}");
            assert_eq!(package.len(), len + prefix.len());
        }
    }

    #[test]
    fn objects_are_encoded_as_the_compiler_does() {
        assert_eq!(eisa_id(*b"PNP", 0x0501), [0x0C, 0x41, 0xD0, 0x05, 0x01]);
        assert_eq!(integer(0x3F8), [0x0B, 0xF8, 0x03]);
        assert_eq!(integer(0xD000_0000), [0x0C, 0, 0, 0, 0xD0]);
        assert_eq!(string("A"), [0x0D, b'A', 0]);
        assert_eq!(
            name(*b"_S5_", &small_integers(&[5, 0])),
            [0x08, b'_', b'S', b'5', b'_', 0x12, 0x05, 2, 0x0A, 5, 0]
        );
        assert_eq!(
            resources(&isa_interrupt(4)),
            [0x11, 0x08, 0x0A, 5, 0x22, 0x10, 0x00, 0x79, 0]
        );
        assert_eq!(
            device(*b"COM1", &[0]),
            [0x5B, 0x82, 6, b'C', b'O', b'M', b'1', 0]
        );
    }
}
