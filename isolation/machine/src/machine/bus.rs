//! What is at which port and address.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use atoll_cpu_api::{Bus, TscClock};
use atoll_platform::{
    APIC_BASE, COM1_PORT, IOAPIC_BASE, POWER_PORT, Power, PowerRequest, RESET_PORT, RTC_PORT, Rtc,
    Serial,
};
use atoll_virtio::{MmioTransport, WINDOW, read_placeholder};

use super::control::{Control, Outcome};
use super::interrupts::Interrupts;

/// First address of the virtio devices' registers.
pub(super) const DEVICES_BASE: u64 = 0xD000_0000;
const PAGE: u64 = 0x1000;

/// The board's devices, shared by the CPUs.
pub(super) struct Board {
    pub(super) serial: Mutex<Serial>,
    pub(super) rtc: Mutex<Rtc>,
    pub(super) interrupts: Arc<Interrupts>,
    pub(super) devices: Vec<Arc<MmioTransport>>,
    /// Places behind them for network cards, each empty until one is plugged in for the first time.
    pub(super) places: Vec<OnceLock<Arc<MmioTransport>>>,
    pub(super) control: Arc<Control>,
    /// Time for local APICs that are reached by address; those in x2APIC mode get their CPU's own.
    pub(super) clock: TscClock,
}

impl Board {
    pub(super) fn serial(&self) -> MutexGuard<'_, Serial> {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rtc(&self) -> MutexGuard<'_, Rtc> {
        self.rtc.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn port_byte(&self, port: u16) -> u8 {
        match port {
            COM1_PORT..=0x3FF => self.serial().read(port - COM1_PORT),
            RTC_PORT | 0x71 => self.rtc().read(port - RTC_PORT),
            POWER_PORT | 0x601 | RESET_PORT => Power.read(port),
            _ => 0xFF,
        }
    }

    fn set_port_byte(&self, port: u16, value: u8) {
        match port {
            COM1_PORT..=0x3FF => self.serial().write(port - COM1_PORT, value),
            RTC_PORT | 0x71 => self.rtc().write(port - RTC_PORT, value),
            _ => match Power.write(port, value) {
                Some(PowerRequest::Off) => self.control.end(Outcome::PowerOff),
                Some(PowerRequest::Reset) => self.control.end(Outcome::Reset),
                None => {}
            },
        }
    }

    /// The register window at `address`, with the offset in it; without a device when it is that of an empty place.
    fn window(&self, address: u64) -> Option<(Option<&Arc<MmioTransport>>, u64)> {
        let offset = address.checked_sub(DEVICES_BASE)?;
        let index = usize::try_from(offset / WINDOW).ok()?;
        let device = match self.devices.get(index) {
            Some(device) => Some(device),
            None => self.places.get(index - self.devices.len())?.get(),
        };
        Some((device, offset % WINDOW))
    }
}

/// The bus as CPU `index` sees it: its own local APIC is at the address all share.
pub(super) struct CpuBus {
    pub(super) board: Arc<Board>,
    pub(super) index: usize,
    /// Told to come back when this CPU's access ended the machine.
    pub(super) handle: Arc<dyn atoll_cpu_api::VcpuHandle>,
}

impl CpuBus {
    fn read_local_apic(&self, offset: u64) -> u32 {
        let Some(apics) = self.board.interrupts.local_apics() else {
            return u32::MAX;
        };
        let apic = apics.lock(self.index);
        apic.read_page(offset as u32, self.board.clock.now())
    }

    fn write_local_apic(&self, offset: u64, value: u32) {
        let Some(apics) = self.board.interrupts.local_apics() else {
            return;
        };
        let now = self.board.clock.now();
        let effect = apics.lock(self.index).write_page(offset as u32, value, now);
        apics.perform(self.index, effect);
        // The CPU does not see this write as one to its APIC.
        self.handle.interrupt();
    }
}

impl Bus for CpuBus {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        for (port, byte) in (port..=u16::MAX).zip(data) {
            *byte = self.board.port_byte(port);
        }
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        for (port, &byte) in (port..=u16::MAX).zip(data) {
            self.board.set_port_byte(port, byte);
        }
        if self.board.control.wants_attention() {
            self.handle.pause();
        }
    }

    fn memory_read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xFF);
        if let Some((device, offset)) = self.board.window(address) {
            return match device {
                Some(device) => device.read(offset, data),
                None => read_placeholder(offset, data),
            };
        }
        let (register, from) = (address & !3, (address & 3) as usize);
        let value = match register & !(PAGE - 1) {
            IOAPIC_BASE => self.board.interrupts.read(register - IOAPIC_BASE),
            APIC_BASE => Some(self.read_local_apic(register - APIC_BASE)),
            _ => None,
        };
        if let Some(value) = value {
            let bytes = value.to_le_bytes();
            for (byte, value) in data.iter_mut().zip(&bytes[from..]) {
                *byte = *value;
            }
        }
    }

    fn memory_write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.board.window(address) {
            if let Some(device) = device {
                device.write(offset, data);
            }
            return;
        }
        // These registers take aligned 32-bit writes only (Intel SDM vol. 3 §11.4.1.2).
        let Ok(bytes) = <[u8; 4]>::try_from(data) else {
            return;
        };
        let value = u32::from_le_bytes(bytes);
        match address & !(PAGE - 1) {
            IOAPIC_BASE => self.board.interrupts.write(address - IOAPIC_BASE, value),
            APIC_BASE => self.write_local_apic(address - APIC_BASE, value),
            _ => {}
        }
    }

    fn end_of_interrupt(&self, vector: u8) {
        self.board.interrupts.end_of_interrupt(vector);
    }
}
