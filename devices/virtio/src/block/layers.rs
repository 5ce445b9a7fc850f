//! Many files as the partitions of one disk that is only read: a machine has fewer places for devices than an image may
//! have layers.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::FileType;
use sha2::{Digest, Sha256};

use super::SECTOR;
use super::gpt::{self, Guid, MAX_PARTITIONS, Partition};
use crate::chain::Buffers;
use crate::device::DeviceError;

/// Bytes of a file that go into its partition's GUID. An EROFS image has its own UUID there.
const SAMPLE_BYTES: usize = 4096;

/// The longest file: far more than EROFS's 16 TiB, and 255 of them still make a disk.
const MAX_BYTES: u64 = 1 << 48;

/// The disk: table, files, and zeros between them.
#[derive(Debug)]
pub(super) struct LayerDisk {
    /// In the order of their places, which do not overlap.
    spans: Vec<Span>,
    /// The disk's length.
    pub(super) bytes: u64,
}

#[derive(Debug)]
struct Span {
    start: u64,
    bytes: u64,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Table(Vec<u8>),
    File(File),
}

impl LayerDisk {
    pub(super) fn new(files: Vec<File>) -> Result<Self, DeviceError> {
        if files.is_empty() || files.len() > MAX_PARTITIONS {
            return Err(DeviceError::LayerCount(files.len()));
        }
        let mut partitions = Vec::new();
        for (index, file) in files.iter().enumerate() {
            partitions.push(partition(index, file)?);
        }
        let disk = guid(partitions.iter().flat_map(|partition| partition.guid));
        let table = gpt::table(disk, &partitions).ok_or(DeviceError::LayerCount(files.len()))?;
        let mut spans = vec![Span::of_table(0, table.start)];
        for ((file, partition), start) in files.into_iter().zip(partitions).zip(table.offsets) {
            spans.push(Span {
                start,
                bytes: partition.bytes,
                source: Source::File(file),
            });
        }
        let end = Span::of_table(table.end_at, table.end);
        let bytes = end.start + end.bytes;
        spans.push(end);
        Ok(Self { spans, bytes })
    }

    /// Fills `data` from `offset` on, which is all inside the disk; gives how many bytes came before a file that has
    /// become shorter.
    pub(super) fn read(&self, data: &mut Buffers<'_>, offset: u64) -> io::Result<u64> {
        let wanted = data.len();
        let mut done = 0;
        while done < wanted {
            let at = offset + done;
            let after = self.spans.partition_point(|span| span.start <= at);
            let next = self.spans.get(after).map_or(self.bytes, |span| span.start);
            let span = after.checked_sub(1).and_then(|index| self.spans.get(index));
            let here = span.filter(|span| at < span.start + span.bytes);
            let end = here.map_or(next, |span| span.start + span.bytes);
            let mut part = data.split_front(end.saturating_sub(at));
            let asked = part.len();
            let came = match here {
                Some(span) => span.read(&mut part, at - span.start)?,
                None => zero(&mut part),
            };
            done += came;
            if came < asked || asked == 0 {
                break;
            }
        }
        Ok(done)
    }
}

impl Span {
    fn of_table(start: u64, bytes: Vec<u8>) -> Self {
        Self {
            start,
            bytes: bytes.len() as u64,
            source: Source::Table(bytes),
        }
    }

    fn read(&self, data: &mut Buffers<'_>, offset: u64) -> io::Result<u64> {
        match &self.source {
            Source::Table(bytes) => {
                let rest = bytes.get(offset as usize..).unwrap_or_default();
                Ok(data.write(rest) as u64)
            }
            Source::File(file) => data.fill_from_file(file.as_fd(), offset),
        }
    }
}

fn zero(data: &mut Buffers<'_>) -> u64 {
    const ZEROS: [u8; SECTOR as usize] = [0; SECTOR as usize];
    let mut done = 0;
    while !data.is_empty() {
        done += data.write(&ZEROS) as u64;
    }
    done
}

/// What partition `index` is when it holds `file`. The same file at the same place gives the same.
fn partition(index: usize, file: &File) -> Result<Partition, DeviceError> {
    let unfit = |source: io::Error| DeviceError::Layer {
        number: index + 1,
        source,
    };
    let stat = rustix::fs::fstat(file).map_err(|errno| unfit(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(unfit(io::Error::other("it is no regular file")));
    }
    let bytes = stat.st_size.cast_unsigned();
    if bytes == 0 {
        return Err(unfit(io::Error::other("it is empty")));
    }
    if bytes > MAX_BYTES {
        return Err(unfit(io::Error::other("it is longer than 256 TiB")));
    }
    let mut sample = [0; SAMPLE_BYTES];
    let count = bytes.min(SAMPLE_BYTES as u64) as usize;
    file.read_exact_at(&mut sample[..count], 0).map_err(unfit)?;
    let place = (index as u64).to_le_bytes();
    let identity = [&place[..], &bytes.to_le_bytes(), &sample];
    let guid = guid(identity.concat());
    Ok(Partition { bytes, guid })
}

/// A GUID of version 8, whose bytes are of one's own making (RFC 9562 §5.8); its first three fields are written
/// little-endian.
fn guid(of: impl IntoIterator<Item = u8>) -> Guid {
    let of: Vec<u8> = of.into_iter().collect();
    let hash = Sha256::digest(of);
    let mut guid = [0; 16];
    guid.copy_from_slice(&hash[..16]);
    guid[7] = guid[7] & 0x0F | 0x80;
    guid[8] = guid[8] & 0x3F | 0x80;
    guid
}

#[cfg(test)]
mod tests;
