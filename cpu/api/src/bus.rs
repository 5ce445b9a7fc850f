//! What a virtual CPU reaches outside itself.

/// The machine as its CPUs see it: I/O ports, and physical addresses that are not memory.
///
/// Called by the CPU's own thread, so an implementation blocks the guest for as long as it takes. It must take any
/// port, address and width: what nobody answers reads as all ones and swallows writes.
pub trait Bus: Send + Sync {
    /// Reads 1, 2 or 4 bytes from an I/O port.
    fn port_read(&self, port: u16, data: &mut [u8]);
    /// Writes 1, 2 or 4 bytes to an I/O port.
    fn port_write(&self, port: u16, data: &[u8]);
    /// Reads 1 to 8 bytes at a guest physical address that is no memory.
    fn memory_read(&self, address: u64, data: &mut [u8]);
    /// Writes 1 to 8 bytes at a guest physical address that is no memory.
    fn memory_write(&self, address: u64, data: &[u8]);
    /// The guest ended a level-triggered interrupt in a local APIC that the backend keeps itself, and I/O APICs are to
    /// know (Intel SDM vol. 3 §11.8.5). Only for vectors that a pin sends, as
    /// [`Accelerated::describe_pin`](crate::Accelerated::describe_pin) was told.
    fn end_of_interrupt(&self, _vector: u8) {}
}

/// A register access that raises a general protection fault in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// The local APIC of one virtual CPU, as a software CPU uses it. (KVM has its own in the kernel.)
///
/// Whoever puts an interrupt into it from another thread raises [`Request::Interrupt`](crate::Request::Interrupt)
/// at that CPU.
pub trait InterruptController: Send + Sync {
    /// Reads `IA32_APIC_BASE` (0x1B), `IA32_TSC_DEADLINE` (0x6E0) or an x2APIC register (0x800 to 0x8FF).
    ///
    /// # Errors
    /// Where the processor would raise #GP (Intel SDM vol. 3 §11.12).
    fn read_msr(&self, msr: u32, tsc: u64) -> Result<u64, GeneralProtection>;

    /// Writes one of the same registers.
    ///
    /// # Errors
    /// Where the processor would raise #GP.
    fn write_msr(&self, msr: u32, value: u64, tsc: u64) -> Result<(), GeneralProtection>;

    /// The guest's TSC at which [`InterruptController::tick`] has something to do; `None` when no timer runs.
    fn deadline(&self) -> Option<u64>;

    /// Lets timers that are due at `tsc` fire.
    fn tick(&self, tsc: u64);

    /// Whether an interrupt is waiting whose priority is over the task's and the one in service.
    fn is_pending(&self) -> bool;

    /// Moves the highest waiting interrupt into service and gives its vector.
    fn acknowledge(&self) -> Option<u8>;

    /// Ends the highest interrupt in service, as a write to the EOI register would.
    fn end_of_interrupt(&self);

    /// Whether the end of the highest interrupt in service can be told later: it is edge-triggered, and no other waits.
    fn end_can_wait(&self) -> bool {
        false
    }

    /// The task priority as CR8 shows it, 0 to 15.
    fn task_priority(&self) -> u8;

    /// Sets the task priority, 0 to 15.
    fn set_task_priority(&self, priority: u8);

    /// What a [`Request::Startup`](crate::Request::Startup) means: `Some(vector)` of a start-up message, `None` of INIT.
    fn take_startup(&self) -> Option<u8>;
}
