//! The way of an interrupt: device, pin of the I/O APIC, message, local APIC.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use atoll_cpu_api::{Msi, VcpuHandle, Vm};
use atoll_platform::{InterruptLine, IoApic, IoApicState, LocalApics, Message, PINS, Processors};
use atoll_virtio::Interrupt;
use rustix::event::{EventfdFlags, eventfd};

use super::control::Control;
use crate::error::MachineError;

/// The I/O APIC and what its messages go to.
pub(super) struct Interrupts {
    ioapic: Mutex<IoApic>,
    target: Target,
}

enum Target {
    /// Local APICs of ours.
    Software(Arc<LocalApics>),
    /// Those of the backend.
    Backend(Arc<dyn Vm>),
}

impl Interrupts {
    /// Wires the board of a machine whose CPUs are `handles`, once they are there.
    pub(super) fn new(
        vm: &Arc<dyn Vm>,
        cpus: u8,
        handles: &Arc<OnceLock<Vec<Arc<dyn VcpuHandle>>>>,
        control: &Arc<Control>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Self>| {
            let target = if vm.accelerated().is_some() {
                Target::Backend(Arc::clone(vm))
            } else {
                let signals = Signals {
                    handles: Arc::clone(handles),
                    control: Arc::clone(control),
                    interrupts: this.clone(),
                };
                let apics = LocalApics::new(cpus, vm.tsc_khz(), Box::new(signals));
                Target::Software(Arc::new(apics))
            };
            Self {
                ioapic: Mutex::default(),
                target,
            }
        })
    }

    /// The local APICs, when they are ours.
    pub(super) fn local_apics(&self) -> Option<&Arc<LocalApics>> {
        match &self.target {
            Target::Software(apics) => Some(apics),
            Target::Backend(_) => None,
        }
    }

    /// Sets the level of a pin's line.
    pub(super) fn set_pin(&self, pin: u8, high: bool) {
        let message = self.ioapic().set_pin(pin, high);
        self.deliver(message);
    }

    /// An event at a pin.
    pub(super) fn pulse(&self, pin: u8) {
        let message = self.ioapic().pulse(pin);
        self.deliver(message);
    }

    /// Reads a register of the I/O APIC; `None` when none is there.
    pub(super) fn read(&self, offset: u64) -> Option<u32> {
        self.ioapic().read(offset)
    }

    /// Writes a register of the I/O APIC.
    pub(super) fn write(&self, offset: u64, value: u32) {
        let mut ioapic = self.ioapic();
        let (pin, messages) = ioapic.write(offset, value);
        if let Some(pin) = pin {
            self.describe(&ioapic, pin);
        }
        drop(ioapic);
        self.deliver(messages);
    }

    /// A level-triggered interrupt ended in a local APIC.
    pub(super) fn end_of_interrupt(&self, vector: u8) {
        let messages = self.ioapic().end_of_interrupt(vector);
        self.deliver(messages);
    }

    /// The I/O APIC's registers.
    pub(super) fn save(&self) -> IoApicState {
        self.ioapic().state().clone()
    }

    /// Restores them.
    pub(super) fn restore(&self, state: IoApicState) {
        let mut ioapic = self.ioapic();
        ioapic.set_state(state);
        (0..PINS).for_each(|pin| self.describe(&ioapic, pin));
    }

    /// The line of a device with events at `pin`: by the kernel alone where the backend can.
    ///
    /// # Errors
    /// [`MachineError::Io`] without a descriptor left; [`MachineError::Cpu`] when the backend refuses.
    pub(super) fn device_line(
        self: &Arc<Self>,
        pin: u8,
    ) -> Result<Box<dyn Interrupt>, MachineError> {
        let accelerated = match &self.target {
            Target::Software(_) => None,
            Target::Backend(vm) => vm.accelerated(),
        };
        let Some(accelerated) = accelerated else {
            let interrupts = Arc::clone(self);
            return Ok(Box::new(Edge { interrupts, pin }));
        };
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| MachineError::io("make an event")(errno.into()))?;
        accelerated.connect_pin(pin, event.as_fd())?;
        Ok(Box::new(Event(event)))
    }

    /// Tells the backend what `pin` sends. With the I/O APIC locked, so that the last entry written is the one told.
    fn describe(&self, ioapic: &IoApic, pin: u8) {
        let Target::Backend(vm) = &self.target else {
            return;
        };
        if let Some(accelerated) = vm.accelerated() {
            let message = ioapic.message(pin);
            let msi = message.map(|Message { address, data }| Msi { address, data });
            // Refused without memory for it in the kernel: the guest then misses interrupts, as of a broken board.
            let _ = accelerated.describe_pin(pin, msi);
        }
    }

    fn deliver(&self, messages: impl IntoIterator<Item = Message>) {
        for Message { address, data } in messages {
            match &self.target {
                Target::Software(apics) => apics.deliver(address, data),
                Target::Backend(vm) => {
                    if let Some(accelerated) = vm.accelerated() {
                        // A message to nobody is refused; on a board it would be lost as well.
                        let _ = accelerated.signal_msi(Msi { address, data });
                    }
                }
            }
        }
    }

    fn ioapic(&self) -> MutexGuard<'_, IoApic> {
        self.ioapic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An edge at a pin of our I/O APIC.
struct Edge {
    interrupts: Arc<Interrupts>,
    pin: u8,
}

impl Interrupt for Edge {
    fn raise(&self) {
        self.interrupts.pulse(self.pin);
    }
}

/// An event that the backend takes for an edge.
struct Event(OwnedFd);

impl Interrupt for Event {
    fn raise(&self) {
        // It counts to 2^64 - 2 and the kernel takes it at once.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

/// A pin as a device with a level sees it.
pub(super) struct Pin {
    pub(super) interrupts: Arc<Interrupts>,
    pub(super) number: u8,
}

impl InterruptLine for Pin {
    fn set(&self, high: bool) {
        self.interrupts.set_pin(self.number, high);
    }
}

/// The CPUs as local APICs signal them.
struct Signals {
    handles: Arc<OnceLock<Vec<Arc<dyn VcpuHandle>>>>,
    control: Arc<Control>,
    interrupts: Weak<Interrupts>,
}

impl Signals {
    fn with(&self, index: usize, tell: impl Fn(&dyn VcpuHandle)) {
        // Before the CPUs are there, nothing can be in their APICs.
        if let Some(handle) = self.handles.get().and_then(|handles| handles.get(index)) {
            tell(&**handle);
        }
    }
}

impl Processors for Signals {
    fn interrupt(&self, index: usize) {
        self.with(index, |handle| handle.interrupt());
    }

    fn nmi(&self, index: usize) {
        self.with(index, |handle| handle.nmi());
        self.control.wake(index);
    }

    fn startup(&self, index: usize) {
        self.with(index, |handle| handle.startup());
        self.control.wake(index);
    }

    fn end_of_level(&self, vector: u8) {
        if let Some(interrupts) = self.interrupts.upgrade() {
            interrupts.end_of_interrupt(vector);
        }
    }
}
