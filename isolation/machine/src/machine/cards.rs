//! Network cards that are plugged in and out while the machine is there.
//!
//! A guest knows the windows of all places from the beginning. In an empty one it finds a device without function, which
//! drivers leave alone (virtio 1.3 §4.2.2, `DeviceID`); after a card was plugged in, it has its driver look again. Before
//! one is taken out, it has its driver let go.
//!
//! An empty place that never had a card costs nothing: no lock, no descriptor, nothing in a snapshot.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};

use atoll_virtio::{DeviceError, DeviceType, MmioTransport, NetDevice, NetOptions};

use super::{FIRST_DEVICE_PIN, Machine};
use crate::error::MachineError;

impl Machine {
    /// Plugs a network card into place `number`, an empty one.
    ///
    /// * `number`: counts all devices from 0, those given to [`Machine::new`] first.
    /// * `tap`: as [`NetDevice::new`] takes it.
    ///
    /// # Errors
    /// [`MachineError::NoPlace`]; [`MachineError::Io`] when there is a card already, or the descriptor is no tap. Nothing
    /// has changed then.
    pub fn plug(
        &self,
        number: usize,
        tap: OwnedFd,
        options: NetOptions,
    ) -> Result<(), MachineError> {
        let _one_at_a_time = self.exchange.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = failed("plug in", number);
        if let Some(device) = self.place(number)? {
            return device.exchange(Some((tap, options))).map_err(failed);
        }
        let empty = NetDevice::empty().map_err(&failed)?;
        // Not above the number of pins, or there would be no such place.
        let line = (self.board.interrupts).device_line(FIRST_DEVICE_PIN + number as u8)?;
        let device = MmioTransport::new(Box::new(empty), self.memory.clone(), line);
        device.exchange(Some((tap, options))).map_err(failed)?;
        let device = Arc::new(device);
        self.watch
            .add(&device, number as u64, self.vm.accelerated())?;
        let place = &self.board.places[number - self.board.devices.len()];
        // It is empty, and nobody else fills it now.
        let _ = place.set(device);
        Ok(())
    }

    /// Takes the network card out of place `number`; its tap is closed. One that is empty stays so.
    ///
    /// # Errors
    /// [`MachineError::NoPlace`]; [`MachineError::Io`] when another kind of device is there.
    pub fn unplug(&self, number: usize) -> Result<(), MachineError> {
        let _one_at_a_time = self.exchange.lock().unwrap_or_else(PoisonError::into_inner);
        match self.place(number)? {
            Some(device) => device.exchange(None).map_err(failed("take out", number)),
            None => Ok(()),
        }
    }

    /// Whether it still has, or has again, the network cards it was made with and no others.
    pub(super) fn has_its_first_cards(&self) -> bool {
        let is_empty =
            |device: &Arc<MmioTransport>| device.device_type() == DeviceType::Placeholder;
        let mut later = self.board.places.iter().filter_map(|place| place.get());
        !self.board.devices.iter().any(is_empty) && later.all(is_empty)
    }

    /// The device at place `number`; none where there never was one.
    fn place(&self, number: usize) -> Result<Option<&Arc<MmioTransport>>, MachineError> {
        let devices = &self.board.devices;
        if let Some(device) = devices.get(number) {
            return Ok(Some(device));
        }
        let place = self.board.places.get(number - devices.len());
        let place = place.ok_or(MachineError::NoPlace(number))?;
        Ok(place.get())
    }
}

fn failed(action: &'static str, number: usize) -> impl Fn(DeviceError) -> MachineError {
    move |why| {
        let action = format!("{action} a network card at place {number}");
        MachineError::io(action)(io::Error::other(why))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use atoll_cpu_api::Bus;
    use atoll_interpreter::Soft;
    use atoll_memory::GuestMemory;
    use atoll_sys::tap;
    use atoll_virtio::{RngDevice, WINDOW};

    use super::*;
    use crate::machine::bus::{CpuBus, DEVICES_BASE};
    use crate::machine::{MAX_DEVICES, MachineConfig};

    fn machine() -> Machine {
        let config = MachineConfig {
            cpus: 1,
            tsc_khz: None,
            spare_cards: 2,
        };
        let memory = GuestMemory::new(8 << 20).unwrap();
        let devices = vec![Box::new(RngDevice::new()) as _];
        Machine::new(config, &Soft, memory, devices, Box::new(io::sink())).unwrap()
    }

    fn options() -> NetOptions {
        NetOptions {
            mac: [2, 0, 0, 0, 0, 7],
            ..NetOptions::default()
        }
    }

    fn plug(machine: &Machine, number: usize) -> Result<(), String> {
        let tap = tap::open("atoll-c%d", 12).unwrap();
        let plugged = machine.plug(number, tap, options());
        plugged.map_err(|error| atoll_sys::with_causes(&error))
    }

    /// The ID of the device that the guest finds at a place.
    fn found(machine: &Machine, number: u64) -> u32 {
        let bus = CpuBus {
            board: Arc::clone(&machine.board),
            index: 0,
            handle: Arc::clone(&machine.handles[0]),
        };
        let mut id = [0; 4];
        let window = DEVICES_BASE + number * WINDOW;
        bus.memory_write(window + 0x70, &[0; 4]);
        bus.memory_read(window, &mut id);
        if id == [0xFF; 4] {
            return u32::MAX;
        }
        assert_eq!(&id, b"virt");
        bus.memory_read(window + 8, &mut id);
        u32::from_le_bytes(id)
    }

    #[test]
    fn cards_come_and_go_and_nothing_else_does() {
        let machine = machine();
        let ids = || [0, 1, 2, 3].map(|number| found(&machine, number));
        assert_eq!(ids(), [4, 0, 0, u32::MAX]);
        plug(&machine, 2).unwrap();
        assert_eq!(ids(), [4, 0, 1, u32::MAX]);
        let again = plug(&machine, 2).unwrap_err();
        assert!(
            again.contains("place 2: there is a network card already"),
            "{again}"
        );
        let fixed = plug(&machine, 0).unwrap_err();
        assert!(fixed.contains("a Rng cannot be exchanged"), "{fixed}");
        assert!(machine.unplug(0).is_err());
        for none in [3, usize::MAX] {
            let outside = plug(&machine, none).unwrap_err();
            assert!(outside.contains("has no place"), "{outside}");
        }
        let file = tempfile::tempfile().unwrap();
        assert!(machine.plug(1, file.into(), options()).is_err());
        assert_eq!(ids(), [4, 0, 1, u32::MAX]);
        let folder = tempfile::tempdir().unwrap();
        let save = || machine.save(File::open(folder.path()).unwrap().as_fd());
        let refused = save().unwrap_err().to_string();
        assert!(refused.contains("plugged in or out"), "{refused}");
        for _ in 0..2 {
            machine.unplug(2).unwrap();
            machine.unplug(1).unwrap();
            assert_eq!(ids(), [4, 0, 0, u32::MAX]);
            save().unwrap();
            plug(&machine, 2).unwrap();
        }
    }

    #[test]
    fn places_have_pins_or_are_refused() {
        let config = MachineConfig {
            cpus: 1,
            tsc_khz: None,
            spare_cards: MAX_DEVICES as u8,
        };
        let memory = GuestMemory::new(8 << 20).unwrap();
        let devices = vec![Box::new(RngDevice::new()) as _];
        let made = Machine::new(config, &Soft, memory, devices, Box::new(io::sink()));
        assert!(matches!(made, Err(MachineError::TooManyDevices { .. })));
    }
}
