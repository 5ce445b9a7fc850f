use std::sync::Arc;
use std::sync::Mutex;

use atoll_memory::GuestMemory;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::device::{DeviceType, RestoreError};
use crate::driver::*;
use crate::rng::RngDevice;

fn rng() -> Box<RngDevice> {
    Box::new(RngDevice::new())
}

// Any thread may call it.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<MmioTransport>();
};

#[test]
fn registers_tell_who_it_is_and_what_it_offers() {
    let driver = Driver::over(rng(), GuestMemory::new(8 << 20).unwrap());
    assert_eq!(driver.read(0), u32::from_le_bytes(*b"virt"));
    assert_eq!(
        (driver.read(4), driver.read(8)),
        (2, DeviceType::Rng as u32)
    );
    assert_eq!(driver.read(0x10), 1 << 28 | 1 << 29);
    driver.write(0x14, 1);
    assert_eq!(driver.read(0x10), 1);
    driver.write(0x14, 2);
    assert_eq!(driver.read(0x10), 0);
    assert_eq!(driver.read(0x34), 64);
    driver.write(0x30, 1);
    assert_eq!(driver.read(0x34), 0);
    assert_eq!((driver.read(0xB0), driver.read(0xBC)), (u32::MAX, u32::MAX));
    let mut byte = [7];
    driver.transport.read(0, &mut byte);
    assert_eq!(byte, [0]);
    let mut beyond = [7; 8];
    driver.transport.read(u64::MAX, &mut beyond);
    assert_eq!(beyond, [0; 8]);
}

#[test]
fn features_not_offered_or_without_version_1_are_not_ok() {
    for wanted in [RING_EVENT_IDX, VERSION_1 | RING_EVENT_IDX] {
        let mut driver = Driver::over(rng(), GuestMemory::new(8 << 20).unwrap());
        driver.negotiate(wanted);
        assert_eq!(driver.read(0x70) & 8 != 0, wanted & VERSION_1 != 0);
    }
    let driver = Driver::over(rng(), GuestMemory::new(8 << 20).unwrap());
    driver.write(0x70, 3);
    driver.write(0x24, 1);
    driver.write(0x20, 1);
    driver.write(0x24, 0);
    driver.write(0x20, 1);
    driver.write(0x70, 0xB);
    assert_eq!(driver.read(0x70), 3);
}

#[test]
fn status_only_goes_forward_until_it_is_reset() {
    let driver = Driver::start(rng());
    driver.write(0x70, 3);
    assert_eq!(driver.read(0x70), 0xF);
    driver.write(0x20, 0);
    driver.write(0x44, 1);
    driver.write(0x70, 0);
    assert_eq!((driver.read(0x70), driver.read(0x44)), (0, 0));
    driver.write(0x70, 0xF);
    assert_eq!(driver.read(0x70), 3);
}

#[test]
fn queues_with_impossible_sizes_or_addresses_need_a_reset() {
    let wrong: &[(u64, u32)] = &[
        (0x38, 0),
        (0x38, 3),
        (0x38, 128),
        (0x38, 0x1_0010),
        (0x80, 8),
        (0x80, 0),
        (0x84, 1),
        (0x90, 0x7F_FFFE),
        (0x94, u32::MAX),
        (0xA0, 0x7F_FFF0),
        (0xA0, 2),
    ];
    for (register, value) in wrong {
        let mut driver = Driver::over(rng(), GuestMemory::new(8 << 20).unwrap());
        driver.negotiate(u64::MAX);
        driver.set_up_queues();
        driver.write(0x44, 0);
        driver.write(*register, *value);
        driver.write(0x44, 1);
        assert_eq!(driver.read(0x44), 0, "{register:#x} = {value:#x}");
        assert!(driver.is_broken(), "{register:#x} = {value:#x}");
        driver.write(0x70, 0xF);
        assert_eq!(driver.read(0x70) & status::DRIVER_OK, 0);
    }
}

#[test]
fn nothing_happens_before_the_driver_is_ready() {
    let mut driver = Driver::over(rng(), GuestMemory::new(8 << 20).unwrap());
    driver.kick(0);
    driver.negotiate(u64::MAX);
    driver.set_up_queues();
    driver.submit(0, &[Part::In(8)]);
    driver.kick(0);
    driver.kick(77);
    driver.transport.host_ready();
    assert_eq!((driver.used(0), driver.interrupts()), (None, 0));
    driver.write(0x70, 0xF);
    assert_eq!((driver.used(0), driver.interrupts()), (Some((0, 8)), 1));
}

#[test]
fn interrupts_are_shown_acknowledged_and_suppressed() {
    let mut driver = Driver::start(rng());
    driver.request(0, &[], &[4]);
    assert_eq!((driver.read(0x60), driver.interrupts()), (1, 1));
    driver.write(0x64, 1);
    assert_eq!(driver.read(0x60), 0);
    let flags = GuestAddress(available_at(0));
    driver.memory.write_obj(1u16, flags).unwrap();
    driver.request(0, &[], &[4]);
    assert_eq!((driver.read(0x60), driver.interrupts()), (0, 1));
    driver.transport.config_changed();
    assert_eq!((driver.read(0x60), driver.read(0xFC)), (2, 1));
}

#[test]
fn event_indices_suppress_interrupts_and_doorbells() {
    let mut driver = Driver::with_features(rng(), u64::MAX);
    let used_event = GuestAddress(available_at(0) + 4 + 2 * u64::from(SIZE));
    driver.memory.write_obj(2u16, used_event).unwrap();
    for expected in [0, 0, 1, 1] {
        driver.request(0, &[], &[4]);
        assert_eq!(driver.interrupts(), expected);
    }
    let avail_event = GuestAddress(used_at(0) + 4 + 8 * u64::from(SIZE));
    assert_eq!(driver.memory.read_obj::<u16>(avail_event).unwrap(), 4);
}

#[test]
fn indirect_tables_are_followed() {
    let mut driver = Driver::start(rng());
    let table = driver.buffer(40 * 16);
    let room = driver.buffer(400);
    for index in 0..40u16 {
        let flags = if index < 39 { WRITE | NEXT } else { WRITE };
        let of = (room + u64::from(index) * 10, 10, flags, index + 1);
        write_descriptor(&driver.memory, table + u64::from(index) * 16, of);
    }
    driver.descriptor(0, 3, (table, 40 * 16, INDIRECT, 0));
    driver.make_available(0, 3);
    driver.kick(0);
    assert_eq!(driver.used(0), Some((3, 400)));
}

#[test]
fn hostile_chains_need_a_reset_and_nothing_else() {
    type Descriptors<'a> = &'a [(u64, u32, u16, u16)];
    let buffer = 0x10_0000;
    let chains: &[(Descriptors<'_>, bool)] = &[
        // A loop of one, a loop of two.
        (&[(buffer, 4, WRITE | NEXT, 0)], true),
        (
            &[(buffer, 4, WRITE | NEXT, 1), (buffer, 4, WRITE | NEXT, 0)],
            true,
        ),
        // Refers to no descriptor.
        (&[(buffer, 4, WRITE | NEXT, SIZE)], true),
        (&[(buffer, 4, WRITE | NEXT, u16::MAX)], true),
        // Outside memory, across its end, wrapping around, 4 GiB long.
        (&[(0x80_0000, 1, WRITE, 0)], true),
        (&[(0x7F_FFFF, 2, WRITE, 0)], true),
        (&[(u64::MAX, 2, WRITE, 0)], true),
        (&[(buffer, u32::MAX, WRITE, 0)], true),
        // Readable after writable.
        (&[(buffer, 4, WRITE | NEXT, 1), (buffer, 4, 0, 0)], true),
        // An indirect table that is none, is itself indirect, or lies outside.
        (&[(buffer, 17, INDIRECT, 0)], true),
        (&[(buffer, 0, INDIRECT, 0)], true),
        (&[(descriptors_at(0), 16, INDIRECT, 0)], true),
        (&[(0x80_0000, 16, INDIRECT, 0)], true),
        // No bytes are no crime, wherever they are.
        (&[(u64::MAX, 0, WRITE, 0)], false),
        (&[(buffer, 0, 0, 0)], false),
    ];
    for (number, (chain, is_broken)) in chains.iter().enumerate() {
        let mut driver = Driver::start(rng());
        for (index, descriptor) in chain.iter().enumerate() {
            driver.descriptor(0, index as u16, *descriptor);
        }
        driver.make_available(0, 0);
        driver.kick(0);
        assert_eq!(driver.is_broken(), *is_broken, "chain {number}");
        assert_eq!(driver.used(0).is_none(), *is_broken, "chain {number}");
        if *is_broken {
            assert_eq!(driver.read(0x60), 2);
            driver.kick(0);
            driver.write(0x70, 0);
            assert_eq!(driver.read(0x70), 0);
        }
    }
}

#[test]
fn a_head_or_an_index_beyond_the_queue_needs_a_reset() {
    let mut driver = Driver::start(rng());
    driver.make_available(0, SIZE);
    driver.kick(0);
    assert!(driver.is_broken());
    let driver = Driver::start(rng());
    driver.set_available_index(0, SIZE + 1);
    driver.kick(0);
    assert!(driver.is_broken());
}

#[test]
fn doorbells_go_where_they_are_sent() {
    struct Rung(Arc<Mutex<Vec<u32>>>);
    impl Doorbell for Rung {
        fn ring(&self, queue: u32) {
            self.0.lock().unwrap().push(queue);
        }
    }
    let rung = Arc::new(Mutex::new(Vec::new()));
    let memory = GuestMemory::new(8 << 20).unwrap();
    let transport = MmioTransport::new(rng(), memory, Box::new(Line::default()))
        .with_doorbell(Box::new(Rung(Arc::clone(&rung))));
    transport.write(QUEUE_NOTIFY, &5u32.to_le_bytes());
    assert_eq!(*rung.lock().unwrap(), [5]);
}

#[test]
fn a_saved_device_goes_on_elsewhere() {
    let mut driver = Driver::with_features(rng(), u64::MAX);
    driver.request(0, &[], &[4]);
    driver.submit(0, &[Part::In(6)]);
    let text = serde_json::to_string(&driver.transport.save()).unwrap();
    let state: TransportState = serde_json::from_str(&text).unwrap();
    let line = Line::default();
    driver.transport = MmioTransport::new(rng(), driver.memory.clone(), Box::new(line.clone()));
    driver.transport.restore(&state).unwrap();
    assert_eq!(driver.transport.save(), state);
    assert_eq!(driver.used(0), None);
    driver.transport.resume();
    assert_eq!(driver.used(0), Some((1, 6)));
    assert!(line.0.load(Ordering::SeqCst) > 0);

    let mut other = state.clone();
    other.device_type = DeviceType::Net;
    let outcome = driver.transport.restore(&other);
    assert!(matches!(outcome, Err(RestoreError::Device(_))));
    let mut other = state.clone();
    other.queues[0].used = 1 << 40;
    let outcome = driver.transport.restore(&other);
    assert!(matches!(outcome, Err(RestoreError::Queue(0))));
    assert_eq!(driver.read(0x70), 0);
    let mut other = state;
    other.features |= 1;
    let outcome = driver.transport.restore(&other);
    assert!(matches!(outcome, Err(RestoreError::Features(1))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_register_accesses_never_panic(
        accesses in prop::collection::vec((any::<bool>(), 0u64..0x120, any::<u32>(), 0usize..9), 1..200)
    ) {
        let driver = Driver::over(rng(), GuestMemory::new(8 << 20).unwrap());
        for (is_write, offset, value, width) in accesses {
            let bytes = u64::from(value).to_le_bytes();
            if is_write {
                // Small values and aligned registers are what gets somewhere.
                driver.write(offset & !3, value & 0xFF);
                driver.transport.write(offset, &bytes[..width]);
            } else {
                driver.transport.read(offset, &mut [0; 8][..width]);
            }
        }
    }

    #[test]
    fn random_rings_never_panic(
        descriptors in prop::collection::vec((any::<u32>(), any::<u16>(), any::<u16>(), any::<u16>()), 16),
        heads in prop::collection::vec(0u16..20, 16),
        index in any::<u16>(),
        event_index in any::<bool>(),
    ) {
        let features = if event_index { u64::MAX } else { !RING_EVENT_IDX };
        let mut driver = Driver::with_features(rng(), features);
        for (position, (address, len, flags, next)) in descriptors.into_iter().enumerate() {
            let of = (u64::from(address & 0xFF_FFFF), u32::from(len), flags & 7, next & 31);
            driver.descriptor(0, position as u16, of);
        }
        for head in heads {
            driver.make_available(0, head);
            driver.kick(0);
        }
        driver.set_available_index(0, index);
        driver.kick(0);
        driver.write(0x70, 0);
        prop_assert_eq!(driver.read(0x70), 0);
    }
}
