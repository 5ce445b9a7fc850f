//! Docker's framing of standard output and error on one connection.
//!
//! Docker Engine API v1.51, ContainerAttach "Stream format": one byte of stream (1 output,
//! 2 error), three zero bytes, length as big-endian u32, then that many bytes.

use bytes::{Buf, Bytes, BytesMut};

/// Where bytes belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Splits a byte stream into frames' contents.
#[derive(Debug)]
pub(crate) struct Frames {
    is_raw: bool,
    waiting: BytesMut,
    /// Stream and missing bytes of the frame under way.
    current: Option<(Stream, usize)>,
}

/// The peer sent something that is no frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadFrame(u8);

impl std::fmt::Display for BadFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "frame of unknown stream {}", self.0)
    }
}

const HEADER_LEN: usize = 8;

impl Frames {
    /// A splitter; a raw stream (of a terminal) has no frames and is all output.
    pub(crate) fn new(is_raw: bool) -> Self {
        Self {
            is_raw,
            waiting: BytesMut::new(),
            current: None,
        }
    }

    /// Room for more bytes of the connection.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.waiting
    }

    /// The next contents, as far as they have come; `None` when more bytes are needed. A frame is
    /// handed out in parts when it comes in parts.
    pub(crate) fn next(&mut self) -> Result<Option<(Stream, Bytes)>, BadFrame> {
        loop {
            if self.waiting.is_empty() {
                return Ok(None);
            }
            if self.is_raw {
                return Ok(Some((Stream::Out, self.waiting.split().freeze())));
            }
            if let Some((stream, missing)) = self.current {
                let available = missing.min(self.waiting.len());
                self.current = (missing > available).then_some((stream, missing - available));
                return Ok(Some((stream, self.waiting.split_to(available).freeze())));
            }
            if self.waiting.len() < HEADER_LEN {
                return Ok(None);
            }
            let stream = match self.waiting[0] {
                0 | 1 => Stream::Out,
                2 | 3 => Stream::Err,
                other => return Err(BadFrame(other)),
            };
            self.waiting.advance(4);
            let length = usize::try_from(self.waiting.get_u32()).unwrap_or(usize::MAX);
            self.current = (length > 0).then_some((stream, length));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u8, text: &str) -> Vec<u8> {
        let mut bytes = vec![stream, 0, 0, 0];
        bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        bytes.extend(text.bytes());
        bytes
    }

    #[test]
    fn frames_are_split_wherever_reads_end() {
        let mut bytes = frame(1, "hello");
        bytes.extend(frame(2, ""));
        bytes.extend(frame(2, "oops"));
        bytes.extend(frame(1, "bye"));
        for step in 1..bytes.len() {
            let mut frames = Frames::new(false);
            let (mut out, mut err) = (Vec::new(), Vec::new());
            for part in bytes.chunks(step) {
                frames.buffer().extend_from_slice(part);
                while let Some((stream, content)) = frames.next().unwrap() {
                    match stream {
                        Stream::Out => out.extend(content),
                        Stream::Err => err.extend(content),
                    }
                }
            }
            assert_eq!(
                (out.as_slice(), err.as_slice()),
                (&b"hellobye"[..], &b"oops"[..])
            );
        }
    }

    #[test]
    fn a_raw_stream_is_output_and_garbage_is_an_error() {
        let mut raw = Frames::new(true);
        raw.buffer().extend_from_slice(b"\x07abc");
        assert_eq!(
            raw.next().unwrap(),
            Some((Stream::Out, Bytes::from_static(b"\x07abc")))
        );
        let mut frames = Frames::new(false);
        frames.buffer().extend_from_slice(b"HTTP/1.1 200");
        assert_eq!(frames.next(), Err(BadFrame(b'H')));
    }
}
