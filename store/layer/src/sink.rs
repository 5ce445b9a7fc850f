//! The pipeline that turns a stream of bytes into a directory.
//!
//! ```text
//! caller ─ chunks ─▶ [decompress + hash of the compressed bytes] ─┬▶ hash (diff ID)
//!                     (left out for a plain tar)                   └▶ extract
//! ```
//! Each box is a thread; at most 4 MiB wait in front of each. The caller may feed the next
//! layer while the last one is still being written.

use std::{
    io::{self, Read},
    os::fd::OwnedFd,
    thread::{self, JoinHandle},
};

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};

use crate::{
    Compression, Digest, LayerError, SNIFF_BYTES, StagedLayer,
    extract::{Extracted, extract},
    staged::StagingDirectory,
    stream::{ChunkReader, ChunkSender, chunk_stream, read_chunk},
};

/// Takes a layer's bytes, compressed or not, and unpacks them on other threads.
///
/// Dropping it before [`LayerSink::finish`] stops the threads and takes away what was written.
#[derive(Debug)]
pub struct LayerSink {
    state: State,
    directory: StagingDirectory,
    root: Option<OwnedFd>,
    fed_bytes: u64,
}

#[derive(Debug)]
enum State {
    /// Too few bytes yet to tell the compression.
    Sniffing(BytesMut),
    Running(Pipeline),
    Broken(LayerError),
}

/// The threads of a layer being unpacked.
#[derive(Debug)]
struct Pipeline {
    inputs: Vec<ChunkSender>,
    decompressor: Option<JoinHandle<Result<Counted, LayerError>>>,
    hasher: JoinHandle<Result<Counted, LayerError>>,
    extractor: JoinHandle<Result<Extracted, LayerError>>,
    compression: Compression,
}

/// A stream's digest and length.
#[derive(Debug, Clone, Copy)]
struct Counted {
    digest: Digest,
    length_bytes: u64,
}

impl LayerSink {
    pub(crate) fn new(directory: StagingDirectory, root: OwnedFd) -> Self {
        let state = State::Sniffing(BytesMut::new());
        Self {
            state,
            directory,
            root: Some(root),
            fed_bytes: 0,
        }
    }

    /// Hands over the next bytes, waiting while the disk is slower than the source.
    ///
    /// False when the layer is already known to be bad: stop feeding and call
    /// [`PendingLayer::wait`], which says why.
    pub fn feed(&mut self, chunk: Bytes) -> bool {
        self.fed_bytes += chunk.len() as u64;
        match &mut self.state {
            State::Sniffing(start) if start.is_empty() && chunk.len() >= SNIFF_BYTES => {
                self.start(chunk)
            }
            State::Sniffing(start) => {
                start.extend_from_slice(&chunk);
                if start.len() < SNIFF_BYTES {
                    return true;
                }
                let chunk = start.split().freeze();
                self.start(chunk)
            }
            State::Running(pipeline) => pipeline
                .inputs
                .iter()
                .all(|input| input.send(chunk.clone()).is_ok()),
            State::Broken(_) => false,
        }
    }

    /// Bytes fed so far.
    pub fn fed_bytes(&self) -> u64 {
        self.fed_bytes
    }

    /// Says that the stream is whole; the threads go on with what is queued.
    pub fn finish(mut self) -> PendingLayer {
        if let State::Sniffing(start) = &mut self.state {
            let chunk = start.split().freeze();
            self.start(chunk);
        }
        let state = match self.state {
            State::Running(mut pipeline) => {
                pipeline.inputs.drain(..).for_each(ChunkSender::end);
                Ok(pipeline)
            }
            State::Broken(error) => Err(error),
            State::Sniffing(_) => Err(LayerError::Interrupted),
        };
        PendingLayer {
            state,
            directory: self.directory,
        }
    }

    fn start(&mut self, chunk: Bytes) -> bool {
        let result = match self.root.take() {
            Some(root) => Pipeline::spawn(&chunk, root),
            None => Err(LayerError::Interrupted),
        };
        match result {
            Ok(pipeline) => {
                let is_taken = pipeline
                    .inputs
                    .iter()
                    .all(|input| input.send(chunk.clone()).is_ok());
                self.state = State::Running(pipeline);
                is_taken
            }
            Err(error) => {
                self.state = State::Broken(error);
                false
            }
        }
    }
}

/// A layer whose bytes are all handed over.
#[derive(Debug)]
pub struct PendingLayer {
    state: Result<Pipeline, LayerError>,
    directory: StagingDirectory,
}

impl PendingLayer {
    /// Waits until everything is written.
    ///
    /// # Errors
    /// What was wrong with the bytes or the disk; nothing of the layer stays then.
    pub fn wait(self) -> Result<StagedLayer, LayerError> {
        let pipeline = self.state?;
        let compression = pipeline.compression;
        let compressed = pipeline.decompressor.map(join);
        let hashed = join(pipeline.hasher);
        let extracted = join(pipeline.extractor);
        // Each thread that stops early cuts the others short: the one that wasn't cut says why.
        let compressed = match compressed {
            Some(Err(error)) if !is_consequence(&error) => return Err(error),
            Some(result) => result.map(Some),
            None => Ok(None),
        };
        let extracted = extracted?;
        let hashed = hashed?;
        let blob = compressed?.unwrap_or(hashed);
        Ok(StagedLayer {
            directory: self.directory,
            diff_id: hashed.digest,
            tar_bytes: hashed.length_bytes,
            blob_digest: blob.digest,
            blob_bytes: blob.length_bytes,
            compression,
            size_bytes: extracted.size_bytes,
            entries: extracted.entries,
            implied: extracted.implied,
        })
    }
}

/// Whether a thread stopped only because another one did.
fn is_consequence(error: &LayerError) -> bool {
    match error {
        LayerError::Interrupted => true,
        LayerError::Read(source) => source.kind() == io::ErrorKind::ConnectionAborted,
        _ => false,
    }
}

fn join<T>(thread: JoinHandle<Result<T, LayerError>>) -> Result<T, LayerError> {
    match thread.join() {
        Ok(Err(error)) if is_consequence(&error) => Err(LayerError::Interrupted),
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

impl Pipeline {
    fn spawn(start: &[u8], root: OwnedFd) -> Result<Self, LayerError> {
        let compression = Compression::sniff(start)?;
        let (to_hash, hash_input) = chunk_stream();
        let (to_extract, extract_input) = chunk_stream();
        let hasher = spawn("layer-hash", move || hash(hash_input))?;
        let extractor = spawn("layer-extract", move || extract(extract_input, root))?;
        let outputs = vec![to_hash, to_extract];
        if compression == Compression::None {
            return Ok(Self {
                inputs: outputs,
                decompressor: None,
                hasher,
                extractor,
                compression,
            });
        }
        let (to_decompress, input) = chunk_stream();
        let decompressor = spawn("layer-inflate", move || {
            decompress(compression, input, outputs)
        })?;
        let inputs = vec![to_decompress];
        Ok(Self {
            inputs,
            decompressor: Some(decompressor),
            hasher,
            extractor,
            compression,
        })
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> Result<T, LayerError> + Send + 'static,
) -> Result<JoinHandle<Result<T, LayerError>>, LayerError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|source| LayerError::Store {
            action: "start a thread for",
            path: name.into(),
            source,
        })
}

fn hash(mut input: ChunkReader) -> Result<Counted, LayerError> {
    let mut hasher = Sha256::new();
    let mut length_bytes = 0;
    while let Some(chunk) = input.next_chunk().map_err(LayerError::Read)? {
        hasher.update(&chunk);
        length_bytes += chunk.len() as u64;
    }
    Ok(Counted {
        digest: Digest::from_bytes(hasher.finalize().into()),
        length_bytes,
    })
}

fn decompress(
    compression: Compression,
    input: ChunkReader,
    outputs: Vec<ChunkSender>,
) -> Result<Counted, LayerError> {
    let mut input = HashingReader {
        input,
        hasher: Sha256::new(),
        length_bytes: 0,
        failure: None,
    };
    {
        let mut decoder = compression.decoder(&mut input)?;
        loop {
            let chunk = match read_chunk(&mut decoder) {
                Ok(chunk) if chunk.is_empty() => break,
                Ok(chunk) => chunk,
                Err(source) => {
                    drop(decoder);
                    return Err(match input.failure.take() {
                        Some(failure) => LayerError::Read(failure),
                        None => LayerError::Decompress {
                            format: compression.name(),
                            source,
                        },
                    });
                }
            };
            if !outputs
                .iter()
                .all(|output| output.send(chunk.clone()).is_ok())
            {
                return Err(LayerError::Interrupted);
            }
        }
    }
    // Bytes after the last frame belong to the blob and its digest.
    io::copy(&mut input, &mut io::sink()).map_err(LayerError::Read)?;
    outputs.into_iter().for_each(ChunkSender::end);
    let digest = Digest::from_bytes(input.hasher.finalize().into());
    Ok(Counted {
        digest,
        length_bytes: input.length_bytes,
    })
}

/// Digests what passes, and keeps the source's error apart from the decoder's.
struct HashingReader {
    input: ChunkReader,
    hasher: Sha256,
    length_bytes: u64,
    failure: Option<io::Error>,
}

impl io::BufRead for HashingReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.input.fill_buf() {
            Ok(buffer) => Ok(buffer),
            Err(error) => {
                let kind = error.kind();
                self.failure = Some(error);
                Err(kind.into())
            }
        }
    }

    fn consume(&mut self, length: usize) {
        // What is consumed was in the buffer, which is refilled only when empty.
        if let Ok(buffer) = self.input.fill_buf() {
            self.hasher.update(&buffer[..length]);
        }
        self.length_bytes += length as u64;
        self.input.consume(length);
    }
}

impl Read for HashingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let chunk = io::BufRead::fill_buf(self)?;
        let length = chunk.len().min(buffer.len());
        buffer[..length].copy_from_slice(&chunk[..length]);
        io::BufRead::consume(self, length);
        Ok(length)
    }
}
