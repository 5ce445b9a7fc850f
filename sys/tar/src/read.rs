//! A streaming tar parser for hostile archives.
//!
//! Own rather than the `tar` crate's: entries hand out the reader's own buffers (no copy between
//! the decompressor and `write`), GNU's PAX sparse formats are understood, and every length is
//! checked against one rule: a PAX or GNU record applies to the next real entry only, and its
//! size overrides the header's only there. (The family of tar parsers that let it slip to a
//! helper header in between could be made to see other files than everybody else.)

use std::io::{self, BufRead};

use crate::error::TarError;
use crate::header::{self, BLOCK_BYTES, Header};
use crate::pax::{self, PaxRecords};

/// Longest PAX header, GNU long name or sparse map taken.
const MAX_META_BYTES: u64 = 1 << 20;
/// Most segments of a sparse file.
const MAX_SEGMENTS: usize = 1 << 16;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file, with data.
    File,
    /// Another name of an earlier entry's file.
    HardLink,
    /// A symlink.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// One entry, its data still unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As it is in the archive: not cleaned.
    pub path: Vec<u8>,
    /// Target of a link, as it is in the archive.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permissions and set-id bits, at most 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The size of the file once written; for a sparse file more than the archive has.
    pub size_bytes: u64,
    /// Seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// The same of the last access, if it is told.
    pub atime: Option<(i64, u32)>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes: names and values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// (offset, length) of the data of a sparse file, ascending and inside `size_bytes`.
    pub segments: Option<Vec<(u64, u64)>>,
}

/// Whether `start` begins with a valid header or the zero block of an empty archive.
pub fn is_tar_start(start: &[u8]) -> bool {
    let Some(block) = start.first_chunk::<BLOCK_BYTES>() else {
        return false;
    };
    let header = Header(block);
    header.is_zero() || header.has_right_checksum()
}

/// Reads entries one after the other.
pub struct TarReader<R> {
    input: R,
    offset: u64,
    /// Data bytes of the current entry not yet consumed.
    data_left: u64,
    padding: u64,
    is_at_end: bool,
    entries: u64,
}

impl<R: BufRead> TarReader<R> {
    /// Reads an archive from its start.
    pub fn new(input: R) -> Self {
        Self {
            input,
            offset: 0,
            data_left: 0,
            padding: 0,
            is_at_end: false,
            entries: 0,
        }
    }

    /// Skips what is left of the current entry and parses the next one.
    ///
    /// # Errors
    /// [`TarError`] for an archive that is damaged or cut short, or when the input fails.
    #[expect(
        clippy::should_implement_trait,
        reason = "an entry's data is read from the reader itself"
    )]
    pub fn next(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip_data()?;
        let mut extensions = Extensions::default();
        loop {
            if self.is_at_end {
                return Ok(None);
            }
            let start = self.offset;
            let Some(block) = self.header_block()? else {
                if extensions.is_empty() {
                    self.is_at_end = true;
                    return Ok(None);
                }
                return Err(TarError::Truncated {
                    offset: self.offset,
                });
            };
            let header = Header(&block);
            if header.is_zero() {
                self.is_at_end = true;
                return Ok(None);
            }
            let bad = |reason: String| TarError::Tar {
                reason,
                offset: start,
            };
            if !header.has_right_checksum() {
                return Err(bad(match self.entries {
                    0 => "no tar header".to_owned(),
                    _ => "damaged header".to_owned(),
                }));
            }
            self.entries += 1;
            match header.type_flag() {
                b'x' => {
                    let data = self.meta_data(header.size_bytes().map_err(bad)?, start)?;
                    extensions.pax = pax::parse(&data).map_err(bad)?;
                }
                b'L' => {
                    let data = self.meta_data(header.size_bytes().map_err(bad)?, start)?;
                    extensions.path = Some(until_nul(data));
                }
                b'K' => {
                    let data = self.meta_data(header.size_bytes().map_err(bad)?, start)?;
                    extensions.link = Some(until_nul(data));
                }
                // Global records and volume labels say nothing about files; docker skips them too.
                b'g' | b'V' => {
                    self.set_data(header.size_bytes().map_err(bad)?);
                    self.skip_data()?;
                }
                _ => return self.entry(&header, extensions, start).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        header: &Header<'_>,
        extensions: Extensions,
        start: u64,
    ) -> Result<Entry, TarError> {
        let bad = |reason: String| TarError::Tar {
            reason,
            offset: start,
        };
        let Extensions { pax, path, link } = extensions;
        let is_gnu_sparse = header.type_flag() == b'S';
        let path = pax
            .sparse
            .name
            .clone()
            .or(pax.path)
            .or(path)
            .unwrap_or_else(|| header.path());
        let kind = match header.type_flag() {
            0 | b'0' if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' | b'D' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            flag => return Err(bad(format!("unknown entry type `{}`", flag.escape_ascii()))),
        };
        let archived = match pax.size_bytes {
            Some(size) => size,
            None => header.size_bytes().map_err(bad)?,
        };
        // Only files have data; other types' size field is history and is not followed by any.
        self.set_data(if kind == EntryKind::File { archived } else { 0 });
        let mut entry = Entry {
            kind,
            mode: header.mode().map_err(bad)?,
            uid: pax.uid.map_or_else(|| header.uid(), Ok).map_err(bad)?,
            gid: pax.gid.map_or_else(|| header.gid(), Ok).map_err(bad)?,
            size_bytes: self.data_left,
            mtime: match pax.mtime {
                Some(time) => time,
                None => (header.mtime_s().map_err(bad)?, 0),
            },
            atime: pax.atime,
            device: match kind {
                EntryKind::CharDevice | EntryKind::BlockDevice => header.device().map_err(bad)?,
                _ => (0, 0),
            },
            xattrs: pax.xattrs,
            segments: None,
            link: pax.link.or(link).unwrap_or_else(|| header.link().to_vec()),
            path,
        };
        if is_gnu_sparse {
            entry.size_bytes = header.sparse_real_size_bytes().map_err(bad)?;
            entry.segments = Some(self.gnu_sparse(header, start)?);
        } else if pax.sparse.is_present() && kind == EntryKind::File {
            entry.size_bytes = pax.sparse.real_size_bytes.unwrap_or(0);
            entry.segments = Some(if pax.sparse.has_map_in_data() {
                self.sparse_map_in_data(start)?
            } else {
                pax.sparse.segments
            });
        }
        if let Some(segments) = &entry.segments {
            check_segments(segments, entry.size_bytes, self.data_left).map_err(bad)?;
        }
        Ok(entry)
    }

    /// The extension blocks after an old GNU sparse header.
    fn gnu_sparse(&mut self, header: &Header<'_>, start: u64) -> Result<Vec<(u64, u64)>, TarError> {
        let bad = |reason: String| TarError::Tar {
            reason,
            offset: start,
        };
        let mut segments = Vec::new();
        header::sparse_segments(header.sparse_slots(), &mut segments).map_err(bad)?;
        let mut has_more = header.has_sparse_extension();
        while has_more {
            let block = self.header_block()?.ok_or(TarError::Truncated {
                offset: self.offset,
            })?;
            header::sparse_segments(&block[..504], &mut segments).map_err(bad)?;
            has_more = block[504] != 0;
            if segments.len() > MAX_SEGMENTS {
                return Err(bad("sparse file has too many segments".to_owned()));
            }
        }
        Ok(segments)
    }

    /// GNU's PAX sparse format 1.0: decimal lines at the start of the data, padded to a block.
    fn sparse_map_in_data(&mut self, start: u64) -> Result<Vec<(u64, u64)>, TarError> {
        let bad = |reason: &str| TarError::Tar {
            reason: reason.to_owned(),
            offset: start,
        };
        let mut text = Vec::new();
        let mut numbers: Vec<u64> = Vec::new();
        let mut wanted = None;
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            if self.data_left < BLOCK_BYTES as u64 || numbers.len() > 2 * MAX_SEGMENTS {
                return Err(bad("sparse map is damaged"));
            }
            let block = self.header_block()?.ok_or(TarError::Truncated {
                offset: self.offset,
            })?;
            self.data_left -= BLOCK_BYTES as u64;
            for byte in block {
                match byte {
                    b'\n' => {
                        let number =
                            pax::decimal(&text).ok_or_else(|| bad("sparse map is damaged"))?;
                        text.clear();
                        match wanted {
                            None => {
                                wanted =
                                    usize::try_from(number).ok().and_then(|n| n.checked_mul(2));
                            }
                            Some(wanted) if numbers.len() < wanted => numbers.push(number),
                            Some(_) => return Err(bad("sparse map is damaged")),
                        }
                        if wanted.is_none_or(|wanted| wanted > 2 * MAX_SEGMENTS) {
                            return Err(bad("sparse file has too many segments"));
                        }
                    }
                    0 => break,
                    digit => text.push(digit),
                }
                if text.len() > 20 {
                    return Err(bad("sparse map is damaged"));
                }
            }
        }
        Ok(numbers
            .chunks_exact(2)
            .map(|pair| (pair[0], pair[1]))
            .collect())
    }

    /// The next piece of the current entry's data, at most `limit` bytes; empty at its end.
    ///
    /// Call [`Self::consume`] with what was used.
    ///
    /// # Errors
    /// [`TarError::Truncated`] when the archive ends before, [`TarError::Read`].
    pub fn data(&mut self, limit: u64) -> Result<&[u8], TarError> {
        let left = self.data_left.min(limit);
        if left == 0 {
            return Ok(&[]);
        }
        let offset = self.offset;
        let chunk = fill(&mut self.input)?;
        if chunk.is_empty() {
            return Err(TarError::Truncated { offset });
        }
        let length = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
        Ok(&chunk[..length])
    }

    /// Takes note that `length` bytes of [`Self::data`] were used.
    pub fn consume(&mut self, length: usize) {
        self.input.consume(length);
        self.offset += length as u64;
        self.data_left -= length as u64;
    }

    /// Reads to the end of the input, past the archive's end.
    ///
    /// # Errors
    /// [`TarError::Read`].
    pub fn drain(&mut self) -> Result<(), TarError> {
        loop {
            let length = fill(&mut self.input)?.len();
            if length == 0 {
                return Ok(());
            }
            self.input.consume(length);
            self.offset += length as u64;
        }
    }

    fn set_data(&mut self, size_bytes: u64) {
        self.data_left = size_bytes;
        self.padding = size_bytes.next_multiple_of(BLOCK_BYTES as u64) - size_bytes;
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        while self.data_left > 0 {
            let length = self.data(u64::MAX)?.len();
            self.consume(length);
        }
        self.data_left = std::mem::take(&mut self.padding);
        while self.data_left > 0 {
            let length = match self.data(u64::MAX) {
                Ok(data) => data.len(),
                // Some writers leave out the padding of the very last entry.
                Err(TarError::Truncated { .. }) => {
                    self.data_left = 0;
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            self.consume(length);
        }
        Ok(())
    }

    fn meta_data(&mut self, size_bytes: u64, start: u64) -> Result<Vec<u8>, TarError> {
        if size_bytes > MAX_META_BYTES {
            let reason = format!("extended header of {size_bytes} bytes is too large");
            return Err(TarError::Tar {
                reason,
                offset: start,
            });
        }
        self.set_data(size_bytes);
        let mut bytes = Vec::new();
        loop {
            let chunk = self.data(u64::MAX)?;
            if chunk.is_empty() {
                break;
            }
            bytes.extend_from_slice(chunk);
            let length = chunk.len();
            self.consume(length);
        }
        self.skip_data()?;
        Ok(bytes)
    }

    /// The next 512 bytes, or nothing at the input's end.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>, TarError> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            let chunk = fill(&mut self.input)?;
            if chunk.is_empty() {
                return match filled {
                    0 => Ok(None),
                    // Something shorter than a block at the very start is no tar archive at all.
                    _ if self.entries == 0 => Err(TarError::Tar {
                        reason: "no tar header".to_owned(),
                        offset: 0,
                    }),
                    _ => Err(TarError::Truncated {
                        offset: self.offset,
                    }),
                };
            }
            let length = chunk.len().min(BLOCK_BYTES - filled);
            block[filled..filled + length].copy_from_slice(&chunk[..length]);
            self.input.consume(length);
            self.offset += length as u64;
            filled += length;
        }
        Ok(Some(block))
    }
}

/// What helper headers say about the entry after them.
#[derive(Default)]
struct Extensions {
    pax: PaxRecords,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.path.is_none() && self.link.is_none() && self.pax == PaxRecords::default()
    }
}

fn until_nul(mut data: Vec<u8>) -> Vec<u8> {
    if let Some(end) = data.iter().position(|byte| *byte == 0) {
        data.truncate(end);
    }
    data
}

fn check_segments(segments: &[(u64, u64)], real: u64, archived: u64) -> Result<(), String> {
    let mut end = 0u64;
    let mut total = 0u64;
    for (offset, length) in segments {
        if *offset < end {
            return Err("sparse segments overlap".to_owned());
        }
        end = offset
            .checked_add(*length)
            .ok_or("sparse segment out of range")?;
        total += length;
    }
    if end > real || total != archived {
        return Err("sparse segments do not fit the file".to_owned());
    }
    Ok(())
}

fn fill<R: BufRead>(input: &mut R) -> Result<&[u8], TarError> {
    // A borrow returned from inside a loop on EINTR upsets the borrow checker; ask twice instead.
    loop {
        match input.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(TarError::Read(error)),
        }
    }
    input.fill_buf().map_err(TarError::Read)
}
