//! Many files as the partitions of one disk that is only read: a machine has fewer places for devices than an image may
//! have layers.
//!
//! Partitions lie in slots of one length, however long the files are, and there are more than an image mostly has layers:
//! what a guest read of the table once stays true when the files are others. Where no file is, there are zeros.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::FileType;

use super::SECTOR;
use super::gpt::{self, MAX_PARTITIONS, Slots};
use crate::chain::Buffers;
use crate::device::DeviceError;

/// Partitions of a disk, if the files are not more.
const FEW: u32 = 16;
/// Bytes from one partition to the next.
const SLOT: u64 = 256 << 30;

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
        let slots = Slots {
            count: slots_for(files.len()),
            bytes: SLOT,
        };
        Self::in_slots(files, slots)
    }

    fn in_slots(files: Vec<File>, slots: Slots) -> Result<Self, DeviceError> {
        let count = files.len();
        if files.is_empty() || count > MAX_PARTITIONS {
            return Err(DeviceError::LayerCount(count));
        }
        let table = gpt::table(slots).ok_or(DeviceError::LayerCount(count))?;
        let mut spans = vec![Span::of_table(0, table.start)];
        for (index, (file, start)) in files.into_iter().zip(table.offsets).enumerate() {
            let bytes = length(&file, slots.room()).map_err(|source| DeviceError::Layer {
                number: index + 1,
                source,
            })?;
            spans.push(Span {
                start,
                bytes,
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

/// How many partitions a disk of `files` files has: the same disk serves machines whose images have not more layers.
#[must_use]
pub fn slots_for(files: usize) -> u32 {
    if files <= FEW as usize {
        FEW
    } else {
        MAX_PARTITIONS as u32
    }
}

/// Bytes of a file that fits into `room` and can be read.
fn length(file: &File, room: u64) -> io::Result<u64> {
    let stat = rustix::fs::fstat(file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no regular file"));
    }
    let bytes = stat.st_size.cast_unsigned();
    if bytes == 0 {
        return Err(io::Error::other("it is empty"));
    }
    if bytes > room {
        let why = format!("it is longer than {} MiB", room >> 20);
        return Err(io::Error::other(why));
    }
    file.read_exact_at(&mut [0], 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
