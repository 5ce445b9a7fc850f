//! The way of an interrupt: device, pin of the I/O APIC, message, local APIC.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use atoll_cpu_api::{Msi, VcpuHandle, Vm};
use atoll_platform::{InterruptLine, IoApic, IoApicState, LocalApics, Message, Processors};

use super::control::Control;

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
        let (_, messages) = self.ioapic().write(offset, value);
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
        self.ioapic().set_state(state);
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

/// A pin as a device sees it.
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
