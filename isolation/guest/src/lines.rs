//! Lines over a non-blocking socket: the agent's connection, as both sides have it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::protocol;

/// Bytes read at once.
const READ: usize = 16 << 10;

/// A non-blocking socket that messages come and go by, a line each.
#[derive(Debug)]
pub struct Lines {
    socket: OwnedFd,
    longest: usize,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Lines {
    /// * `longest`: bytes of the longest line that is taken from the other side.
    #[must_use]
    pub fn new(socket: OwnedFd, longest: usize) -> Self {
        Self {
            socket,
            longest,
            input: Vec::new(),
            output: Vec::new(),
        }
    }

    /// The socket, to wait for.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether something waits to be sent.
    #[must_use]
    pub fn owes(&self) -> bool {
        !self.output.is_empty()
    }

    /// Sends a message, now or when the other side takes it.
    ///
    /// # Errors
    /// When it is too long, or the other side is gone.
    pub fn send<T: Serialize>(&mut self, message: &T) -> std::io::Result<()> {
        self.output.extend(protocol::line(message)?);
        Ok(self.flush()?)
    }

    /// Sends what the other side takes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn flush(&mut self) -> Result<(), Errno> {
        while !self.output.is_empty() {
            match rustix::io::write(&self.socket, &self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.output = Vec::new();
        Ok(())
    }

    /// Reads what is there; false when the other side has closed.
    ///
    /// # Errors
    /// `EMSGSIZE` for a line that is too long; the kernel's.
    pub fn receive(&mut self) -> Result<bool, Errno> {
        let mut buffer = [0; READ];
        loop {
            match rustix::io::read(&self.socket, &mut buffer) {
                Ok(0) => return Ok(false),
                Ok(count) if self.input.len() + count > self.longest + READ => {
                    return Err(Errno::MSGSIZE);
                }
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(Errno::AGAIN) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
            // Whole lines first: the other side waits for their answers.
            if self.input.contains(&b'\n') {
                return Ok(true);
            }
        }
    }

    /// The next whole line as a message, or what is wrong with it.
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Option<serde_json::Result<T>> {
        let end = self.input.iter().position(|&byte| byte == b'\n')?;
        let message = serde_json::from_slice(&self.input[..end]);
        self.input.drain(..=end);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair(longest: usize) -> (Lines, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Lines::new(ours.into(), longest), theirs)
    }

    #[test]
    fn messages_come_whole_however_they_are_cut() {
        let (mut lines, mut theirs) = pair(64);
        theirs.write_all(b"1").unwrap();
        assert!(lines.receive().unwrap());
        assert!(lines.next_message::<u32>().is_none());
        theirs.write_all(b"2\n\"x\"\n3\n").unwrap();
        drop(theirs);
        assert!(lines.receive().unwrap());
        assert_eq!(lines.next_message::<u32>().unwrap().unwrap(), 12);
        assert!(lines.next_message::<u32>().unwrap().is_err());
        assert_eq!(lines.next_message::<u32>().unwrap().unwrap(), 3);
        assert!(lines.next_message::<u32>().is_none());
        assert!(!lines.receive().unwrap());
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let (mut lines, mut theirs) = pair(64);
        theirs.write_all(&[b'1'; READ + 65]).unwrap();
        let outcome = loop {
            match lines.receive() {
                Ok(true) => {}
                other => break other,
            }
        };
        assert_eq!(outcome, Err(Errno::MSGSIZE));
    }

    #[test]
    fn what_the_other_side_does_not_take_waits() {
        let (mut lines, mut theirs) = pair(64);
        let long = "x".repeat(1 << 20);
        lines.send(&long).unwrap();
        assert!(lines.owes());
        let mut received = vec![0; (1 << 20) + 3];
        let reader = std::thread::spawn(move || {
            theirs.read_exact(&mut received).unwrap();
            received
        });
        while lines.owes() {
            lines.flush().unwrap();
        }
        let received = reader.join().unwrap();
        assert_eq!((received[0], received[received.len() - 1]), (b'"', b'\n'));
    }
}
