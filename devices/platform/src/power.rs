//! Power-off and reset registers, as the FADT names them.
//!
//! Source: ACPI 6.5 §4.8.3.7 (sleep control and status registers), §4.8.3.6 (reset register).

/// I/O port of the sleep control register; the status register follows it.
pub const POWER_PORT: u16 = 0x600;
/// I/O port of the reset register, at the place PCI chip sets have it.
pub const RESET_PORT: u16 = 0xCF9;

/// Sleep type of S5 in our `\_S5` object.
pub(crate) const S5_TYPE: u8 = 5;
/// The value that resets, as the FADT says.
pub(crate) const RESET_VALUE: u8 = 6;

const SLEEP_ENABLE: u8 = 0x20;

/// What the guest asked the board for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// Soft off, S5.
    Off,
    /// A reset of the whole machine.
    Reset,
}

/// The sleep control, sleep status and reset registers. They hold nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Power;

impl Power {
    /// Reads `port`: always 0, no wake status.
    pub fn read(&self, _port: u16) -> u8 {
        0
    }

    /// Writes `port`: [`POWER_PORT`], [`RESET_PORT`], or 0x64, the keyboard controller's command port.
    pub fn write(&self, port: u16, value: u8) -> Option<PowerRequest> {
        match port {
            POWER_PORT if value & SLEEP_ENABLE != 0 && value >> 2 & 7 == S5_TYPE => {
                Some(PowerRequest::Off)
            }
            RESET_PORT if value & 4 != 0 => Some(PowerRequest::Reset),
            // Pulse output line 0, which is the reset line.
            0x64 if value == 0xFE => Some(PowerRequest::Reset),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_documented_values_do_anything() {
        for value in 0..=255u8 {
            let off = value & 0x3C == 0x34;
            let asked = Power.write(POWER_PORT, value);
            assert_eq!(asked == Some(PowerRequest::Off), off, "{value:#x}");
        }
        assert_eq!(
            Power.write(RESET_PORT, RESET_VALUE),
            Some(PowerRequest::Reset)
        );
        assert_eq!(Power.write(RESET_PORT, 2), None);
        assert_eq!(Power.write(0x64, 0xFE), Some(PowerRequest::Reset));
        assert_eq!(Power.write(0x64, 0xAA), None);
    }
}
