//! The end of what a monitor or a guest's console writes.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

/// Bytes that are kept.
const KEPT: usize = 4 << 10;
/// How the agent says what it cannot do.
const AGENT: &str = "atoll-guest: cannot ";
/// Bytes read before others get their turn.
const TURN: usize = 64 << 10;

/// The last bytes of a stream.
#[derive(Default)]
pub(super) struct Tail {
    bytes: Vec<u8>,
}

impl Tail {
    /// Reads what `from` has; at its end it is closed.
    pub(super) fn read(&mut self, from: &mut Option<OwnedFd>) {
        let mut buffer = [0; KEPT];
        for _ in 0..TURN / KEPT {
            let Some(fd) = from.as_ref() else { return };
            match rustix::io::read(fd, &mut buffer) {
                Ok(0) => *from = None,
                Ok(count) => self.push(&buffer[..count]),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => *from = None,
            }
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let surplus = self.bytes.len().saturating_sub(KEPT);
        self.bytes.drain(..surplus);
    }

    /// The monitor's error with its reasons, on one line.
    pub(super) fn error(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.bytes);
        let mut lines = text.lines();
        let mut error = lines
            .find_map(|line| line.strip_prefix("error: "))?
            .to_owned();
        for line in lines.map(str::trim) {
            let part = line
                .strip_prefix("because: ")
                .or(line.strip_prefix("hint: "));
            let Some(part) = part else { continue };
            error = format!("{error}: {part}");
        }
        Some(error)
    }

    /// Why the agent switched its machine off, if it says that; else the last line that says something.
    pub(super) fn last_line(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.bytes);
        let lines = text.lines().map(str::trim).rev();
        let reason = lines.clone().find(|line| line.starts_with(AGENT));
        let line = reason.or_else(|| lines.clone().find(|line| !line.is_empty()))?;
        // A guest writes what it likes; an error message has no control characters.
        Some(line.chars().filter(|c| !c.is_control()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_and_read() {
        let mut tail = Tail::default();
        tail.push(&[b'x'; KEPT]);
        tail.push(b"\n[ 1.2] Kernel panic \x1b[0m\r\n\n");
        assert_eq!(tail.bytes.len(), KEPT);
        assert_eq!(tail.last_line().unwrap(), "[ 1.2] Kernel panic [0m");
        assert_eq!(tail.error(), None);
        tail.push(b"atoll-guest: cannot mount /x: EINVAL\r\n[ 1.3] reboot: Power down\r\n");
        assert_eq!(
            tail.last_line().unwrap(),
            "atoll-guest: cannot mount /x: EINVAL"
        );
        let mut tail = Tail::default();
        tail.push(b"x\nerror: cannot open the tap\n  because: EPERM\nhint: be root\n");
        assert_eq!(tail.error().unwrap(), "cannot open the tap: EPERM: be root");
        assert_eq!(Tail::default().last_line(), None);
    }

    #[test]
    fn a_stream_is_closed_at_its_end() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&write, b"one\n").unwrap();
        rustix::io::ioctl_fionbio(&read, true).unwrap();
        let mut read = Some(read);
        let mut tail = Tail::default();
        tail.read(&mut read);
        assert!(read.is_some());
        drop(write);
        tail.read(&mut read);
        assert!(read.is_none());
        assert_eq!(tail.last_line().unwrap(), "one");
    }
}
