//! Split virtqueues (virtio 1.3 §2.7) over `virtio-queue`, with its silent failures made loud.

use std::ops::Deref;
use std::sync::atomic::Ordering;

use atoll_memory::GuestMemory;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::chain::Chain;

/// The `vm-memory` type under [`GuestMemory`].
pub(crate) type Memory = <GuestMemory as Deref>::Target;

/// `VIRTQ_AVAIL_F_NO_INTERRUPT` (§2.7.6).
const NO_INTERRUPT: u16 = 1;

/// The driver broke the rules; only a reset of the device mends it (§2.1.2, `DEVICE_NEEDS_RESET`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Broken {
    /// More entries are available than the queue holds, or its memory is gone.
    #[error("the queue's rings make no sense")]
    Ring,
    /// A descriptor chain is empty, too long, endless, or refers to no descriptor.
    #[error("a descriptor chain makes no sense")]
    Chain,
    /// A buffer does not lie in memory.
    #[error("a buffer lies outside memory")]
    Address,
    /// A readable buffer follows a writable one.
    #[error("a readable buffer follows a writable one")]
    Order,
    /// A request is shorter than its fixed part, or has no room for its answer.
    #[error("a request is too short")]
    Request,
}

/// A queue as registers and snapshots know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    /// Entries, as the driver chose.
    pub size: u16,
    /// Whether the driver has set it up.
    pub ready: bool,
    /// Guest physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest physical address of the available ring.
    pub available: u64,
    /// Guest physical address of the used ring.
    pub used: u64,
    /// Index of the next available entry the device takes.
    pub next_available: u16,
    /// Index of the next used entry the device writes.
    pub next_used: u16,
}

/// One queue.
#[derive(Debug)]
pub(crate) struct Ring {
    max_size: u16,
    state: QueueState,
    queue: Option<Queue>,
    has_used: bool,
}

impl Ring {
    pub(crate) fn new(max_size: u16) -> Self {
        Self {
            max_size,
            state: QueueState {
                size: max_size,
                ..QueueState::default()
            },
            queue: None,
            has_used: false,
        }
    }

    pub(crate) fn max_size(&self) -> u16 {
        self.max_size
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.queue.is_some()
    }

    /// The registers, to be changed while the queue is not ready.
    pub(crate) fn registers(&mut self) -> Option<&mut QueueState> {
        self.queue.is_none().then_some(&mut self.state)
    }

    /// Takes the queue out of service, keeping its registers.
    pub(crate) fn stop(&mut self) {
        self.state = self.save();
        self.state.ready = false;
        self.queue = None;
        self.has_used = false;
    }

    pub(crate) fn save(&self) -> QueueState {
        let mut state = self.state;
        if let Some(queue) = &self.queue {
            state.ready = true;
            state.next_available = queue.next_avail();
            state.next_used = queue.next_used();
        }
        state
    }

    /// Puts the queue into service as `state` says.
    ///
    /// # Errors
    /// [`Broken::Ring`] when size, alignment or addresses are not allowed.
    pub(crate) fn start(
        &mut self,
        memory: &GuestMemory,
        state: QueueState,
        event_index: bool,
    ) -> Result<(), Broken> {
        let mut queue = Queue::new(self.max_size).map_err(|_| Broken::Ring)?;
        let addresses = [state.descriptors, state.available, state.used];
        // The library takes an available ring at 0 for one not set up.
        if addresses.contains(&0) {
            return Err(Broken::Ring);
        }
        queue
            .try_set_size(state.size)
            .and_then(|()| queue.try_set_desc_table_address(GuestAddress(state.descriptors)))
            .and_then(|()| queue.try_set_avail_ring_address(GuestAddress(state.available)))
            .and_then(|()| queue.try_set_used_ring_address(GuestAddress(state.used)))
            .map_err(|_| Broken::Ring)?;
        queue.set_next_avail(state.next_available);
        queue.set_next_used(state.next_used);
        queue.set_event_idx(event_index);
        queue.set_ready(true);
        let memory: &Memory = memory;
        if !queue.is_valid(memory) {
            return Err(Broken::Ring);
        }
        self.state = state;
        self.queue = Some(queue);
        self.has_used = false;
        Ok(())
    }

    /// Whether the driver wants to hear of what was put into the used ring since the last call (§2.7.7.2).
    pub(crate) fn take_signal(&mut self, memory: &GuestMemory) -> Result<bool, Broken> {
        let Some(queue) = self.queue.as_mut().filter(|_| self.has_used) else {
            return Ok(false);
        };
        self.has_used = false;
        let memory: &Memory = memory;
        if !queue.event_idx_enabled() {
            let flags: u16 = memory
                .load(GuestAddress(queue.avail_ring()), Ordering::Acquire)
                .map_err(|_| Broken::Ring)?;
            return Ok(u16::from_le(flags) & NO_INTERRUPT == 0);
        }
        queue.needs_notification(memory).map_err(|_| Broken::Ring)
    }
}

/// A device's queues while it works on them.
#[derive(Debug)]
pub struct Queues<'m> {
    memory: &'m GuestMemory,
    rings: &'m mut [Ring],
}

impl<'m> Queues<'m> {
    pub(crate) fn new(memory: &'m GuestMemory, rings: &'m mut [Ring]) -> Self {
        Self { memory, rings }
    }

    /// The guest's memory.
    pub fn memory(&self) -> &'m GuestMemory {
        self.memory
    }

    /// Takes the next chain from queue `index`; `None` when it is empty or not set up. When it is empty, the driver's
    /// next entry rings the doorbell.
    ///
    /// # Errors
    /// [`Broken`] when rings or chain break the rules.
    pub fn pop(&mut self, index: usize) -> Result<Option<Chain<'m>>, Broken> {
        let Some(queue) = self
            .rings
            .get_mut(index)
            .and_then(|ring| ring.queue.as_mut())
        else {
            return Ok(None);
        };
        let memory: &'m Memory = self.memory;
        let mut next = queue.iter(memory).map_err(|_| Broken::Ring)?.next();
        if next.is_none()
            && queue
                .enable_notification(memory)
                .map_err(|_| Broken::Ring)?
        {
            next = queue.iter(memory).map_err(|_| Broken::Ring)?.next();
        }
        next.map(|descriptors| Chain::collect(self.memory, descriptors))
            .transpose()
    }

    /// Puts the chain just popped back, to be popped again.
    pub fn undo_pop(&mut self, index: usize) {
        if let Some(queue) = self
            .rings
            .get_mut(index)
            .and_then(|ring| ring.queue.as_mut())
        {
            queue.go_to_previous_position();
        }
    }

    /// Returns a chain to the driver, with `written` bytes of answer in it.
    ///
    /// # Errors
    /// [`Broken::Ring`] when the used ring cannot be written.
    pub fn push(&mut self, index: usize, head: u16, written: u64) -> Result<(), Broken> {
        let Some(ring) = self.rings.get_mut(index) else {
            return Ok(());
        };
        let Some(queue) = ring.queue.as_mut() else {
            return Ok(());
        };
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        let memory: &Memory = self.memory;
        queue
            .add_used(memory, head, written)
            .map_err(|_| Broken::Ring)?;
        ring.has_used = true;
        Ok(())
    }
}
