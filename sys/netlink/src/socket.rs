//! One netlink socket: send a buffer of messages, read acknowledgements or a dump.

use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN};
use netlink_sys::SocketAddr;

use crate::Error;

/// Bytes of `struct nlmsghdr`.
pub(crate) const HEADER_LEN: usize = 16;
/// Room for one datagram of a dump: the kernel fills at most 32 KiB for a reader this large.
const RECEIVE_BYTES: usize = 64 << 10;

/// A netlink socket connected to the kernel, in the namespace of the thread that opened it.
pub(crate) struct Socket {
    inner: netlink_sys::Socket,
    buffer: Vec<u8>,
}

/// One message of an answer: its type, its sequence number and its payload.
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

impl Socket {
    /// Opens a socket of `family` (`NETLINK_ROUTE`, `NETLINK_NETFILTER`).
    pub(crate) fn open(family: isize) -> Result<Self, Error> {
        let inner = netlink_sys::Socket::new(family).map_err(Error::socket("open a socket"))?;
        inner
            .connect(&SocketAddr::new(0, 0))
            .map_err(Error::socket("connect to the kernel"))?;
        Ok(Self {
            inner,
            buffer: Vec::with_capacity(RECEIVE_BYTES),
        })
    }

    /// Sends `bytes`: whole messages, each padded to four bytes.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        let sent = self.inner.send(bytes, 0).map_err(Error::socket("send"))?;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(Error::Socket {
                action: "send",
                source: io::ErrorKind::WriteZero.into(),
            })
        }
    }

    /// Reads the answers that are queued already, one datagram, and gives each message to `take`.
    ///
    /// Both netlink families answer requests within `send`, so nothing is ever waited for: an empty
    /// queue is `Ok(false)`.
    pub(crate) fn receive(
        &mut self,
        mut take: impl FnMut(Message<'_>) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        self.buffer.clear();
        loop {
            match self.inner.recv(&mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(Error::Socket {
                        action: "receive",
                        source,
                    });
                }
            }
        }
        let mut rest = self.buffer.as_slice();
        while let Some((message, after)) = split_message(rest) {
            take(message)?;
            rest = after;
        }
        Ok(true)
    }

    /// Asks for a dump and gives the payload of each message of type `kind` to `take`.
    ///
    /// `what` names the request in errors; `payload` is the family header the kernel expects.
    pub(crate) fn dump(
        &mut self,
        what: &str,
        request_kind: u16,
        payload: &[u8],
        kind: u16,
        mut take: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut request = Vec::with_capacity(HEADER_LEN + payload.len());
        push_header(
            &mut request,
            request_kind,
            NLM_F_REQUEST | NLM_F_DUMP,
            1,
            payload.len(),
        );
        request.extend_from_slice(payload);
        pad(&mut request);
        self.send(&request)?;
        let mut done = false;
        while !done {
            let more = self.receive(|message| {
                match message.kind {
                    NLMSG_DONE => done = true,
                    NLMSG_ERROR | NLMSG_OVERRUN => {
                        return Err(refused(what, error_code(message.payload)));
                    }
                    found if found == kind => take(message.payload)?,
                    _ => {}
                }
                Ok(())
            })?;
            if !more && !done {
                return Err(Error::Malformed {
                    request: what.to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// Appends a message header for a payload of `payload_len` bytes, not counting padding.
pub(crate) fn push_header(
    buffer: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    payload_len: usize,
) {
    let length = u32::try_from(HEADER_LEN + payload_len).unwrap_or(u32::MAX);
    buffer.extend_from_slice(&length.to_ne_bytes());
    buffer.extend_from_slice(&kind.to_ne_bytes());
    buffer.extend_from_slice(&flags.to_ne_bytes());
    buffer.extend_from_slice(&sequence.to_ne_bytes());
    buffer.extend_from_slice(&0u32.to_ne_bytes());
}

/// Pads `buffer` with zeros to the next multiple of four, the alignment of messages and attributes.
pub(crate) fn pad(buffer: &mut Vec<u8>) {
    buffer.resize(buffer.len().next_multiple_of(4), 0);
}

/// The errno (0: success) of an `NLMSG_ERROR` payload, positive.
pub(crate) fn error_code(payload: &[u8]) -> i32 {
    payload.first_chunk::<4>().map_or(libc::EPROTO, |bytes| {
        i32::from_ne_bytes(*bytes).saturating_neg()
    })
}

/// The error for a request the kernel refused with `errno`.
pub(crate) fn refused(request: &str, errno: i32) -> Error {
    Error::Refused {
        request: request.to_owned(),
        source: io::Error::from_raw_os_error(errno),
    }
}

/// Cuts the first message off a datagram; `None` at its end or when what is left is no message.
fn split_message(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let message = bytes.get(..length)?;
    let field = |at: usize| message.get(at..at + 4)?.first_chunk::<4>().copied();
    let kind = u16::from_ne_bytes(*message.get(4..6)?.first_chunk()?);
    let sequence = u32::from_ne_bytes(field(8)?);
    let payload = message.get(HEADER_LEN..)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some((
        Message {
            kind,
            sequence,
            payload,
        },
        after,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_split_at_their_padded_length() {
        let mut bytes = Vec::new();
        push_header(&mut bytes, 7, 0, 1, 3);
        bytes.extend_from_slice(b"abc");
        pad(&mut bytes);
        push_header(&mut bytes, 8, 0, 2, 0);
        let (first, rest) = split_message(&bytes).unwrap();
        assert_eq!(
            (first.kind, first.sequence, first.payload),
            (7, 1, &b"abc"[..])
        );
        let (second, rest) = split_message(rest).unwrap();
        assert_eq!((second.kind, second.sequence), (8, 2));
        assert!(split_message(rest).is_none());
    }

    #[test]
    fn a_length_beyond_the_datagram_or_below_the_header_is_no_message() {
        let mut bytes = Vec::new();
        push_header(&mut bytes, 7, 0, 1, 100);
        assert!(split_message(&bytes).is_none());
        assert!(split_message(&[4, 0, 0, 0, 1, 2, 3, 4]).is_none());
    }
}
