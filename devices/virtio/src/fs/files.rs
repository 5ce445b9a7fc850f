//! Requests about one file: attributes, opening, and what is done to an open file but reading and writing.

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, SeekFrom, Timespec, Timestamps,
    UTIME_NOW, UTIME_OMIT, Uid,
};
use rustix::io::Errno;

use super::session::{Reply, Session};
use super::wire::{Fields, Out};

/// `FUSE_GETATTR_FH`.
const BY_HANDLE: u32 = 1;

/// Which fields of `fuse_setattr_in` are to be set.
mod valid {
    pub(super) const MODE: u32 = 1;
    pub(super) const UID: u32 = 1 << 1;
    pub(super) const GID: u32 = 1 << 2;
    pub(super) const SIZE: u32 = 1 << 3;
    pub(super) const ATIME: u32 = 1 << 4;
    pub(super) const MTIME: u32 = 1 << 5;
    pub(super) const HANDLE: u32 = 1 << 6;
    pub(super) const ATIME_NOW: u32 = 1 << 7;
    pub(super) const MTIME_NOW: u32 = 1 << 8;
}

/// `SEEK_DATA` and `SEEK_HOLE`.
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

impl Session {
    /// `fuse_getattr_in`.
    pub(super) fn get_attributes(&mut self, node: u64, mut fields: Fields<'_>) -> Reply {
        let (flags, _padding, handle) = (fields.u32()?, fields.u32()?, fields.u64()?);
        let fd = if flags & BY_HANDLE != 0 {
            self.nodes.handle(handle)?
        } else {
            self.nodes.node(node)?
        };
        let stat = rustix::fs::fstat(&fd)?;
        let mut out = Out::default();
        out.u64(self.options.cache_seconds).u64(0).attributes(&stat);
        Ok(out)
    }

    /// `fuse_setattr_in`.
    pub(super) fn set_attributes(&mut self, id: u64, mut fields: Fields<'_>) -> Reply {
        let (asked, _padding) = (fields.u32()?, fields.u32()?);
        let (handle, len, _lock_owner) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let seconds = [fields.u64()?, fields.u64()?, fields.u64()?];
        let nanoseconds = [fields.u32()?, fields.u32()?, fields.u32()?];
        let (mode, _unused) = (fields.u32()?, fields.u32()?);
        let (uid, gid) = (fields.u32()?, fields.u32()?);
        let has = |bit| asked & bit != 0;
        let node = self.nodes.node(id)?;
        let user = has(valid::UID).then(|| Uid::from_raw(uid));
        let group = has(valid::GID).then(|| Gid::from_raw(gid));
        if user.is_some() || group.is_some() {
            rustix::fs::chownat(&node, c"", user, group, AtFlags::EMPTY_PATH)?;
        }
        if has(valid::MODE) {
            let (directory, name) = self.nodes.by_descriptor(&node);
            let mode = Mode::from_raw_mode(mode & 0o7777);
            rustix::fs::chmodat(directory, name, mode, AtFlags::empty())?;
        }
        if has(valid::SIZE) {
            if has(valid::HANDLE) {
                rustix::fs::ftruncate(self.nodes.handle(handle)?, len)?;
            } else {
                rustix::fs::ftruncate(self.nodes.reopen(id, OFlags::WRONLY)?, len)?;
            }
        }
        if has(valid::ATIME | valid::MTIME) {
            let time = |given, now, at: usize| Timespec {
                tv_sec: seconds[at].cast_signed(),
                tv_nsec: match (has(given), has(now)) {
                    (false, _) => UTIME_OMIT,
                    (true, true) => UTIME_NOW,
                    (true, false) => i64::from(nanoseconds[at].min(999_999_999)),
                },
            };
            let times = Timestamps {
                last_access: time(valid::ATIME, valid::ATIME_NOW, 0),
                last_modification: time(valid::MTIME, valid::MTIME_NOW, 1),
            };
            rustix::fs::utimensat(&node, c"", &times, AtFlags::EMPTY_PATH)?;
        }
        let stat = rustix::fs::fstat(&node)?;
        let mut out = Out::default();
        out.u64(self.options.cache_seconds).u64(0).attributes(&stat);
        Ok(out)
    }

    /// `fuse_kstatfs`.
    pub(super) fn statistics(&mut self, node: u64) -> Reply {
        let stat = rustix::fs::fstatvfs(self.nodes.node(node)?)?;
        let mut out = Out::default();
        out.u64(stat.f_blocks).u64(stat.f_bfree).u64(stat.f_bavail);
        out.u64(stat.f_files).u64(stat.f_ffree);
        out.u32(stat.f_bsize as u32).u32(stat.f_namemax as u32);
        out.u32(stat.f_frsize as u32).zeroes(28);
        Ok(out)
    }

    /// `fuse_open_in` to `fuse_open_out`.
    pub(super) fn open(&mut self, node: u64, mut fields: Fields<'_>, is_directory: bool) -> Reply {
        let flags = fields.u32()?;
        let asked = OFlags::from_bits_retain(flags);
        let writes = asked & OFlags::RWMODE != OFlags::RDONLY || asked.contains(OFlags::TRUNC);
        if self.options.read_only && writes {
            return Err(Errno::ROFS);
        }
        self.nodes.check_room()?;
        let file = self.nodes.reopen(node, asked)?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
        match (kind == FileType::Directory, is_directory) {
            (true, false) => return Err(Errno::ISDIR),
            (false, true) => return Err(Errno::NOTDIR),
            _ => {}
        }
        let handle = self.nodes.keep(file, node, flags);
        let mut out = Out::default();
        out.u64(handle).u64(0);
        Ok(out)
    }

    /// `fuse_fsync_in`.
    pub(super) fn sync(&mut self, mut fields: Fields<'_>) -> Reply {
        let (handle, flags) = (fields.u64()?, fields.u32()?);
        let file = self.nodes.handle(handle)?;
        if flags & 1 != 0 {
            rustix::fs::fdatasync(&file)?;
        } else {
            rustix::fs::fsync(&file)?;
        }
        Ok(Out::default())
    }

    /// `fuse_fallocate_in`.
    pub(super) fn allocate(&mut self, mut fields: Fields<'_>) -> Reply {
        let (handle, offset, len) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let mode = FallocateFlags::from_bits(fields.u32()?).ok_or(Errno::OPNOTSUPP)?;
        rustix::fs::fallocate(self.nodes.handle(handle)?, mode, offset, len)?;
        Ok(Out::default())
    }

    /// `fuse_lseek_in` to `fuse_lseek_out`; the guest's kernel asks for data and holes only.
    pub(super) fn seek(&mut self, mut fields: Fields<'_>) -> Reply {
        let (handle, offset, whence) = (fields.u64()?, fields.u64()?, fields.u32()?);
        let position = match whence {
            SEEK_DATA => SeekFrom::Data(offset),
            SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        let mut out = Out::default();
        out.u64(rustix::fs::seek(self.nodes.handle(handle)?, position)?);
        Ok(out)
    }
}
