//! What a host connection says first: `CONNECT <port>\n`.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::poller::{Interest, Poller, Watched};

/// The longest greeting: "CONNECT 4294967295\n", with some grace.
const MAX_LEN: usize = 32;

/// A host connection that has not named its port yet.
#[derive(Debug)]
pub(super) struct Greeting {
    socket: Watched,
    heard: Vec<u8>,
}

/// How far a greeting is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The line is not complete.
    Waiting,
    /// The guest's port.
    Port(u32),
    /// Not a greeting, or the host is gone.
    Over,
}

impl Greeting {
    pub(super) fn new(socket: OwnedFd, token: u64) -> Self {
        Self {
            socket: Watched::new(socket, token),
            heard: Vec::with_capacity(MAX_LEN),
        }
    }

    pub(super) fn watch(&mut self, poller: &Poller, interest: Interest) -> bool {
        poller.watch(&mut self.socket, interest).is_ok()
    }

    /// Reads up to the end of the line and not beyond: what follows is data.
    pub(super) fn hear(&mut self) -> Progress {
        let mut ahead = [0; MAX_LEN];
        let room = MAX_LEN - self.heard.len();
        let seen = match rustix::net::recv(
            self.socket.as_fd(),
            &mut ahead[..room],
            RecvFlags::PEEK | RecvFlags::DONTWAIT,
        ) {
            Ok((0, _)) => return Progress::Over,
            Ok((count, _)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Progress::Waiting,
            Err(_) => return Progress::Over,
        };
        let line_end = ahead[..seen].iter().position(|byte| *byte == b'\n');
        let taken = line_end.map_or(seen, |at| at + 1);
        let outcome = rustix::net::recv(
            self.socket.as_fd(),
            &mut ahead[..taken],
            RecvFlags::DONTWAIT,
        );
        if !matches!(outcome, Ok((count, _)) if count == taken) {
            return Progress::Over;
        }
        self.heard.extend_from_slice(&ahead[..taken]);
        match line_end {
            Some(_) => parse(&self.heard).map_or(Progress::Over, Progress::Port),
            None if self.heard.len() >= MAX_LEN => Progress::Over,
            None => Progress::Waiting,
        }
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.socket.into_fd()
    }
}

fn parse(line: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(line).ok()?.trim_end();
    let (word, port) = text.split_once(' ')?;
    (word.eq_ignore_ascii_case("connect") && port.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| port.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_and_a_port_are_a_greeting() {
        assert_eq!(parse(b"CONNECT 1024\n"), Some(1024));
        assert_eq!(parse(b"connect 4294967295\r\n"), Some(u32::MAX));
        for wrong in [
            "CONNECT\n",
            "CONNECT \n",
            "CONNECT 4294967296\n",
            "CONNECT +1\n",
            "GET / \n",
            "CONNECT 1 2\n",
        ] {
            let port = parse(wrong.as_bytes());
            assert_eq!(port, None, "{wrong}");
        }
    }
}
