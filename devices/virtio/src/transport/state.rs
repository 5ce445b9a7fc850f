//! A transport and its device as plain values, for snapshots.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::{CONFIG_CHANGE, Core, MmioTransport, RING_EVENT_IDX, USED_BUFFER, status};
use crate::device::{DeviceState, DeviceType, RestoreError};
use crate::ring::{QueueState, Ring};

/// One device in a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransportState {
    /// Which device.
    pub device_type: DeviceType,
    /// Device status (virtio 1.3 §2.1).
    pub status: u32,
    /// Features the driver accepted.
    pub features: u64,
    /// `DeviceFeaturesSel`.
    pub device_features_select: u32,
    /// `DriverFeaturesSel`.
    pub driver_features_select: u32,
    /// `QueueSel`.
    pub queue_select: u32,
    /// `InterruptStatus`.
    pub interrupt_status: u32,
    /// `ConfigGeneration`.
    pub config_generation: u32,
    /// Each queue.
    pub queues: Vec<QueueState>,
    /// The device's own part.
    pub device: DeviceState,
}

impl MmioTransport {
    /// Takes the state down. No vCPU may run meanwhile, and no host event be served.
    pub fn save(&self) -> TransportState {
        let core = self.lock();
        TransportState {
            device_type: core.device.device_type(),
            status: core.status,
            features: core.accepted,
            device_features_select: core.device_features_select,
            driver_features_select: core.driver_features_select,
            queue_select: core.queue_select,
            interrupt_status: self.interrupt_status.load(Ordering::Acquire),
            config_generation: self.generation.load(Ordering::Acquire),
            queues: core.rings.iter().map(Ring::save).collect(),
            device: core.device.save(),
        }
    }

    /// Takes `state` over; the guest's memory must hold its contents already. Nothing is worked on before
    /// [`MmioTransport::resume`].
    ///
    /// # Errors
    /// [`RestoreError`] when the state does not fit this device; the device is then reset.
    pub fn restore(&self, state: &TransportState) -> Result<(), RestoreError> {
        let mut core = self.lock();
        self.reset(&mut core);
        let outcome = self.restore_core(&mut core, state);
        if outcome.is_err() {
            self.reset(&mut core);
        }
        outcome
    }

    fn restore_core(&self, core: &mut Core, state: &TransportState) -> Result<(), RestoreError> {
        let device_type = core.device.device_type();
        if state.device_type != device_type {
            return Err(RestoreError::Device(device_type));
        }
        let unknown = state.features & !core.offered;
        if unknown != 0 && state.status & status::FEATURES_OK != 0 {
            return Err(RestoreError::Features(unknown));
        }
        if state.queues.len() != core.rings.len() {
            return Err(RestoreError::Queue(state.queues.len()));
        }
        let event_index = state.features & RING_EVENT_IDX != 0;
        for (index, (ring, queue)) in core.rings.iter_mut().zip(&state.queues).enumerate() {
            if queue.ready {
                ring.start(&self.memory, *queue, event_index)
                    .map_err(|_| RestoreError::Queue(index))?;
            } else if let Some(registers) = ring.registers() {
                *registers = *queue;
            }
        }
        let is_active =
            state.status & status::DRIVER_OK != 0 && state.status & status::NEEDS_RESET == 0;
        core.device
            .restore(&state.device, is_active.then_some(state.features))?;
        core.status = state.status;
        core.accepted = state.features;
        core.device_features_select = state.device_features_select;
        core.driver_features_select = state.driver_features_select;
        core.queue_select = state.queue_select;
        self.interrupt_status
            .store(state.interrupt_status, Ordering::Release);
        self.generation
            .store(state.config_generation, Ordering::Release);
        Ok(())
    }

    /// Goes on after [`MmioTransport::restore`]: serves doorbells and raises interrupts that may have been lost on the
    /// way.
    pub fn resume(&self) {
        let mut core = self.lock();
        self.process_all(&mut core);
        let pending = self.interrupt_status.load(Ordering::Acquire) & (USED_BUFFER | CONFIG_CHANGE);
        if pending != 0 {
            self.interrupt.raise();
        }
    }
}
