//! Block device (virtio 1.3 §5.2) over a raw file, served in place by scattered reads and writes; or over many files,
//! each a partition of a disk that is only read.

mod gpt;
mod layers;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use self::layers::LayerDisk;
use crate::chain::{Buffers, Chain};
use crate::device::{DeviceError, DeviceType, VirtioDevice, read_config_bytes};
use crate::ring::{Broken, Queues};

pub use self::gpt::MAX_PARTITIONS;
pub use self::layers::slots_for;

const SECTOR: u64 = 512;
const QUEUE_SIZE: u16 = 256;
/// Data segments of a request: the queue without header and status.
const MAX_SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// Sectors one discard or write-zeroes range may have: 2 GiB.
const MAX_RANGE_SECTORS: u32 = 1 << 22;
/// Ranges in one discard or write-zeroes request.
const MAX_RANGES: u32 = 16;
const ID_BYTES: usize = 20;

/// Feature bits (§5.2.3).
const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_TOPOLOGY: u64 = 1 << 10;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

/// Request types (§5.2.6).
mod request {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
}

/// A request's outcome (§5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Outcome {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

impl From<io::Error> for Outcome {
    fn from(_: io::Error) -> Self {
        Self::IoError
    }
}

/// How a disk is shown to the guest.
#[derive(Clone, Debug, Default)]
pub struct BlockOptions {
    /// The guest cannot write; the file may then be open for reading only.
    pub read_only: bool,
    /// What the guest sees as serial number, 1 to 20 bytes; empty for none.
    pub id: String,
}

/// A disk: a raw file (or block device) whose bytes are the disk's, or files that are its partitions.
///
/// The guest's writes go to the host's page cache; a flush request writes them to the host's disk.
#[derive(Debug)]
pub struct BlockDevice {
    content: Content,
    bytes: u64,
    read_only: bool,
    id: [u8; ID_BYTES],
    config: [u8; 60],
}

/// Where a disk's bytes are.
#[derive(Debug)]
enum Content {
    File(File),
    Layers(LayerDisk),
}

impl BlockDevice {
    /// A disk of the length `file` has now.
    ///
    /// # Errors
    /// [`DeviceError::DiskLength`] when that is no multiple of 512; [`DeviceError::Name`] when the id is too long;
    /// [`DeviceError::Kernel`] when the length cannot be found out.
    pub fn new(file: File, options: &BlockOptions) -> Result<Self, DeviceError> {
        // Seeking also tells the length of a block device.
        let bytes = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))
            .map_err(|errno| DeviceError::Kernel("find the disk's length", errno.into()))?;
        if !bytes.is_multiple_of(SECTOR) {
            return Err(DeviceError::DiskLength(bytes));
        }
        Self::with(Content::File(file), bytes, options)
    }

    /// A disk that is only read, with a GUID partition table: partition 1 (`/dev/vda1`) holds the first of `files`, and so
    /// on. What a partition's last sector has beyond its file reads as zeros. The same files in the same order give the
    /// same disk, as far as their lengths and first 4096 bytes tell.
    ///
    /// The files must not become shorter: what is missing cannot be read.
    ///
    /// * `files`: 1 to [`MAX_PARTITIONS`], regular, none empty.
    ///
    /// # Errors
    /// [`DeviceError::LayerCount`], [`DeviceError::Layer`] for files that are none; [`DeviceError::Name`] when the id is
    /// too long.
    pub fn of_layers(files: Vec<File>, id: &str) -> Result<Self, DeviceError> {
        let disk = LayerDisk::new(files)?;
        let options = BlockOptions {
            read_only: true,
            id: id.to_owned(),
        };
        let bytes = disk.bytes;
        Self::with(Content::Layers(disk), bytes, &options)
    }

    fn with(content: Content, bytes: u64, options: &BlockOptions) -> Result<Self, DeviceError> {
        let mut id = [0; ID_BYTES];
        let name = options.id.as_bytes();
        id.get_mut(..name.len())
            .ok_or_else(|| DeviceError::Name(options.id.clone(), ID_BYTES))?
            .copy_from_slice(name);
        Ok(Self {
            content,
            bytes,
            read_only: options.read_only,
            id,
            config: config(bytes / SECTOR),
        })
    }

    /// Its length in sectors of 512 bytes.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.bytes / SECTOR
    }

    /// Carries one request out; gives the bytes written to the guest, the status byte included.
    fn serve(&self, chain: &mut Chain<'_>) -> Result<u64, Broken> {
        let header: [u8; 16] = chain.readable.read_array().ok_or(Broken::Request)?;
        let mut status = chain.writable.split_back(1);
        if status.is_empty() {
            return Err(Broken::Request);
        }
        let kind = le32(&header, 0);
        let sector = u64::from(le32(&header, 8)) | u64::from(le32(&header, 12)) << 32;
        let mut written = 0;
        let outcome = match kind {
            request::IN => self.read(sector, &mut chain.writable, &mut written),
            request::OUT => self.write(sector, &mut chain.readable),
            request::FLUSH => self.flush(),
            request::GET_ID => {
                written = chain.writable.write(&self.id) as u64;
                Ok(())
            }
            request::DISCARD | request::WRITE_ZEROES => self.ranges(kind, &mut chain.readable),
            _ => Err(Outcome::Unsupported),
        };
        status.write(&[outcome.err().unwrap_or(Outcome::Ok) as u8]);
        Ok(written + 1)
    }

    /// The byte at which `len` bytes from `sector` begin, when they are whole sectors of the disk.
    fn place(&self, sector: u64, len: u64) -> Result<u64, Outcome> {
        let offset = sector.checked_mul(SECTOR).ok_or(Outcome::IoError)?;
        let end = offset.checked_add(len).ok_or(Outcome::IoError)?;
        if !len.is_multiple_of(SECTOR) || end > self.bytes {
            return Err(Outcome::IoError);
        }
        Ok(offset)
    }

    fn read(&self, sector: u64, data: &mut Buffers<'_>, written: &mut u64) -> Result<(), Outcome> {
        let wanted = data.len();
        let offset = self.place(sector, wanted)?;
        *written = match &self.content {
            Content::File(file) => data.fill_from_file(file.as_fd(), offset)?,
            Content::Layers(disk) => disk.read(data, offset)?,
        };
        // The file may have been cut behind our back.
        if *written == wanted {
            Ok(())
        } else {
            Err(Outcome::IoError)
        }
    }

    fn write(&self, sector: u64, data: &mut Buffers<'_>) -> Result<(), Outcome> {
        let file = self.writable()?;
        let wanted = data.len();
        let offset = self.place(sector, wanted)?;
        if data.drain_to_file(file.as_fd(), offset)? == wanted {
            Ok(())
        } else {
            Err(Outcome::IoError)
        }
    }

    fn flush(&self) -> Result<(), Outcome> {
        match &self.content {
            Content::File(file) => Ok(file.sync_data()?),
            Content::Layers(_) => Ok(()),
        }
    }

    /// The file that the guest may write.
    fn writable(&self) -> Result<&File, Outcome> {
        match &self.content {
            Content::File(file) if !self.read_only => Ok(file),
            _ => Err(Outcome::IoError),
        }
    }

    /// Discards or zeroes ranges of 16 bytes each: sector, sectors, flags (§5.2.6, `virtio_blk_discard_write_zeroes`).
    fn ranges(&self, kind: u32, data: &mut Buffers<'_>) -> Result<(), Outcome> {
        let file = self.writable()?;
        if data.is_empty()
            || !data.len().is_multiple_of(16)
            || data.len() > u64::from(MAX_RANGES) * 16
        {
            return Err(Outcome::IoError);
        }
        while let Some(range) = data.read_array::<16>() {
            let sector = u64::from(le32(&range, 0)) | u64::from(le32(&range, 4)) << 32;
            let sectors = le32(&range, 8);
            let flags = le32(&range, 12);
            let may_unmap = flags & 1 != 0;
            // Reserved flags, and unmap in a discard, are unsupported (§5.2.6.2).
            if flags & !1 != 0 || kind == request::DISCARD && may_unmap {
                return Err(Outcome::Unsupported);
            }
            if sectors > MAX_RANGE_SECTORS {
                return Err(Outcome::IoError);
            }
            let len = u64::from(sectors) * SECTOR;
            let offset = self.place(sector, len)?;
            if len == 0 {
                continue;
            }
            if kind == request::DISCARD {
                discard(file, offset, len)?;
            } else {
                zero(file, offset, len, may_unmap)?;
            }
        }
        Ok(())
    }
}

fn discard(file: &File, offset: u64, len: u64) -> Result<(), Outcome> {
    match allocate(file, FallocateFlags::PUNCH_HOLE, offset, len) {
        // A hint: where the file system cannot, nothing need happen.
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(_) => Err(Outcome::IoError),
    }
}

fn zero(file: &File, offset: u64, len: u64, may_unmap: bool) -> Result<(), Outcome> {
    let ways = if may_unmap {
        [FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE]
    } else {
        [FallocateFlags::ZERO_RANGE, FallocateFlags::PUNCH_HOLE]
    };
    for way in ways {
        match allocate(file, way, offset, len) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP) => {}
            Err(_) => return Err(Outcome::IoError),
        }
    }
    write_zeroes(file, offset, len)
}

fn allocate(file: &File, way: FallocateFlags, offset: u64, len: u64) -> Result<(), Errno> {
    rustix::fs::fallocate(file, way | FallocateFlags::KEEP_SIZE, offset, len)
}

fn write_zeroes(file: &File, offset: u64, len: u64) -> Result<(), Outcome> {
    use std::os::unix::fs::FileExt;
    let zeroes = [0; 16 << 10];
    let mut done = 0;
    while done < len {
        let step = (len - done).min(zeroes.len() as u64);
        file.write_all_at(&zeroes[..step as usize], offset + done)?;
        done += step;
    }
    Ok(())
}

impl VirtioDevice for BlockDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn features(&self) -> u64 {
        let general = F_SEG_MAX | F_BLK_SIZE | F_TOPOLOGY | F_FLUSH;
        if self.read_only {
            general | F_RO
        } else {
            general | F_DISCARD | F_WRITE_ZEROES
        }
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        read_config_bytes(&self.config, offset, data);
    }

    fn activate(&mut self, _features: u64) {}

    fn process(&mut self, queue: usize, queues: &mut Queues<'_>) -> Result<(), Broken> {
        while let Some(mut chain) = queues.pop(queue)? {
            let written = self.serve(&mut chain)?;
            queues.push(queue, chain.head(), written)?;
        }
        Ok(())
    }

    fn reset(&mut self) {}
}

/// The configuration space (§5.2.4, `virtio_blk_config`).
fn config(sectors: u64) -> [u8; 60] {
    let mut config = [0; 60];
    let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &sectors.to_le_bytes());
    put(12, &MAX_SEGMENTS.to_le_bytes());
    put(20, &(SECTOR as u32).to_le_bytes());
    // Topology: physical blocks of 8 sectors, best written whole.
    put(24, &[3, 0]);
    put(26, &8u16.to_le_bytes());
    put(36, &MAX_RANGE_SECTORS.to_le_bytes());
    put(40, &MAX_RANGES.to_le_bytes());
    put(44, &8u32.to_le_bytes());
    put(48, &MAX_RANGE_SECTORS.to_le_bytes());
    put(52, &MAX_RANGES.to_le_bytes());
    put(56, &[1]);
    config
}

/// The little-endian 32-bit field at `at`, which lies in `bytes`.
fn le32(bytes: &[u8; 16], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests;
