//! Reading an archive of files that aren't to be unpacked, such as `docker save`'s.

use std::io::{self, BufReader, Read};

use atoll_tar::{Entry, EntryKind, TarReader, is_tar_start};
use bytes::Bytes;

use crate::{
    Compression, LayerError, SNIFF_BYTES,
    stream::{CHUNK_BYTES, read_chunk},
};

/// Files of a tar archive one after the other, whichever way it is compressed.
pub struct ArchiveReader<'a> {
    tar: TarReader<BufReader<Box<dyn Read + 'a>>>,
    compression: Compression,
}

/// One file or link of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveEntry {
    /// Its path without a leading `./` or `/`; bytes that aren't UTF-8 are replaced.
    pub path: String,
    /// What it is.
    pub kind: ArchiveEntryKind,
}

/// What an archive's entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveEntryKind {
    /// A file of this many bytes, to be had by [`ArchiveReader::read_chunk`].
    File {
        /// Its size.
        size_bytes: u64,
    },
    /// A symlink, its target as written.
    Symlink(String),
    /// A hard link to another entry.
    HardLink(String),
    /// Anything else.
    Other,
}

impl std::fmt::Debug for ArchiveReader<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ArchiveReader")
            .field("compression", &self.compression)
            .finish()
    }
}

impl<'a> ArchiveReader<'a> {
    /// Starts to read an archive.
    ///
    /// # Errors
    /// [`LayerError::Compression`] for a compression that isn't supported, [`LayerError::Read`]
    /// when the reader fails.
    pub fn new(mut reader: impl Read + 'a) -> Result<Self, LayerError> {
        let mut start = Vec::with_capacity(SNIFF_BYTES);
        reader
            .by_ref()
            .take(SNIFF_BYTES as u64)
            .read_to_end(&mut start)
            .map_err(LayerError::Read)?;
        let compression = Compression::sniff(&start)?;
        let input = io::Cursor::new(start).chain(reader);
        let plain: Box<dyn Read + 'a> = match compression {
            Compression::None => Box::new(input),
            _ => compression.decoder(BufReader::with_capacity(CHUNK_BYTES, input))?,
        };
        let tar = TarReader::new(BufReader::with_capacity(CHUNK_BYTES, plain));
        Ok(Self { tar, compression })
    }

    /// The next entry; what is left of the last one's data is skipped.
    ///
    /// # Errors
    /// [`LayerError::Tar`], [`LayerError::Truncated`], [`LayerError::Decompress`] or
    /// [`LayerError::Read`].
    pub fn next_entry(&mut self) -> Result<Option<ArchiveEntry>, LayerError> {
        match self.tar.next() {
            Ok(entry) => Ok(entry.map(archive_entry)),
            Err(error) => Err(self.told(error.into())),
        }
    }

    /// The next piece of the current entry's data, empty at its end.
    ///
    /// # Errors
    /// As [`ArchiveReader::next_entry`].
    pub fn read_chunk(&mut self) -> Result<Bytes, LayerError> {
        let mut data = EntryData {
            tar: &mut self.tar,
            error: None,
        };
        let result = read_chunk(&mut data);
        match (result, data.error.take()) {
            (_, Some(error)) => Err(self.told(error)),
            (Err(error), None) => Err(self.told(LayerError::Read(error))),
            (Ok(chunk), None) => Ok(chunk),
        }
    }

    /// Reads to the end, so that whoever writes the archive isn't cut short.
    ///
    /// # Errors
    /// As [`ArchiveReader::next_entry`].
    pub fn drain(&mut self) -> Result<(), LayerError> {
        match self.tar.drain() {
            Ok(()) => Ok(()),
            Err(error) => Err(self.told(error.into())),
        }
    }

    /// Tells a decoder's error from the reader's own.
    fn told(&self, error: LayerError) -> LayerError {
        use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
        match error {
            LayerError::Read(source)
                if self.compression != Compression::None
                    && matches!(
                        source.kind(),
                        InvalidData | InvalidInput | UnexpectedEof | Other
                    ) =>
            {
                LayerError::Decompress {
                    format: self.compression.name(),
                    source,
                }
            }
            error => error,
        }
    }
}

struct EntryData<'b, R> {
    tar: &'b mut TarReader<R>,
    error: Option<LayerError>,
}

impl<R: io::BufRead> Read for EntryData<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.tar.data(buffer.len() as u64) {
            Ok(data) => {
                let length = data.len();
                buffer[..length].copy_from_slice(data);
                self.tar.consume(length);
                Ok(length)
            }
            Err(error) => {
                self.error = Some(error.into());
                Err(io::ErrorKind::Other.into())
            }
        }
    }
}

fn archive_entry(entry: Entry) -> ArchiveEntry {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let path = text(&entry.path);
    let kind = match entry.kind {
        EntryKind::File => ArchiveEntryKind::File {
            size_bytes: entry.size_bytes,
        },
        EntryKind::Symlink => ArchiveEntryKind::Symlink(text(&entry.link)),
        EntryKind::HardLink => ArchiveEntryKind::HardLink(text(&entry.link)),
        _ => ArchiveEntryKind::Other,
    };
    ArchiveEntry {
        path: path.trim_start_matches(['.', '/']).to_owned(),
        kind,
    }
}

/// Whether bytes can be the start of a layer: a tar header, a zero block, or compressed data.
///
/// * `start`: at least the first 512 bytes when there are as many.
pub fn is_layer_start(start: &[u8]) -> bool {
    !matches!(Compression::sniff(start), Ok(Compression::None)) || is_tar_start(start)
}
