//! Tests of one local APIC.

use proptest::prelude::*;

use super::*;

fn x2apic() -> LocalApic {
    let mut apic = LocalApic::new(0, 2_000_000);
    apic.set_base(APIC_BASE | 0xD00).unwrap();
    apic.write_msr(0x80F, 0x1FF, 0).unwrap();
    apic
}

#[test]
fn an_end_can_wait_when_it_is_of_an_edge_and_nothing_waits() {
    let mut apic = x2apic();
    assert!(!apic.end_can_wait(), "nothing is in service");
    apic.accept(0x50, false);
    assert!(!apic.end_can_wait(), "nothing is in service yet");
    apic.acknowledge();
    assert!(apic.end_can_wait());
    apic.accept(0x31, false);
    assert!(!apic.end_can_wait(), "0x31 comes after it");
    apic.end_of_interrupt();
    apic.acknowledge();
    assert!(apic.end_can_wait());
    apic.accept(0x60, true);
    apic.acknowledge();
    assert!(!apic.end_can_wait(), "level-triggered");
}

#[test]
fn a_deadline_fires_once() {
    let mut apic = x2apic();
    apic.write_msr(0x832, 2 << 17 | 0xEC, 0).unwrap();
    apic.set_tsc_deadline(500);
    assert_eq!((apic.deadline(), apic.tsc_deadline()), (Some(500), 500));
    assert!(!apic.tick(499));
    assert!(apic.tick(500));
    assert_eq!((apic.deadline(), apic.tsc_deadline()), (None, 0));
    assert_eq!(apic.acknowledge(), Some(0xEC));
    assert_eq!(apic.end_of_interrupt(), Effect::None);
    apic.set_tsc_deadline(900);
    apic.write_msr(0x832, 0xEC, 0).unwrap();
    assert_eq!(apic.deadline(), None, "another mode disarms it");
    apic.set_tsc_deadline(900);
    assert_eq!(apic.deadline(), None, "and ignores deadlines");
}

#[test]
fn counting_timers_run_at_one_gigahertz() {
    let mut apic = x2apic();
    apic.write_msr(0x83E, 0xB, 0).unwrap();
    apic.write_msr(0x832, 0x40, 0).unwrap();
    apic.write_msr(0x838, 1000, 100).unwrap();
    assert_eq!(apic.deadline(), Some(2100));
    assert_eq!(apic.read_msr(0x839, 1100), Ok(500));
    assert!(apic.tick(2100));
    assert_eq!(apic.deadline(), None);
    apic.write_msr(0x832, 1 << 17 | 0x40, 0).unwrap();
    apic.write_msr(0x838, 1000, 100).unwrap();
    assert!(apic.tick(2100) && apic.tick(4100));
    assert_eq!(apic.deadline(), Some(6100));
    apic.write_msr(0x838, 0, 0).unwrap();
    assert_eq!(apic.deadline(), None);
    apic.write_msr(0x832, LVT_MASKED as u64, 0).unwrap();
    apic.write_msr(0x838, 1, 0).unwrap();
    assert!(!apic.tick(u64::MAX), "masked");
}

#[test]
fn priorities_hold_interrupts_back() {
    let mut apic = x2apic();
    assert!(apic.accept(0x31, false));
    assert!(apic.accept(0x52, false));
    assert_eq!(apic.acknowledge(), Some(0x52));
    assert!(!apic.is_pending(), "0x31 is under 0x52");
    assert!(apic.accept(0x5F, false));
    assert!(!apic.is_pending(), "the same class");
    assert!(apic.accept(0x60, true));
    assert_eq!(apic.acknowledge(), Some(0x60));
    assert_eq!(apic.read_msr(0x80A, 0), Ok(0x60));
    assert_eq!(apic.end_of_interrupt(), Effect::EndOfLevel(0x60));
    assert_eq!(apic.end_of_interrupt(), Effect::None);
    apic.set_task_priority(5);
    assert_eq!(apic.read_msr(0x808, 0), Ok(0x50));
    assert!(!apic.is_pending());
    apic.write_msr(0x808, 0x4F, 0).unwrap();
    assert_eq!(apic.task_priority(), 4);
    assert_eq!(apic.acknowledge(), Some(0x5F));
}

#[test]
fn a_disabled_apic_takes_nothing_and_masks_its_entries() {
    let mut apic = LocalApic::new(1, 1);
    assert!(!apic.accept(0x40, false));
    apic.write_page(0xF0, 0x1FF, 0);
    apic.write_page(0x350, 0x700, 0);
    assert_eq!(apic.read_page(0x350, 0), 0x700);
    apic.write_page(0xF0, 0xFF, 0);
    assert_eq!(apic.read_page(0x350, 0), 0x1_0700);
    assert!(!apic.accept(0x40, false));
}

#[test]
fn modes_change_only_as_the_manual_allows() {
    let mut apic = LocalApic::new(5, 1);
    assert_eq!(apic.base(), 0xFEE0_0800);
    assert_eq!(apic.read_page(0x20, 0), 5 << 24);
    assert_eq!(apic.set_base(0xFEE0_0400), Err(RegisterFault));
    assert_eq!(apic.set_base(0xFEE0_1800), Err(RegisterFault));
    assert_eq!(apic.read_msr(0x802, 0), Err(RegisterFault));
    apic.set_base(0xFEE0_0C00).unwrap();
    assert_eq!(apic.read_msr(0x802, 0), Ok(5));
    assert_eq!(apic.read_msr(0x80D, 0), Ok(1 << 5));
    assert_eq!(apic.read_page(0x20, 0), 0);
    assert_eq!(apic.set_base(0xFEE0_0800), Err(RegisterFault));
    apic.set_base(0xFEE0_0000).unwrap();
    assert_eq!(apic.set_base(0xFEE0_0C00), Err(RegisterFault));
    apic.set_base(0xFEE0_0800).unwrap();
}

#[test]
fn x2apic_registers_fault_where_the_processor_does() {
    let mut apic = x2apic();
    for msr in [
        0x800, 0x80B, 0x80E, 0x831, 0x83F, 0x840, 0x8FF, 0x7FF, 0x82F,
    ] {
        assert_eq!(apic.read_msr(msr, 0), Err(RegisterFault), "{msr:#x}");
    }
    for (msr, value) in [
        (0x802, 0),
        (0x803, 0),
        (0x80A, 0),
        (0x80D, 0),
        (0x80B, 1),
        (0x808, 0x100),
        (0x810, 0),
        (0x828, 1),
        (0x832, 1 << 32),
        (0x839, 0),
    ] {
        let written = apic.write_msr(msr, value, 0);
        assert_eq!(written, Err(RegisterFault), "{msr:#x}");
    }
    let sent = apic.write_msr(0x83F, 0x77, 0).unwrap();
    let command = 0x4_0077;
    let destination = 0;
    assert_eq!(
        sent,
        Effect::Send(Ipi {
            command,
            destination
        })
    );
}

#[test]
fn illegal_vectors_are_errors_that_interrupt() {
    let mut apic = x2apic();
    apic.write_msr(0x837, 0xFE, 0).unwrap();
    assert!(!apic.accept(15, false));
    assert_eq!(apic.acknowledge(), Some(0xFE));
    assert_eq!(apic.read_msr(0x828, 0), Ok(0));
    apic.write_msr(0x828, 0, 0).unwrap();
    assert_eq!(apic.read_msr(0x828, 0), Ok(u64::from(ESR_RECEIVED)));
    // An error interrupt whose own vector is illegal must not recurse.
    apic.write_msr(0x837, 3, 0).unwrap();
    assert!(!apic.accept(1, false));
}

#[test]
fn init_resets_all_but_identity() {
    let mut apic = x2apic();
    apic.accept(0x40, false);
    apic.accept_init();
    assert_eq!(apic.base(), APIC_BASE | 0xD00);
    assert_eq!(apic.read_msr(0x80F, 0), Ok(0xFF));
    assert!(!apic.is_pending() && apic.has_startup());
}

#[test]
fn a_saved_page_has_the_form_of_the_manual_and_restores() {
    let mut apic = x2apic();
    apic.accept(0x41, true);
    apic.write_msr(0x83E, 0xB, 0).unwrap();
    apic.write_msr(0x832, 1 << 17 | 0x40, 0).unwrap();
    apic.write_msr(0x838, 1000, 0).unwrap();
    let page = apic.save(1000);
    assert_eq!(page.len(), PAGE_BYTES);
    assert_eq!(page[0x222], 0, "0x41 is bit 1 of the third word");
    assert_eq!(page[0x220], 2);
    assert_eq!(
        u32::from_le_bytes(page[0x390..0x394].try_into().unwrap()),
        500
    );
    let mut other = LocalApic::new(0, 2_000_000);
    other.restore(&page, apic.base(), 0, 7000);
    assert_eq!(other.deadline(), Some(8000));
    assert_eq!(other.save(7000), page);
    assert_eq!(other.acknowledge(), Some(0x41));
    other.restore(&[], u64::MAX, 0, 0);
}

proptest! {
    #[test]
    fn nothing_a_guest_writes_panics(
        writes in prop::collection::vec((0x7F0u32..0x900, any::<u64>(), any::<u64>()), 0..200),
        pages in prop::collection::vec((0u32..4096, any::<u32>(), any::<u64>()), 0..200),
    ) {
        let mut apic = x2apic();
        for (msr, value, tsc) in writes {
            for value in [value, value & 0xFFFF_FFFF, value & 0xFF, value & 0x7_00FF] {
                let _ = apic.write_msr(msr, value, tsc);
                let _ = apic.read_msr(msr, tsc);
                apic.set_tsc_deadline(value);
                apic.tick(tsc);
                apic.acknowledge();
            }
        }
        let mut apic = LocalApic::new(255, 0);
        for (offset, value, tsc) in pages {
            apic.write_page(offset, value, tsc);
            apic.read_page(offset, tsc);
            apic.tick(tsc);
            apic.acknowledge();
        }
    }
}
