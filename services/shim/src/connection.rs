//! One ttrpc connection of the server.
//!
//! ttrpc frames (github.com/containerd/ttrpc PROTOCOL.md): length and stream as 32-bit big endian,
//! type (1 request, 2 response), flags, then protobuf. The `ttrpc` crate's own server needs five
//! threads a connection; here every request is answered from the one poll loop, and a `Wait` is
//! an answer that comes later.

use std::io::ErrorKind;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use containerd_shim_protos::protobuf::Message;
use ttrpc::{Code, Request, Response, Status};

use crate::failure::Failure;

pub(crate) const HEADER_LEN: usize = 10;
pub(crate) const TYPE_REQUEST: u8 = 1;
pub(crate) const TYPE_RESPONSE: u8 = 2;

/// Longest message either side accepts.
pub(crate) const MAX_MESSAGE: usize = 4 << 20;

/// Descriptors a connection may have sent that no request has taken: the streams of one process.
const MAX_SENT: usize = 3;

/// Builds a frame.
pub(crate) fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(HEADER_LEN + payload.len());
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(&[kind, 0]);
    out.extend_from_slice(payload);
    out
}

/// A frame's head and where its payload ends in `bytes`; `None` while it isn't whole.
pub(crate) struct Frame {
    pub(crate) stream: u32,
    pub(crate) kind: u8,
    /// Length of header and payload.
    pub(crate) len: usize,
}

/// Reads a frame's header.
///
/// `Err` means the peer doesn't speak ttrpc.
pub(crate) fn parse_frame(bytes: &[u8]) -> Result<Option<Frame>, ()> {
    let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let [a, b, c, d, e, f, g, h, kind, _flags] = *header;
    let payload = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| ())?;
    if payload > MAX_MESSAGE {
        return Err(());
    }
    let len = HEADER_LEN + payload;
    Ok((bytes.len() >= len).then_some(Frame {
        stream: u32::from_be_bytes([e, f, g, h]),
        kind,
        len,
    }))
}

/// A client of the Task API.
pub(crate) struct Connection {
    /// Never used again for another connection.
    pub(crate) id: u64,
    socket: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// What came with requests and was not taken.
    sent: Vec<OwnedFd>,
    is_open: bool,
}

impl Connection {
    /// * `socket`: non-blocking.
    pub(crate) fn new(id: u64, socket: UnixStream) -> Self {
        Self {
            id,
            socket,
            input: Vec::new(),
            output: Vec::new(),
            sent: Vec::new(),
            is_open: true,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Reads what has come; returns whole requests by stream.
    pub(crate) fn receive(&mut self) -> Vec<(u32, Result<Request, Failure>)> {
        let mut buffer = [0u8; 4096];
        loop {
            match atoll_sys::unix::recv_fds(&self.socket, &mut buffer) {
                Ok((0, _)) => {
                    self.is_open = false;
                    break;
                }
                Ok((count, descriptors)) => {
                    self.input.extend_from_slice(&buffer[..count]);
                    self.sent.extend(descriptors);
                    self.sent.truncate(MAX_SENT);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.is_open = false;
                    break;
                }
            }
        }
        let mut requests = Vec::new();
        let mut at = 0;
        loop {
            match parse_frame(&self.input[at..]) {
                Ok(Some(frame)) => {
                    let payload = &self.input[at + HEADER_LEN..at + frame.len];
                    if frame.kind == TYPE_REQUEST {
                        let request = Request::parse_from_bytes(payload)
                            .map_err(|error| Failure::invalid(error.to_string()));
                        requests.push((frame.stream, request));
                    }
                    at += frame.len;
                }
                Ok(None) => break,
                Err(()) => {
                    self.is_open = false;
                    break;
                }
            }
        }
        self.input.drain(..at);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        requests
    }

    /// Takes the descriptors that came.
    pub(crate) fn take_sent(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.sent)
    }

    /// Queues an answer and sends what the socket takes.
    pub(crate) fn answer(&mut self, stream: u32, result: Result<Vec<u8>, Failure>) {
        let mut response = Response::new();
        match result {
            Ok(payload) => {
                let mut status = Status::new();
                status.set_code(Code::OK);
                response.set_status(status);
                response.payload = payload;
            }
            Err(failure) => {
                let mut status = Status::new();
                status.set_code(failure.code);
                status.message = failure.message;
                response.set_status(status);
            }
        }
        let payload = response.write_to_bytes().unwrap_or_default();
        self.output
            .extend_from_slice(&frame(TYPE_RESPONSE, stream, &payload));
        self.flush();
    }

    /// Sends what is queued.
    pub(crate) fn flush(&mut self) {
        while !self.output.is_empty() {
            match self.socket.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.is_open = false;
                    self.output.clear();
                }
            }
        }
        self.output = Vec::new();
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn requests_in_pieces_are_answered_by_stream() {
        let (mut client, server) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let mut connection = Connection::new(1, server);
        let mut request = Request::new();
        request.method = "Wait".into();
        let bytes = frame(TYPE_REQUEST, 7, &request.write_to_bytes().unwrap());
        client.write_all(&bytes[..5]).unwrap();
        assert!(connection.receive().is_empty());
        client.write_all(&bytes[5..]).unwrap();
        client.write_all(&bytes).unwrap();
        let requests = connection.receive();
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[0].0, 7);
        assert_eq!(requests[0].1.as_ref().unwrap().method, "Wait");

        connection.answer(7, Err(Failure::not_found("gone")));
        let mut answer = vec![0; 100];
        let count = client.read(&mut answer).unwrap();
        let head = parse_frame(&answer[..count]).unwrap().unwrap();
        assert_eq!(
            (head.kind, head.stream, head.len),
            (TYPE_RESPONSE, 7, count)
        );
        let response = Response::parse_from_bytes(&answer[HEADER_LEN..count]).unwrap();
        assert_eq!(response.status().message, "gone");
    }

    #[test]
    fn nonsense_ends_the_connection() {
        let (mut client, server) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let mut connection = Connection::new(1, server);
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert!(connection.receive().is_empty());
        assert!(!connection.is_open());
    }
}
