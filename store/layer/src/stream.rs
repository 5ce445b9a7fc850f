//! Chunks of bytes travelling between the threads of one unpack.

use std::{
    io::{self, BufRead, Read},
    sync::mpsc::{Receiver, SendError, SyncSender, sync_channel},
};

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of a chunk when Atoll does the reading.
pub(crate) const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks waiting between two threads: 4 MiB at most.
const QUEUE_CHUNKS: usize = 16;

/// The sending end of a stream; dropping it without [`ChunkSender::end`] is an interruption.
#[derive(Debug)]
pub(crate) struct ChunkSender(SyncSender<Bytes>);

/// The receiving end, a [`BufRead`].
pub(crate) struct ChunkReader {
    receiver: Receiver<Bytes>,
    chunk: Bytes,
    is_ended: bool,
}

/// Connects two threads.
pub(crate) fn chunk_stream() -> (ChunkSender, ChunkReader) {
    let (sender, receiver) = sync_channel(QUEUE_CHUNKS);
    (
        ChunkSender(sender),
        ChunkReader {
            receiver,
            chunk: Bytes::new(),
            is_ended: false,
        },
    )
}

/// The other thread has given up; its own result says why.
#[derive(Debug)]
pub(crate) struct Closed;

impl From<SendError<Bytes>> for Closed {
    fn from(_: SendError<Bytes>) -> Self {
        Self
    }
}

impl ChunkSender {
    /// Hands a chunk over, waiting while the queue is full.
    pub(crate) fn send(&self, chunk: Bytes) -> Result<(), Closed> {
        // An empty chunk is the end mark.
        if chunk.is_empty() {
            Ok(())
        } else {
            Ok(self.0.send(chunk)?)
        }
    }

    /// Says that the stream is whole.
    pub(crate) fn end(self) {
        // A receiver that has gone doesn't wait for the end.
        let _gone = self.0.send(Bytes::new());
    }
}

impl ChunkReader {
    /// The next chunk, nothing at the end.
    ///
    /// # Errors
    /// `ConnectionAborted` when the sender went away before the end.
    pub(crate) fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        if !self.chunk.is_empty() {
            return Ok(Some(std::mem::take(&mut self.chunk)));
        }
        if self.is_ended {
            return Ok(None);
        }
        match self.receiver.recv() {
            Ok(chunk) if chunk.is_empty() => {
                self.is_ended = true;
                Ok(None)
            }
            Ok(chunk) => Ok(Some(chunk)),
            Err(_) => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

impl BufRead for ChunkReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.chunk.is_empty()
            && let Some(chunk) = self.next_chunk()?
        {
            self.chunk = chunk;
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, length: usize) {
        self.chunk.advance(length);
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let chunk = self.fill_buf()?;
        let length = chunk.len().min(buffer.len());
        buffer[..length].copy_from_slice(&chunk[..length]);
        self.consume(length);
        Ok(length)
    }
}

/// Reads up to [`CHUNK_BYTES`] from `reader`; empty at its end.
///
/// # Errors
/// The reader's own.
pub fn read_chunk(reader: &mut impl Read) -> io::Result<Bytes> {
    read_chunk_of(reader, CHUNK_BYTES)
}

fn read_chunk_of(reader: &mut impl Read, limit: usize) -> io::Result<Bytes> {
    let mut buffer = BytesMut::zeroed(limit);
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_without_its_end_is_an_interruption() {
        let (sender, mut reader) = chunk_stream();
        sender.send(Bytes::from_static(b"half")).unwrap();
        drop(sender);
        let mut bytes = Vec::new();
        let error = reader.read_to_end(&mut bytes).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(bytes, b"half");
    }

    #[test]
    fn a_whole_stream_ends() {
        let (sender, mut reader) = chunk_stream();
        sender.send(Bytes::from_static(b"who")).unwrap();
        sender.send(Bytes::from_static(b"le")).unwrap();
        sender.end();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "whole");
    }
}
