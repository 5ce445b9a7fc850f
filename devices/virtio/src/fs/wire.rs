//! FUSE messages (linux/fuse.h, protocol 7.32), read and written field by field, little-endian.

use std::ffi::CStr;

use rustix::fs::Stat;
use rustix::io::Errno;

use super::nodes::Found;

/// Bytes of `fuse_in_header`.
pub(super) const IN_HEADER: usize = 40;
/// Bytes of `fuse_out_header`.
pub(super) const OUT_HEADER: usize = 16;
/// Bytes of `fuse_entry_out`.
pub(super) const ENTRY: usize = 128;
/// The protocol's major version.
pub(super) const MAJOR: u32 = 7;
/// The newest minor version whose messages are understood.
pub(super) const MINOR: u32 = 32;
/// `FUSE_ATTR_SUBMOUNT`. Before protocol 7.32 nobody looked at the field.
const SUBMOUNT: u32 = 1;

/// `enum fuse_opcode`.
pub(super) mod opcode {
    pub(in crate::fs) const LOOKUP: u32 = 1;
    pub(in crate::fs) const FORGET: u32 = 2;
    pub(in crate::fs) const GETATTR: u32 = 3;
    pub(in crate::fs) const SETATTR: u32 = 4;
    pub(in crate::fs) const READLINK: u32 = 5;
    pub(in crate::fs) const SYMLINK: u32 = 6;
    pub(in crate::fs) const MKNOD: u32 = 8;
    pub(in crate::fs) const MKDIR: u32 = 9;
    pub(in crate::fs) const UNLINK: u32 = 10;
    pub(in crate::fs) const RMDIR: u32 = 11;
    pub(in crate::fs) const RENAME: u32 = 12;
    pub(in crate::fs) const LINK: u32 = 13;
    pub(in crate::fs) const OPEN: u32 = 14;
    pub(in crate::fs) const READ: u32 = 15;
    pub(in crate::fs) const WRITE: u32 = 16;
    pub(in crate::fs) const STATFS: u32 = 17;
    pub(in crate::fs) const RELEASE: u32 = 18;
    pub(in crate::fs) const FSYNC: u32 = 20;
    pub(in crate::fs) const SETXATTR: u32 = 21;
    pub(in crate::fs) const GETXATTR: u32 = 22;
    pub(in crate::fs) const LISTXATTR: u32 = 23;
    pub(in crate::fs) const REMOVEXATTR: u32 = 24;
    pub(in crate::fs) const FLUSH: u32 = 25;
    pub(in crate::fs) const INIT: u32 = 26;
    pub(in crate::fs) const OPENDIR: u32 = 27;
    pub(in crate::fs) const READDIR: u32 = 28;
    pub(in crate::fs) const RELEASEDIR: u32 = 29;
    pub(in crate::fs) const FSYNCDIR: u32 = 30;
    pub(in crate::fs) const ACCESS: u32 = 34;
    pub(in crate::fs) const CREATE: u32 = 35;
    pub(in crate::fs) const INTERRUPT: u32 = 36;
    pub(in crate::fs) const DESTROY: u32 = 38;
    pub(in crate::fs) const BATCH_FORGET: u32 = 42;
    pub(in crate::fs) const FALLOCATE: u32 = 43;
    pub(in crate::fs) const READDIRPLUS: u32 = 44;
    pub(in crate::fs) const RENAME2: u32 = 45;
    pub(in crate::fs) const LSEEK: u32 = 46;
}

/// The fields of `fuse_in_header` that are used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Header {
    pub(super) fn parse(bytes: &[u8; IN_HEADER]) -> Result<Self, Errno> {
        let mut fields = Fields::new(bytes);
        let _len = fields.u32()?;
        Ok(Self {
            opcode: fields.u32()?,
            unique: fields.u64()?,
            node: fields.u64()?,
            uid: fields.u32()?,
            gid: fields.u32()?,
        })
    }
}

/// A request's arguments, taken one after the other; `EINVAL` when they end too early.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Errno> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Errno> {
        self.take().map(u64::from_le_bytes)
    }

    /// Anything up to the next NUL.
    pub(super) fn text(&mut self) -> Result<&'a CStr, Errno> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::INVAL)?;
        self.0 = &self.0[text.count_bytes() + 1..];
        Ok(text)
    }

    /// One name in a directory.
    pub(super) fn name(&mut self) -> Result<&'a CStr, Errno> {
        let name = self.text()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno::INVAL),
            bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
            bytes if bytes.len() > 255 => Err(Errno::NAMETOOLONG),
            _ => Ok(name),
        }
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// A reply under construction.
#[derive(Debug, Default)]
pub(super) struct Out(pub(super) Vec<u8>);

impl Out {
    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn zeroes(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    /// `struct fuse_attr`; `flags` are its last field.
    fn attributes_with(&mut self, stat: &Stat, flags: u32) -> &mut Self {
        self.u64(stat.st_ino);
        self.u64(stat.st_size.cast_unsigned());
        self.u64(stat.st_blocks.cast_unsigned());
        self.u64(stat.st_atime.cast_unsigned());
        self.u64(stat.st_mtime.cast_unsigned());
        self.u64(stat.st_ctime.cast_unsigned());
        self.u32(stat.st_atime_nsec as u32);
        self.u32(stat.st_mtime_nsec as u32);
        self.u32(stat.st_ctime_nsec as u32);
        self.u32(stat.st_mode);
        self.u32(stat.st_nlink as u32);
        self.u32(stat.st_uid);
        self.u32(stat.st_gid);
        self.u32(encode_device(stat.st_rdev));
        self.u32(u32::try_from(stat.st_blksize).unwrap_or(4096));
        self.u32(flags)
    }

    /// `struct fuse_attr`.
    pub(super) fn attributes(&mut self, stat: &Stat) -> &mut Self {
        self.attributes_with(stat, 0)
    }

    /// `struct fuse_entry_out`.
    pub(super) fn entry(&mut self, found: &Found, cache_seconds: u64) -> &mut Self {
        self.u64(found.id).u64(0);
        self.u64(cache_seconds).u64(cache_seconds);
        self.u32(0).u32(0);
        let flags = if found.is_submount { SUBMOUNT } else { 0 };
        self.attributes_with(&found.stat, flags)
    }
}

/// A device number as the kernel's `new_encode_dev` has it.
fn encode_device(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    minor & 0xFF | major << 8 | (minor & !0xFF) << 12
}
