//! What is typed: passed to the guest, but for Ctrl-A and the key after it.

use std::io::{self, Read};
use std::sync::{Arc, PoisonError};

use atoll_machine::MachineError;

use crate::Current;

const CONTROL_A: u8 = 1;

/// Finds Ctrl-A x in what is typed.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    escaped: bool,
}

impl Keys {
    /// The bytes for the guest, and whether the user leaves. Ctrl-A twice is one Ctrl-A for the guest.
    pub(crate) fn typed(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            match (std::mem::take(&mut self.escaped), byte) {
                (true, b'x' | b'X') => return (passed, true),
                (true, CONTROL_A) => passed.push(CONTROL_A),
                (true, _) => passed.extend([CONTROL_A, byte]),
                (false, CONTROL_A) => self.escaped = true,
                (false, _) => passed.push(byte),
            }
        }
        (passed, false)
    }
}

/// Reads the standard input on a thread of its own until it ends, the user leaves or the process does.
pub(crate) fn read_input(current: &Current) -> Result<(), MachineError> {
    let current = Arc::clone(current);
    std::thread::Builder::new()
        .name("input".to_owned())
        .spawn(move || {
            let mut keys = Keys::default();
            let mut buffer = [0; 4096];
            loop {
                let count = match io::stdin().lock().read(&mut buffer) {
                    Ok(0) => return,
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => return,
                };
                let (bytes, leaves) = keys.typed(&buffer[..count]);
                let mut seat = current.lock().unwrap_or_else(PoisonError::into_inner);
                // Between two machines nobody listens.
                if let Some(machine) = &seat.machine {
                    machine.input(&bytes);
                }
                if leaves {
                    seat.leave();
                }
            }
        })
        .map_err(MachineError::io("start a thread"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_a_x_leaves_and_other_keys_pass() {
        let mut keys = Keys::default();
        assert_eq!(keys.typed(b"ab\x01"), (b"ab".to_vec(), false));
        assert_eq!(keys.typed(b"\x01c"), (b"\x01c".to_vec(), false));
        assert_eq!(keys.typed(b"\x01c\x03"), (b"\x01c\x03".to_vec(), false));
        assert_eq!(keys.typed(b"z\x01xignored"), (b"z".to_vec(), true));
    }
}
