//! All local APICs of a machine, and the messages between them.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::local::{Effect, Ipi, LocalApic};

/// The processors, as their local APICs signal them. Called by any thread, with no APIC locked.
pub trait Processors: Send + Sync {
    /// An interrupt waits for processor `index`.
    fn interrupt(&self, index: usize);
    /// A non-maskable interrupt for processor `index`.
    fn nmi(&self, index: usize);
    /// An INIT or start-up message waits for processor `index`.
    fn startup(&self, index: usize);
    /// A level-triggered interrupt ended: the I/O APIC wants to know.
    fn end_of_level(&self, vector: u8);
}

/// The local APICs of a machine's processors; a processor's index is its APIC id.
pub struct LocalApics {
    apics: Vec<Mutex<LocalApic>>,
    processors: Box<dyn Processors>,
}

impl fmt::Debug for LocalApics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalApics")
            .field("apics", &self.apics.len())
            .finish_non_exhaustive()
    }
}

/// What a message carries.
#[derive(Clone, Copy)]
enum Delivery {
    Fixed { vector: u8, level: bool },
    Lowest { vector: u8, level: bool },
    Nmi,
    Init,
    Startup(u8),
}

impl Delivery {
    /// The delivery that bits 0 to 15 of ICR or of a message's data ask for; `None` for SMI, ExtINT and reserved ones.
    fn of(bits: u32) -> Option<Self> {
        let vector = bits as u8;
        let level = bits & 1 << 15 != 0;
        Some(match bits >> 8 & 7 {
            0 => Self::Fixed { vector, level },
            1 => Self::Lowest { vector, level },
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::Startup(vector),
            _ => return None,
        })
    }
}

impl LocalApics {
    /// APICs of `count` processors after reset.
    pub fn new(count: u8, tsc_khz: u32, processors: Box<dyn Processors>) -> Self {
        let apics = (0..count).map(|id| Mutex::new(LocalApic::new(id, tsc_khz)));
        Self {
            apics: apics.collect(),
            processors,
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.apics.len()
    }

    /// The processors that these APICs signal.
    pub fn processors(&self) -> &dyn Processors {
        &*self.processors
    }

    /// The APIC of processor `index`, locked.
    ///
    /// # Panics
    /// When there is no such processor.
    pub fn lock(&self, index: usize) -> MutexGuard<'_, LocalApic> {
        let apic = &self.apics[index];
        apic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what a register write of processor `index` caused. Call with no APIC locked.
    pub fn perform(&self, index: usize, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::EndOfLevel(vector) => self.processors.end_of_level(vector),
            Effect::Send(ipi) => self.send(index, ipi),
        }
    }

    /// Delivers a message-signalled interrupt (Intel SDM vol. 3 §11.11); others than to local APICs are ignored.
    pub fn deliver(&self, address: u64, data: u32) {
        if address >> 20 != 0xFEE {
            return;
        }
        // Bits 5 to 11 extend the destination, as KVM and Hyper-V define it.
        let destination = (address >> 12 & 0xFF | (address >> 5 & 0x7F) << 8) as u32;
        if let Some(delivery) = Delivery::of(data) {
            let logical = address & 4 != 0;
            let targets = self.addressed(destination, logical, false);
            self.deliver_to(&targets, delivery);
        }
    }

    fn send(&self, from: usize, ipi: Ipi) {
        let Some(delivery) = Delivery::of(ipi.command & 0x7FF) else {
            return;
        };
        let assert = ipi.command & 1 << 14 != 0;
        if matches!(delivery, Delivery::Init) && !assert {
            // INIT level de-assert: only ever synchronised arbitration ids.
            return;
        }
        let everybody = 0..self.apics.len();
        let targets: Vec<usize> = match ipi.command >> 18 & 3 {
            1 => vec![from],
            2 => everybody.collect(),
            3 => everybody.filter(|&index| index != from).collect(),
            _ => {
                let wide = self.lock(from).is_x2apic();
                let logical = ipi.command & 1 << 11 != 0;
                self.addressed(ipi.destination, logical, wide)
            }
        };
        self.deliver_to(&targets, delivery);
    }

    fn addressed(&self, destination: u32, logical: bool, wide: bool) -> Vec<usize> {
        let one = destination as usize;
        if !logical && one < self.apics.len() && one != 0xFF {
            return vec![one];
        }
        let all = 0..self.apics.len();
        all.filter(|&index| self.lock(index).is_addressed(destination, logical, wide))
            .collect()
    }

    fn deliver_to(&self, targets: &[usize], delivery: Delivery) {
        if let Delivery::Lowest { vector, level } = delivery {
            let lowest = targets
                .iter()
                .min_by_key(|&&index| self.lock(index).processor_priority());
            if let Some(&index) = lowest {
                self.deliver_to(&[index], Delivery::Fixed { vector, level });
            }
            return;
        }
        for &index in targets {
            match delivery {
                Delivery::Fixed { vector, level } | Delivery::Lowest { vector, level } => {
                    let accepted = self.lock(index).accept(vector, level);
                    if accepted {
                        self.processors.interrupt(index);
                    }
                }
                Delivery::Nmi => self.processors.nmi(index),
                Delivery::Init => {
                    self.lock(index).accept_init();
                    self.processors.startup(index);
                }
                Delivery::Startup(vector) => {
                    self.lock(index).accept_startup(vector);
                    self.processors.startup(index);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::apic::registers::{LDR, SVR};

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<(&'static str, usize)>>>);

    impl Log {
        fn take(&self) -> Vec<(&'static str, usize)> {
            std::mem::take(&mut *self.0.lock().unwrap())
        }
        fn note(&self, what: &'static str, index: usize) {
            self.0.lock().unwrap().push((what, index));
        }
    }

    impl Processors for Log {
        fn interrupt(&self, index: usize) {
            self.note("interrupt", index);
        }
        fn nmi(&self, index: usize) {
            self.note("nmi", index);
        }
        fn startup(&self, index: usize) {
            self.note("startup", index);
        }
        fn end_of_level(&self, vector: u8) {
            self.note("end", usize::from(vector));
        }
    }

    fn machine(count: u8) -> (LocalApics, Log) {
        let log = Log::default();
        let apics = LocalApics::new(count, 1_000_000, Box::new(log.clone()));
        for index in 0..usize::from(count) {
            let mut apic = apics.lock(index);
            let base = apic.base();
            apic.set_base(base | 1 << 10).unwrap();
            apic.write_msr(0x80F, 0x1FF, 0).unwrap();
        }
        (apics, log)
    }

    fn icr(apics: &LocalApics, from: usize, value: u64) {
        let effect = apics.lock(from).write_msr(0x830, value, 0).unwrap();
        apics.perform(from, effect);
    }

    #[test]
    fn a_processor_is_started_by_init_and_startup() {
        let (apics, log) = machine(3);
        icr(&apics, 0, 2 << 32 | 0x4500);
        icr(&apics, 0, 2 << 32 | 0x0500);
        icr(&apics, 0, 2 << 32 | 0x4609);
        assert_eq!(log.take(), [("startup", 2), ("startup", 2)]);
        assert_eq!(apics.lock(2).take_startup(), Some(None));
        assert_eq!(apics.lock(2).take_startup(), Some(Some(9)));
        assert_eq!(apics.lock(2).take_startup(), None);
    }

    #[test]
    fn shorthands_and_broadcasts_reach_whom_they_name() {
        let (apics, log) = machine(3);
        let reached = |value| {
            icr(&apics, 1, value);
            log.take().iter().map(|entry| entry.1).collect::<Vec<_>>()
        };
        assert_eq!(reached(0x4_0030), [1]);
        assert_eq!(reached(0x8_0030), [0, 1, 2]);
        assert_eq!(reached(0xC_0030), [0, 2]);
        assert_eq!(reached(0xFFFF_FFFF << 32 | 0x30), [0, 1, 2]);
        assert_eq!(reached(0b101 << 32 | 0x830), [0, 2]);
        assert_eq!(reached(7 << 32 | 0x30), [0; 0]);
        assert_eq!(reached(1 << 32 | 0x05), [0; 0], "an illegal vector");
        assert_eq!(reached(2 << 32 | 0x400), [2]);
    }

    #[test]
    fn messages_of_devices_arrive() {
        let (apics, log) = machine(2);
        apics.deliver(0xFEE0_1000, 0x41);
        assert_eq!(log.take(), [("interrupt", 1)]);
        assert_eq!(apics.lock(1).acknowledge(), Some(0x41));
        apics.deliver(0xFEE0_2004, 0x42);
        assert_eq!(log.take(), [("interrupt", 1)], "logical");
        apics.deliver(0xFEEF_F000, 0xC043);
        assert_eq!(log.take(), [("interrupt", 0), ("interrupt", 1)]);
        assert_eq!(apics.lock(0).acknowledge(), Some(0x43));
        let effect = apics.lock(0).write_msr(0x80B, 0, 0).unwrap();
        apics.perform(0, effect);
        assert_eq!(log.take(), [("end", 0x43)]);
        apics.deliver(0x1000, 0x41);
        apics.deliver(0xFEE0_0000, 0x200);
        assert_eq!(log.take(), []);
    }

    #[test]
    fn lowest_priority_goes_to_one() {
        let (apics, log) = machine(2);
        apics.lock(0).set_task_priority(3);
        apics.deliver(0xFEE0_3004, 0x150);
        assert_eq!(log.take(), [("interrupt", 1)]);
    }

    #[test]
    fn xapic_logical_destinations_are_flat_or_clustered() {
        let log = Log::default();
        let apics = LocalApics::new(2, 1, Box::new(log.clone()));
        for index in 0..2usize {
            let mut apic = apics.lock(index);
            apic.write_page(SVR << 4, 0x1FF, 0);
            apic.write_page(LDR << 4, 0x1100_0000 << index, 0);
        }
        apics.deliver(0xFEE0_2004, 0x41);
        assert_eq!(log.take(), [("interrupt", 1)]);
        for index in 0..2 {
            apics.lock(index).write_page(0xE0, 0, 0);
        }
        apics.deliver(0xFEE1_1004, 0x41);
        assert_eq!(log.take(), [("interrupt", 0)]);
    }
}
