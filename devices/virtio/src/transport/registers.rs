//! The register layout (virtio 1.3 §4.2.2, table 4.1).

/// One 32-bit register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Magic,
    Version,
    DeviceId,
    Vendor,
    DeviceFeatures,
    DeviceFeaturesSelect,
    DriverFeatures,
    DriverFeaturesSelect,
    QueueSelect,
    QueueSizeMax,
    QueueSize,
    QueueReady,
    QueueNotify,
    InterruptStatus,
    InterruptAck,
    Status,
    QueueDescLow,
    QueueDescHigh,
    QueueDriverLow,
    QueueDriverHigh,
    QueueDeviceLow,
    QueueDeviceHigh,
    /// Length or base of a shared memory region.
    SharedMemory,
    ConfigGeneration,
}

impl Register {
    /// The register at `offset`, when there is one.
    pub(super) fn at(offset: u64) -> Option<Self> {
        Some(match offset {
            0x00 => Self::Magic,
            0x04 => Self::Version,
            0x08 => Self::DeviceId,
            0x0C => Self::Vendor,
            0x10 => Self::DeviceFeatures,
            0x14 => Self::DeviceFeaturesSelect,
            0x20 => Self::DriverFeatures,
            0x24 => Self::DriverFeaturesSelect,
            0x30 => Self::QueueSelect,
            0x34 => Self::QueueSizeMax,
            0x38 => Self::QueueSize,
            0x44 => Self::QueueReady,
            super::QUEUE_NOTIFY => Self::QueueNotify,
            0x60 => Self::InterruptStatus,
            0x64 => Self::InterruptAck,
            0x70 => Self::Status,
            0x80 => Self::QueueDescLow,
            0x84 => Self::QueueDescHigh,
            0x90 => Self::QueueDriverLow,
            0x94 => Self::QueueDriverHigh,
            0xA0 => Self::QueueDeviceLow,
            0xA4 => Self::QueueDeviceHigh,
            0xB0 | 0xB4 | 0xB8 | 0xBC => Self::SharedMemory,
            0xFC => Self::ConfigGeneration,
            _ => return None,
        })
    }
}
