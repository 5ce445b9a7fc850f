//! The clock chip: date and time of day.
//!
//! Source: Motorola MC146818A data sheet; the century register at 0x32 as the FADT says.

use std::fmt;

use serde::{Deserialize, Serialize};

/// I/O port of its index register; data follows it.
pub const RTC_PORT: u16 = 0x70;
/// The register that holds the century.
pub(crate) const CENTURY: u8 = 0x32;

/// A clock chip that shows a clock's time in UTC; it keeps 114 bytes of memory, and cannot be set or wake anybody.
pub struct Rtc {
    index: u8,
    memory: [u8; 128],
    /// Seconds since 1970.
    clock: Box<dyn Fn() -> u64 + Send>,
}

/// What a clock chip keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcState {
    /// The selected register.
    pub index: u8,
    /// Registers and memory from index 0 on; those of date and time mean nothing. What is missing is zero.
    pub memory: Vec<u8>,
}

impl fmt::Debug for Rtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rtc").field("index", &self.index).finish()
    }
}

impl Rtc {
    /// A chip that shows `clock`, seconds since 1970.
    pub fn new(clock: Box<dyn Fn() -> u64 + Send>) -> Self {
        Self {
            index: 0,
            memory: [0; 128],
            clock,
        }
    }

    /// What it keeps.
    pub fn state(&self) -> RtcState {
        RtcState {
            index: self.index,
            memory: self.memory.to_vec(),
        }
    }

    /// Takes a state over; bytes beyond its memory are dropped.
    pub fn set_state(&mut self, state: &RtcState) {
        self.index = state.index & 0x7F;
        self.memory = [0; 128];
        for (byte, saved) in self.memory.iter_mut().zip(&state.memory) {
            *byte = *saved;
        }
    }

    /// Reads the index (`offset` 0, write-only: all ones) or the data it selects (`offset` 1).
    pub fn read(&self, offset: u16) -> u8 {
        if offset & 1 == 0 {
            return 0xFF;
        }
        let binary = self.memory[0xB] & 4 != 0;
        let number = |value: u64| {
            let value = (value % 100) as u8;
            if binary {
                value
            } else {
                value / 10 * 16 + value % 10
            }
        };
        let date = Date::of((self.clock)());
        match self.index {
            0 => number(date.second),
            2 => number(date.minute),
            4 if self.memory[0xB] & 2 != 0 => number(date.hour),
            4 => {
                let hour = number((date.hour + 11) % 12 + 1);
                hour | if date.hour >= 12 { 0x80 } else { 0 }
            }
            6 => number(date.weekday),
            7 => number(date.day),
            8 => number(date.month),
            9 => number(date.year),
            CENTURY => number(date.year / 100),
            // Never in the middle of an update; the divider runs at 32768 Hz.
            0xA => 0x26,
            0xC => 0,
            0xD => 0x80,
            index => self.memory[usize::from(index & 0x7F)],
        }
    }

    /// Writes the index (`offset` 0) or the data it selects (`offset` 1).
    pub fn write(&mut self, offset: u16, value: u8) {
        if offset & 1 == 0 {
            // Bit 7 masks NMIs on a PC's board.
            self.index = value & 0x7F;
        } else if self.index > 9 {
            self.memory[usize::from(self.index)] = value;
        }
    }
}

/// A date in the proleptic Gregorian calendar, UTC.
#[derive(Debug, PartialEq, Eq)]
struct Date {
    year: u64,
    month: u64,
    day: u64,
    /// 1 is Sunday.
    weekday: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Date {
    /// The date `seconds` after 1970 began.
    fn of(seconds: u64) -> Self {
        let days = seconds / 86_400;
        // Years that begin in March put the leap day last; eras of 400 years have 146,097 days.
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let march_month = (5 * of_year + 2) / 153;
        let month = (march_month + 2) % 12 + 1;
        Self {
            year: era * 400 + year + u64::from(month <= 2),
            month,
            day: of_year - (153 * march_month + 2) / 5 + 1,
            weekday: (days + 4) % 7 + 1,
            hour: seconds / 3600 % 24,
            minute: seconds / 60 % 60,
            second: seconds % 60,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(seconds: u64, control: u8, index: u8) -> u8 {
        let mut rtc = Rtc::new(Box::new(move || seconds));
        rtc.write(0, 0xB);
        rtc.write(1, control);
        rtc.write(0, index | 0x80);
        rtc.read(1)
    }

    #[test]
    fn dates_are_right_around_leap_days_and_centuries() {
        // `date -u -d @… '+%Y %m %d %w %H %M %S'`
        for (seconds, year, month, day, weekday) in [
            (0, 1970, 1, 1, 5),
            (951_782_400, 2000, 2, 29, 3),
            (951_868_800, 2000, 3, 1, 4),
            (1_735_689_599, 2024, 12, 31, 3),
            (4_107_542_400, 2100, 3, 1, 2),
        ] {
            let date = Date::of(seconds);
            assert_eq!(
                (date.year, date.month, date.day, date.weekday),
                (year, month, day, weekday)
            );
        }
    }

    #[test]
    fn numbers_come_in_the_format_the_guest_chose() {
        let half_past_three = 1_735_689_600 - 86_400 + 15 * 3600 + 37 * 60 + 59;
        assert_eq!(shown(half_past_three, 2, 0), 0x59);
        assert_eq!(shown(half_past_three, 6, 0), 59);
        assert_eq!(shown(half_past_three, 2, 4), 0x15);
        assert_eq!(shown(half_past_three, 0, 4), 0x83);
        assert_eq!(shown(half_past_three, 2, CENTURY), 0x20);
        assert_eq!(shown(half_past_three, 2, 0xD), 0x80);
    }

    #[test]
    fn memory_is_kept_and_the_time_is_not_set() {
        let mut rtc = Rtc::new(Box::new(|| 5));
        for (index, value) in [(0, 0x30), (0x40, 0x77)] {
            rtc.write(0, index);
            rtc.write(1, value);
        }
        assert_eq!(rtc.read(1), 0x77);
        let mut other = Rtc::new(Box::new(|| 5));
        other.set_state(&rtc.state());
        assert_eq!((other.read(1), other.state()), (0x77, rtc.state()));
        other.set_state(&RtcState {
            index: 0xC0,
            memory: vec![1; 4096],
        });
        assert_eq!(other.read(1), 1);
        rtc.write(0, 0);
        assert_eq!(rtc.read(1), 5);
    }
}
