//! The outside of the guest: nothing is there, and nobody should ask.

use std::sync::atomic::{AtomicBool, Ordering};

use atoll_cpu_api::{Bus, GeneralProtection, InterruptController};

/// A bus without devices and a local APIC that never interrupts; remembers whether the bus was reached.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    touched: AtomicBool,
}

impl Quiet {
    /// Whether the bus was reached since the last call.
    pub(super) fn take_touched(&self) -> bool {
        self.touched.swap(false, Ordering::Relaxed)
    }

    fn touch(&self) {
        self.touched.store(true, Ordering::Relaxed);
    }
}

impl Bus for Quiet {
    fn port_read(&self, _port: u16, data: &mut [u8]) {
        self.touch();
        data.fill(0xFF);
    }

    fn port_write(&self, _port: u16, _data: &[u8]) {
        self.touch();
    }

    fn memory_read(&self, _address: u64, data: &mut [u8]) {
        self.touch();
        data.fill(0xFF);
    }

    fn memory_write(&self, _address: u64, _data: &[u8]) {
        self.touch();
    }
}

impl InterruptController for Quiet {
    fn read_msr(&self, _msr: u32, _tsc: u64) -> Result<u64, GeneralProtection> {
        Ok(0)
    }

    fn write_msr(&self, _msr: u32, _value: u64, _tsc: u64) -> Result<(), GeneralProtection> {
        Ok(())
    }

    fn deadline(&self) -> Option<u64> {
        None
    }

    fn tick(&self, _tsc: u64) {}

    fn is_pending(&self) -> bool {
        false
    }

    fn acknowledge(&self) -> Option<u8> {
        None
    }

    fn end_of_interrupt(&self) {}

    fn task_priority(&self) -> u8 {
        0
    }

    fn set_task_priority(&self, _priority: u8) {}

    fn take_startup(&self) -> Option<u8> {
        None
    }
}
