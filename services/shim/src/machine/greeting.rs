//! A guest's connection before it is known what it is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use atoll_guest::protocol::{Greeting, LONGEST_GREETING, StreamName, VERSION};
use rustix::io::Errno;
use rustix::net::RecvFlags;

/// A connection whose first line is not read.
pub(super) struct Incoming {
    socket: OwnedFd,
}

/// How far it is.
pub(super) enum Progress {
    /// The line is not whole.
    Waiting,
    /// It is no line of the protocol.
    Refused,
    /// The agent of this version, with its kernel's release.
    Agent(String),
    /// A stream; its bytes follow.
    Stream(StreamName),
}

impl Incoming {
    /// * `socket`: non-blocking.
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.socket
    }

    /// Reads the line and nothing behind it.
    pub(super) fn advance(&mut self) -> Progress {
        let mut bytes = [0; LONGEST_GREETING];
        let (_, count) = match rustix::net::recv(&self.socket, &mut bytes, RecvFlags::PEEK) {
            Err(Errno::AGAIN | Errno::INTR) => return Progress::Waiting,
            Ok((_, 0)) | Err(_) => return Progress::Refused,
            Ok(count) => count,
        };
        let Some(end) = bytes[..count].iter().position(|&byte| byte == b'\n') else {
            return match count {
                LONGEST_GREETING => Progress::Refused,
                _ => Progress::Waiting,
            };
        };
        let line = &mut bytes[..=end];
        match rustix::net::recv(&self.socket, &mut *line, RecvFlags::empty()) {
            Ok((_, read)) if read == end + 1 => {}
            _ => return Progress::Refused,
        }
        match serde_json::from_slice(&line[..end]) {
            Ok(Greeting::Agent(hello)) if hello.version == VERSION => {
                Progress::Agent(hello.release)
            }
            Ok(Greeting::Stream(name)) => Progress::Stream(name),
            Ok(Greeting::Agent(_)) | Err(_) => Progress::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use atoll_guest::protocol::StreamKind;

    use super::*;

    fn pair() -> (Incoming, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Incoming::new(ours.into()), theirs)
    }

    #[test]
    fn what_follows_the_greeting_is_left_for_the_stream() {
        let (mut incoming, mut guest) = pair();
        assert!(matches!(incoming.advance(), Progress::Waiting));
        guest
            .write_all(b"{\"stream\":{\"container\":\"web\",\"process\":\"\",")
            .unwrap();
        assert!(matches!(incoming.advance(), Progress::Waiting));
        guest.write_all(b"\"kind\":\"stderr\"}}\nhello").unwrap();
        let Progress::Stream(name) = incoming.advance() else {
            panic!("a whole greeting is one");
        };
        assert_eq!(name.kind, StreamKind::Stderr);
        drop(guest);
        let mut rest = String::new();
        UnixStream::from(incoming.into_fd())
            .read_to_string(&mut rest)
            .unwrap();
        assert_eq!(rest, "hello");
    }

    #[test]
    fn what_is_no_greeting_is_refused() {
        let long = [b'x'; LONGEST_GREETING];
        for bad in [
            &b"hello\n"[..],
            b"{\"agent\":{\"version\":1,\"release\":\"\"}}\n",
            b"{}\n",
            &long,
        ] {
            let (mut incoming, mut guest) = pair();
            guest.write_all(bad).unwrap();
            assert!(matches!(incoming.advance(), Progress::Refused));
        }
        let (mut incoming, guest) = pair();
        drop(guest);
        assert!(matches!(incoming.advance(), Progress::Refused));
    }
}
