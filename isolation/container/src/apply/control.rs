//! Messages between the runtime and a container process before its program is executed.
//!
//! One `SOCK_SEQPACKET` pair, close-on-exec on both ends: the runtime sees end-of-file when the
//! program is executed. Messages of the child are twelve bytes: kind, step, errno, each 32 bits in
//! the machine's byte order; those of the runtime are one byte.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use atoll_sys::rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use atoll_sys::rustix::pipe::{PipeFlags, pipe_with};
use atoll_sys::{Errno, Result, unix};

use super::hooks::MOST_SAID_BYTES;

/// What a child says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    /// Everything is set up; the program waits to be executed. The terminal's master comes along.
    Ready,
    /// A go-between made the process; see [`super::entry`].
    Made {
        /// In the runtime's PID namespace.
        pid: u32,
    },
    /// The filter is installed and leaves calls open; the child waits for [`Go::Heard`].
    Listener {
        /// Its descriptor in the child.
        number: u32,
    },
    /// The child has no right to shift the ids of a mount. That comes along, and a pipe that waits for the outcome.
    Shift {
        /// Which step, a bind mount.
        step: u32,
    },
    /// A step failed; the child is about to exit.
    Failed {
        /// Which step, see [`super::program`].
        step: u32,
        /// What the kernel said.
        errno: i32,
    },
}

/// What the runtime says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Go {
    /// systemd has moved the process into its control group.
    Moved,
    /// The user namespace has its mappings.
    Mapped,
    /// Hooks have run.
    Hooked,
    /// The process is on record: it may outlive its maker.
    Recorded,
    /// The filter's listener has its descriptor.
    Heard,
    /// Execute the program.
    Start,
}

impl Go {
    /// What the child reads.
    const fn byte(self) -> u8 {
        match self {
            Self::Moved => b'g',
            Self::Mapped => b'm',
            Self::Hooked => b'h',
            Self::Recorded => b'r',
            Self::Heard => b'l',
            Self::Start => b's',
        }
    }
}

/// Length of a message in bytes.
pub(crate) const MESSAGE_BYTES: usize = 12;

const READY: u32 = 1;
const FAILED: u32 = 2;
const MADE: u32 = 3;
const LISTENER: u32 = 4;
const SHIFT: u32 = 5;

impl Message {
    /// The message as bytes. Child-safe.
    pub(crate) fn encode(self) -> [u8; MESSAGE_BYTES] {
        let (kind, step, errno) = match self {
            Self::Ready => (READY, 0, 0),
            Self::Failed { step, errno } => (FAILED, step, errno),
            Self::Made { pid } => (MADE, pid, 0),
            Self::Listener { number } => (LISTENER, number, 0),
            Self::Shift { step } => (SHIFT, step, 0),
        };
        let mut bytes = [0; MESSAGE_BYTES];
        bytes[..4].copy_from_slice(&kind.to_ne_bytes());
        bytes[4..8].copy_from_slice(&step.to_ne_bytes());
        bytes[8..].copy_from_slice(&errno.to_ne_bytes());
        bytes
    }

    /// The message in `bytes`, if they are one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| -> Option<[u8; 4]> { bytes.get(at..at + 4)?.try_into().ok() };
        match u32::from_ne_bytes(word(0)?) {
            READY => Some(Self::Ready),
            LISTENER => Some(Self::Listener {
                number: u32::from_ne_bytes(word(4)?),
            }),
            SHIFT => Some(Self::Shift {
                step: u32::from_ne_bytes(word(4)?),
            }),
            MADE => Some(Self::Made {
                pid: u32::from_ne_bytes(word(4)?),
            }),
            FAILED => Some(Self::Failed {
                step: u32::from_ne_bytes(word(4)?),
                errno: i32::from_ne_bytes(word(8)?),
            }),
            _ => None,
        }
    }
}

/// The two ends: the runtime's, the child's.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// Tells the child to go on. A child that is gone is found out by the next receive.
pub(crate) fn tell(control: BorrowedFd<'_>, go: Go) {
    let _ = send(control, &[go.byte()], SendFlags::NOSIGNAL);
}

/// Waits for the runtime's `go`; by read only, which no filter forbids. Child-safe.
///
/// # Errors
/// `EPIPE` when the runtime is gone, `EPROTO` for another word than `go`.
pub(crate) fn await_go(control: BorrowedFd<'_>, go: Go) -> Result<()> {
    let mut byte = [0];
    loop {
        match atoll_sys::rustix::io::read(control, &mut byte) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
            Ok(0) => return Err(Errno::PIPE),
            Ok(_) if byte == [go.byte()] => return Ok(()),
            Ok(_) => return Err(Errno::PROTO),
        }
    }
}

/// Says which descriptor the filter's is, and waits until it is taken; by read and write only. Child-safe.
///
/// # Errors
/// `EPIPE` when the runtime is gone, else the kernel's or the filter's.
pub(crate) fn offer_listener(control: BorrowedFd<'_>, number: u32) -> Result<()> {
    atoll_sys::rustix::io::write(control, &Message::Listener { number }.encode())?;
    await_go(control, Go::Heard)
}

/// Has the runtime shift the ids of `mount` as step `step` says. Child-safe.
///
/// # Errors
/// What the runtime was told by the kernel; `EPIPE` when it is gone.
pub(crate) fn ask_for_shift(
    control: BorrowedFd<'_>,
    step: u32,
    mount: BorrowedFd<'_>,
) -> Result<()> {
    let (outcome, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    let message = Message::Shift { step }.encode();
    unix::send_fds(control, &message, &[mount, theirs.as_fd()])
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    drop(theirs);
    let mut bytes = [0; 4];
    loop {
        match atoll_sys::rustix::io::read(&outcome, &mut bytes) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
            Ok(4) => break,
            Ok(_) => return Err(Errno::PIPE),
        }
    }
    match i32::from_ne_bytes(bytes) {
        0 => Ok(()),
        errno => Err(Errno::from_raw_os_error(errno)),
    }
}

/// Answers [`Message::Shift`]: `shift` does it to the mount.
pub(crate) fn answer_shift(fds: Vec<OwnedFd>, shift: impl FnOnce(BorrowedFd<'_>) -> Result<()>) {
    let Ok([mount, outcome]) = <[OwnedFd; 2]>::try_from(fds) else {
        return;
    };
    let errno = shift(mount.as_fd()).err().map_or(0, Errno::raw_os_error);
    // A child that is gone is found out by the next receive.
    let _ = atoll_sys::rustix::io::write(&outcome, &errno.to_ne_bytes());
}

/// Sends a message and, with it, a terminal's master. Child-safe; nobody listening is fine.
pub(crate) fn report(control: BorrowedFd<'_>, message: Message, master: Option<&OwnedFd>) {
    send_bytes(control, &message.encode(), master);
}

/// Sends an encoded message with what follows it. Child-safe; nobody listening is fine.
pub(crate) fn send_bytes(control: BorrowedFd<'_>, bytes: &[u8], master: Option<&OwnedFd>) {
    // Nobody left to tell is fine.
    let _ = match master {
        Some(master) => unix::send_fds(control, bytes, &[master.as_fd()]).is_ok(),
        None => match send(control, bytes, SendFlags::NOSIGNAL) {
            // A seccomp filter without socket calls; write(2) is in every one.
            Err(Errno::PERM | Errno::NOSYS | Errno::ACCESS) => {
                atoll_sys::rustix::io::write(control, bytes).is_ok()
            }
            outcome => outcome.is_ok(),
        },
    };
}

/// What comes along with a message.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// Descriptors: the terminal's master, or those of [`Message::Shift`].
    pub(crate) fds: Vec<OwnedFd>,
    /// What a failing hook said.
    pub(crate) text: String,
}

/// The child's next message and what comes along; `None` when the child has executed its program or is gone.
pub(crate) fn receive(control: BorrowedFd<'_>) -> std::io::Result<Option<(Message, Extra)>> {
    let mut bytes = [0; MESSAGE_BYTES + MOST_SAID_BYTES];
    let received = match unix::recv_fds(control, &mut bytes) {
        // The child exited without reading all of ours. A SOCK_SEQPACKET says so once and before
        // what the child sent, which is still there (Linux net/core/datagram.c, sock_error).
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
            unix::recv_fds(control, &mut bytes)
        }
        received => received,
    };
    let (count, fds) = received?;
    let message = Message::decode(&bytes[..count]);
    let extra = Extra {
        fds,
        text: said_in(&bytes[..count]),
    };
    Ok(message.map(|message| (message, extra)))
}

/// What follows the message in `bytes`.
pub(crate) fn said_in(bytes: &[u8]) -> String {
    let rest = bytes.get(MESSAGE_BYTES..).unwrap_or_default();
    String::from_utf8_lossy(rest).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip() {
        for message in [
            Message::Ready,
            Message::Made { pid: 9 },
            Message::Listener { number: 5 },
            Message::Shift { step: 3 },
            Message::Failed { step: 7, errno: 13 },
        ] {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
        assert_eq!(Message::decode(b"short"), None);
    }

    #[test]
    fn another_word_is_not_the_one_awaited() {
        let (ours, theirs) = pair().unwrap();
        for go in [Go::Recorded, Go::Recorded, Go::Heard] {
            tell(ours.as_fd(), go);
        }
        assert_eq!(offer_listener(theirs.as_fd(), 3), Err(Errno::PROTO));
        assert_eq!(await_go(theirs.as_fd(), Go::Recorded), Ok(()));
        assert_eq!(offer_listener(theirs.as_fd(), 3), Ok(()));
        drop(ours);
        assert!(await_go(theirs.as_fd(), Go::Start).is_err());
    }

    #[test]
    fn a_failure_is_heard_though_the_child_left_words_unread() {
        let (ours, theirs) = pair().unwrap();
        tell(ours.as_fd(), Go::Recorded);
        let failed = Message::Failed { step: 7, errno: 2 };
        report(theirs.as_fd(), failed, None);
        drop(theirs);
        let (message, _) = receive(ours.as_fd()).unwrap().unwrap();
        assert_eq!(message, failed);
        assert!(receive(ours.as_fd()).unwrap().is_none());
    }
}
