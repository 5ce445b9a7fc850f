//! A local APIC as a CPU in software uses it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use atoll_cpu_api::{GeneralProtection, InterruptController};
use atoll_platform::{APIC_BASE_MSR, LocalApics, RegisterFault, TSC_DEADLINE_MSR};

/// Processor `index`'s local APIC.
pub(super) struct Controller {
    apics: Arc<LocalApics>,
    index: usize,
    last_startup: AtomicU8,
}

impl Controller {
    pub(super) fn new(apics: Arc<LocalApics>, index: usize) -> Self {
        Self {
            apics,
            index,
            last_startup: AtomicU8::new(0),
        }
    }
}

impl InterruptController for Controller {
    fn read_msr(&self, msr: u32, tsc: u64) -> Result<u64, GeneralProtection> {
        let apic = self.apics.lock(self.index);
        match msr {
            APIC_BASE_MSR => Ok(apic.base()),
            TSC_DEADLINE_MSR => Ok(apic.tsc_deadline()),
            _ => apic.read_msr(msr, tsc).map_err(fault),
        }
    }

    fn write_msr(&self, msr: u32, value: u64, tsc: u64) -> Result<(), GeneralProtection> {
        let mut apic = self.apics.lock(self.index);
        let effect = match msr {
            APIC_BASE_MSR => return apic.set_base(value).map_err(fault),
            TSC_DEADLINE_MSR => {
                apic.set_tsc_deadline(value);
                return Ok(());
            }
            _ => apic.write_msr(msr, value, tsc).map_err(fault)?,
        };
        drop(apic);
        self.apics.perform(self.index, effect);
        Ok(())
    }

    fn deadline(&self) -> Option<u64> {
        self.apics.lock(self.index).deadline()
    }

    fn tick(&self, tsc: u64) {
        self.apics.lock(self.index).tick(tsc);
    }

    fn is_pending(&self) -> bool {
        self.apics.lock(self.index).is_pending()
    }

    fn acknowledge(&self) -> Option<u8> {
        self.apics.lock(self.index).acknowledge()
    }

    fn end_of_interrupt(&self) {
        let effect = self.apics.lock(self.index).end_of_interrupt();
        self.apics.perform(self.index, effect);
    }

    fn end_can_wait(&self) -> bool {
        self.apics.lock(self.index).end_can_wait()
    }

    fn task_priority(&self) -> u8 {
        self.apics.lock(self.index).task_priority()
    }

    fn set_task_priority(&self, priority: u8) {
        self.apics.lock(self.index).set_task_priority(priority);
    }

    fn take_startup(&self) -> Option<u8> {
        let (taken, more) = {
            let mut apic = self.apics.lock(self.index);
            (apic.take_startup(), apic.has_startup())
        };
        if more {
            // Requests are not counted: INIT and start-up may have come as one.
            self.apics.processors().startup(self.index);
        }
        match taken {
            Some(None) => None,
            Some(Some(vector)) => {
                self.last_startup.store(vector, Ordering::Relaxed);
                Some(vector)
            }
            // For the same reason a request may find nothing left; a start-up message repeated has no effect.
            None => Some(self.last_startup.load(Ordering::Relaxed)),
        }
    }
}

fn fault(_: RegisterFault) -> GeneralProtection {
    GeneralProtection
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use atoll_platform::Processors;

    use super::*;

    #[derive(Clone, Default)]
    struct Woken(Arc<Mutex<u32>>);

    impl Processors for Woken {
        fn interrupt(&self, _: usize) {}
        fn nmi(&self, _: usize) {}
        fn startup(&self, _: usize) {
            *self.0.lock().unwrap() += 1;
        }
        fn end_of_level(&self, _: u8) {}
    }

    #[test]
    fn init_and_startup_that_come_as_one_request_are_both_taken() {
        let woken = Woken::default();
        let apics = Arc::new(LocalApics::new(2, 1, Box::new(woken.clone())));
        let controller = Controller::new(Arc::clone(&apics), 1);
        apics.lock(1).accept_init();
        apics.lock(1).accept_startup(0x99);
        assert_eq!(controller.take_startup(), None);
        assert_eq!(*woken.0.lock().unwrap(), 1);
        assert_eq!(controller.take_startup(), Some(0x99));
        assert_eq!(controller.take_startup(), Some(0x99), "never an INIT");
        assert_eq!(*woken.0.lock().unwrap(), 1);
    }

    #[test]
    fn registers_are_reached_by_their_msrs() {
        let apics = Arc::new(LocalApics::new(1, 1_000_000, Box::new(Woken::default())));
        let controller = Controller::new(apics, 0);
        assert_eq!(controller.read_msr(0x1B, 0), Ok(0xFEE0_0900));
        controller.write_msr(0x1B, 0xFEE0_0D00, 0).unwrap();
        assert_eq!(controller.write_msr(0x1B, 0, 0), Err(GeneralProtection));
        controller.write_msr(0x80F, 0x1FF, 0).unwrap();
        controller.write_msr(0x832, 2 << 17 | 0x40, 0).unwrap();
        controller.write_msr(0x6E0, 77, 0).unwrap();
        assert_eq!(controller.deadline(), Some(77));
        assert_eq!(controller.read_msr(0x6E0, 0), Ok(77));
        controller.tick(80);
        controller.set_task_priority(15);
        assert!(!controller.is_pending() && controller.task_priority() == 15);
        controller.write_msr(0x808, 0, 0).unwrap();
        assert_eq!(controller.acknowledge(), Some(0x40));
        controller.end_of_interrupt();
        assert_eq!(controller.read_msr(0x812, 0), Ok(0));
        assert_eq!(controller.read_msr(0x8FF, 0), Err(GeneralProtection));
    }
}
