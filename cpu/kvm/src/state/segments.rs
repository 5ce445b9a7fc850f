//! Segment registers and descriptor tables.
//!
//! The kernel takes a descriptor's attributes apart; [`Segment::attributes`] keeps bits 40 to 55 of it together.

use atoll_cpu_api::{DescriptorTable, Segment, Segments};
use kvm_bindings::{kvm_dtable, kvm_segment, kvm_sregs};

/// The segment registers in `sregs`.
pub(super) fn read(sregs: &kvm_sregs) -> Segments {
    Segments {
        es: segment(&sregs.es),
        cs: segment(&sregs.cs),
        ss: segment(&sregs.ss),
        ds: segment(&sregs.ds),
        fs: segment(&sregs.fs),
        gs: segment(&sregs.gs),
        ldtr: segment(&sregs.ldt),
        tr: segment(&sregs.tr),
    }
}

/// Special registers of which only the segments are set.
pub(super) fn write(segments: &Segments) -> kvm_sregs {
    kvm_sregs {
        es: kvm_segment(&segments.es),
        cs: kvm_segment(&segments.cs),
        ss: kvm_segment(&segments.ss),
        ds: kvm_segment(&segments.ds),
        fs: kvm_segment(&segments.fs),
        gs: kvm_segment(&segments.gs),
        ldt: kvm_segment(&segments.ldtr),
        tr: kvm_segment(&segments.tr),
        ..kvm_sregs::default()
    }
}

pub(super) fn table(table: &kvm_dtable) -> DescriptorTable {
    DescriptorTable {
        base: table.base,
        limit: table.limit,
    }
}

pub(super) fn kvm_table(table: DescriptorTable) -> kvm_dtable {
    kvm_dtable {
        base: table.base,
        limit: table.limit,
        ..kvm_dtable::default()
    }
}

fn segment(segment: &kvm_segment) -> Segment {
    let bit = |value: u8, bit: u16| u16::from(value & 1) << bit;
    let attributes = u16::from(segment.type_ & 0xF)
        | bit(segment.s, 4)
        | u16::from(segment.dpl & 3) << 5
        | bit(segment.present, 7)
        | bit(segment.avl, 12)
        | bit(segment.l, 13)
        | bit(segment.db, 14)
        | bit(segment.g, 15);
    Segment {
        selector: segment.selector,
        base: segment.base,
        limit: segment.limit,
        attributes: if segment.unusable == 0 { attributes } else { 0 },
    }
}

fn kvm_segment(segment: &Segment) -> kvm_segment {
    let field =
        |shift: u16, mask: u16| u8::try_from(segment.attributes >> shift & mask).unwrap_or(u8::MAX);
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: field(0, 0xF),
        present: field(7, 1),
        dpl: field(5, 3),
        db: field(14, 1),
        s: field(4, 1),
        l: field(13, 1),
        g: field(15, 1),
        avl: field(12, 1),
        unusable: (segment.attributes & 1 << 7 == 0).into(),
        padding: 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_usable_segment_survives_both_ways(
            selector: u16, base: u64, limit: u32, attributes in 0u16..=0xFFFF,
        ) {
            // Bits 8 to 11 are the limit's.
            let attributes = attributes & 0xF0FF | 1 << 7;
            let before = Segment { selector, base, limit, attributes };
            prop_assert_eq!(segment(&kvm_segment(&before)), before);
        }
    }

    #[test]
    fn flat_code_of_64_bit_mode_has_the_bits_of_its_descriptor() {
        let code = Segment {
            selector: 8,
            base: 0,
            limit: u32::MAX,
            attributes: 0xA09B,
        };
        let kvm = kvm_segment(&code);
        assert_eq!((kvm.type_, kvm.s, kvm.dpl, kvm.present), (0xB, 1, 0, 1));
        assert_eq!(
            (kvm.avl, kvm.l, kvm.db, kvm.g, kvm.unusable),
            (0, 1, 0, 1, 0)
        );
    }

    #[test]
    fn no_attributes_are_unusable() {
        let kvm = kvm_segment(&Segment::default());
        assert_eq!((kvm.unusable, kvm.present), (1, 0));
        let stale = kvm_segment { type_: 1, ..kvm };
        assert_eq!(segment(&stale).attributes, 0);
    }
}
