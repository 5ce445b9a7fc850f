//! Requests about names: find, make, link, rename, remove, list.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, SeekFrom, Stat, Uid};
use rustix::io::Errno;

use super::nodes::{Found, opening};
use super::session::{MAX_TRANSFER, Reply, Session};
use super::wire::{ENTRY, Fields, Header, Out};

/// Bytes of `fuse_dirent` without the name.
const DIRENT: usize = 24;
/// The permission bits of a mode, with set-id and sticky bits.
const PERMISSIONS: u32 = 0o7777;

impl Session {
    /// Looks `name` up and answers with its node.
    pub(super) fn entry(&mut self, parent: u64, name: &CStr) -> Reply {
        let found = self.nodes.look_up(parent, name)?;
        let mut out = Out::default();
        out.entry(&found, self.options.cache_seconds);
        Ok(out)
    }

    pub(super) fn read_link(&mut self, node: u64) -> Reply {
        let node = self.nodes.node(node)?;
        let target = rustix::fs::readlinkat(&node, c"", Vec::new())?;
        Ok(Out(target.into_bytes()))
    }

    pub(super) fn make_symlink(&mut self, header: Header, mut fields: Fields<'_>) -> Reply {
        let name = fields.name()?;
        let target = fields.text()?;
        let parent = self.nodes.node(header.node)?;
        rustix::fs::symlinkat(target, &parent, name)?;
        self.made(header, parent.as_fd(), name, None)
    }

    /// `fuse_mknod_in`. Devices are refused, but for the character device 0:0, which is an overlay's whiteout.
    pub(super) fn make_node(&mut self, header: Header, mut fields: Fields<'_>) -> Reply {
        let (mode, device) = (fields.u32()?, fields.u32()?);
        let (_umask, _padding) = (fields.u32()?, fields.u32()?);
        let name = fields.name()?;
        let kind = FileType::from_raw_mode(mode);
        match kind {
            FileType::RegularFile | FileType::Fifo | FileType::Socket => {}
            FileType::CharacterDevice if device == 0 => {}
            _ => return Err(Errno::PERM),
        }
        let parent = self.nodes.node(header.node)?;
        rustix::fs::mknodat(&parent, name, kind, Mode::RUSR | Mode::WUSR, 0)?;
        self.made(header, parent.as_fd(), name, Some(mode))
    }

    /// `fuse_mkdir_in`.
    pub(super) fn make_directory(&mut self, header: Header, mut fields: Fields<'_>) -> Reply {
        let (mode, _umask) = (fields.u32()?, fields.u32()?);
        let name = fields.name()?;
        let parent = self.nodes.node(header.node)?;
        rustix::fs::mkdirat(&parent, name, Mode::RWXU)?;
        self.made(header, parent.as_fd(), name, Some(mode))
    }

    /// `fuse_create_in`: makes a file and opens it.
    pub(super) fn create(&mut self, header: Header, mut fields: Fields<'_>) -> Reply {
        let (flags, mode) = (fields.u32()?, fields.u32()?);
        let (_umask, _open_flags) = (fields.u32()?, fields.u32()?);
        let name = fields.name()?;
        self.nodes.check_room()?;
        let parent = self.nodes.node(header.node)?;
        let asked = OFlags::from_bits_retain(flags);
        let make = opening(asked) | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let (mut out, file) = match rustix::fs::openat(&parent, name, make, Mode::RUSR | Mode::WUSR)
        {
            // Opened before it gets its mode, which may not allow it.
            Ok(file) => (self.made(header, parent.as_fd(), name, Some(mode))?, file),
            // Someone else on the host made it first.
            Err(Errno::EXIST) if !asked.contains(OFlags::EXCL) => {
                let out = self.entry(header.node, name)?;
                let node = Fields::new(&out.0).u64()?;
                let file = self.nodes.reopen(node, asked);
                (out, file.inspect_err(|_| self.nodes.forget(node, 1))?)
            }
            Err(errno) => return Err(errno),
        };
        let node = Fields::new(&out.0).u64()?;
        let handle = self.nodes.keep(file, node, flags);
        out.u64(handle).u64(0);
        Ok(out)
    }

    /// Gives what was just made as `name` to the user who made it, with exactly the mode asked for: the monitor's own
    /// user and umask don't matter.
    fn made(
        &mut self,
        header: Header,
        parent: BorrowedFd<'_>,
        name: &CStr,
        mode: Option<u32>,
    ) -> Reply {
        let found = self.nodes.look_up(header.node, name)?;
        let Found { id, stat, .. } = found;
        let outcome = self.own(id, &stat, header, mode);
        let found = match outcome {
            Ok(stat) => Found { stat, ..found },
            Err(errno) => {
                self.nodes.forget(id, 1);
                let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                let _ = rustix::fs::unlinkat(parent, name, remove_flags(is_directory));
                return Err(errno);
            }
        };
        let mut out = Out::default();
        out.entry(&found, self.options.cache_seconds);
        Ok(out)
    }

    fn own(
        &mut self,
        id: u64,
        stat: &Stat,
        header: Header,
        mode: Option<u32>,
    ) -> Result<Stat, Errno> {
        let node = self.nodes.node(id)?;
        // A directory with the set-group-id bit gives its own group to what is made in it.
        let parent = rustix::fs::fstat(self.nodes.node(header.node)?)?;
        let inherits = parent.st_mode & 0o2000 != 0;
        let group = if inherits { parent.st_gid } else { header.gid };
        if (stat.st_uid, stat.st_gid) != (header.uid, group) {
            let (user, group) = (Uid::from_raw(header.uid), Gid::from_raw(group));
            let outcome =
                rustix::fs::chownat(&node, c"", Some(user), Some(group), AtFlags::EMPTY_PATH);
            match outcome {
                // A monitor without that right makes everything its own.
                Ok(()) | Err(Errno::PERM) => {}
                Err(errno) => return Err(errno),
            }
        }
        if let Some(mode) = mode {
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let inherited = if inherits && is_directory { 0o2000 } else { 0 };
            let mode = Mode::from_raw_mode(mode & PERMISSIONS | inherited);
            let (directory, name) = self.nodes.by_descriptor(&node);
            rustix::fs::chmodat(directory, name, mode, AtFlags::empty())?;
        }
        rustix::fs::fstat(&node)
    }

    /// `fuse_link_in`.
    pub(super) fn link(&mut self, parent: u64, mut fields: Fields<'_>) -> Reply {
        let old = self.nodes.node(fields.u64()?)?;
        let name = fields.name()?;
        let directory = self.nodes.node(parent)?;
        let (by_descriptor, old_name) = self.nodes.by_descriptor(&old);
        rustix::fs::linkat(
            by_descriptor,
            old_name,
            &directory,
            name,
            AtFlags::SYMLINK_FOLLOW,
        )?;
        self.entry(parent, name)
    }

    pub(super) fn unlink(
        &mut self,
        parent: u64,
        mut fields: Fields<'_>,
        is_directory: bool,
    ) -> Reply {
        let name = fields.name()?;
        let parent = self.nodes.node(parent)?;
        rustix::fs::unlinkat(&parent, name, remove_flags(is_directory))?;
        Ok(Out::default())
    }

    /// `fuse_rename_in` or `fuse_rename2_in`. A whiteout may be left where the file was: as device nodes go, it is harmless.
    pub(super) fn rename(&mut self, parent: u64, mut fields: Fields<'_>, has_flags: bool) -> Reply {
        let target = self.nodes.node(fields.u64()?)?;
        let mut flags = 0;
        if has_flags {
            flags = fields.u32()?;
            let _padding = fields.u32()?;
        }
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        let (old, new) = (fields.name()?, fields.name()?);
        let source = self.nodes.node(parent)?;
        rustix::fs::renameat_with(&source, old, &target, new, flags)?;
        Ok(Out::default())
    }

    /// Lists an open directory from an offset on (`fuse_read_in`), with each entry's node when `plus`.
    pub(super) fn read_directory(
        &mut self,
        mut fields: Fields<'_>,
        room: u64,
        plus: bool,
    ) -> Reply {
        let (handle, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
        let most = u64::from(size.min(MAX_TRANSFER)).min(room) as usize;
        let parent = self.nodes.handle_node(handle)?;
        let directory = self.nodes.handle(handle)?;
        rustix::fs::seek(&directory, SeekFrom::Start(offset))?;
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
        let mut out = Out::default();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            let len =
                DIRENT + name.count_bytes().next_multiple_of(8) + if plus { ENTRY } else { 0 };
            if out.0.len() + len > most {
                break;
            }
            let end = out.0.len() + len;
            if plus {
                // Entries without a node are looked up when they are needed.
                match name.to_bytes() {
                    b"." | b".." => out.zeroes(ENTRY),
                    _ => match self.nodes.look_up(parent, name) {
                        Ok(found) => out.entry(&found, self.options.cache_seconds),
                        Err(_) => out.zeroes(ENTRY),
                    },
                };
            }
            let kind = match entry.file_type() {
                FileType::Unknown => 0,
                kind => kind.as_raw_mode() >> 12,
            };
            out.u64(entry.ino()).u64(entry.next_entry_cookie());
            out.u32(name.count_bytes() as u32).u32(kind);
            out.0.extend_from_slice(name.to_bytes());
            out.0.resize(end, 0);
        }
        Ok(out)
    }
}

fn remove_flags(is_directory: bool) -> AtFlags {
    if is_directory {
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    }
}
