//! One FUSE session: requests in, replies out.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::nodes::Nodes;
use super::wire::{Fields, Header, IN_HEADER, MAJOR, MINOR, OUT_HEADER, Out, opcode};
use super::{FsOptions, FsState};
use crate::chain::{Buffers, Chain};
use crate::device::DeviceError;
use crate::ring::Broken;

/// Bytes of arguments a request may have beside the data of a write: an attribute of 64 KiB and its name.
const MAX_ARGUMENTS: usize = 128 << 10;
/// Bytes one read or write moves.
pub(super) const MAX_TRANSFER: u32 = 1 << 20;

/// Flags of `FUSE_INIT` that are wanted when the guest offers them.
const WANTED_FLAGS: u32 = 1 // ASYNC_READ
    | 1 << 3 // ATOMIC_O_TRUNC
    | 1 << 5 // BIG_WRITES
    | 1 << 12 // AUTO_INVAL_DATA
    | 1 << 13 // DO_READDIRPLUS
    | 1 << 14 // READDIRPLUS_AUTO
    | 1 << 18 // PARALLEL_DIROPS
    | 1 << 22 // MAX_PAGES
    | 1 << 27; // SUBMOUNTS

/// What a request is answered with.
pub(super) type Reply = Result<Out, Errno>;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) nodes: Nodes,
    pub(super) options: FsOptions,
}

impl Session {
    pub(super) fn new(
        directory: OwnedFd,
        descriptors: OwnedFd,
        options: FsOptions,
    ) -> Result<Self, DeviceError> {
        Ok(Self {
            nodes: Nodes::new(
                directory,
                descriptors,
                options.max_nodes,
                options.max_handles,
            )?,
            options,
        })
    }

    /// Answers the request in `chain`; gives the bytes of the reply.
    pub(super) fn serve(&mut self, chain: &mut Chain<'_>) -> Result<u64, Broken> {
        let bytes: [u8; IN_HEADER] = chain.readable.read_array().ok_or(Broken::Request)?;
        let header = Header::parse(&bytes).map_err(|_| Broken::Request)?;
        let mut room = std::mem::take(&mut chain.writable);
        match header.opcode {
            opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT => {
                if let Some(arguments) = chain.readable.read_all(MAX_ARGUMENTS) {
                    // No reply, whatever comes of it.
                    let _ = self.forget(header, Fields::new(&arguments));
                }
                Ok(0)
            }
            opcode::READ => {
                let mut head = room.split_front(OUT_HEADER as u64);
                let outcome = self.read(&mut chain.readable, &mut room);
                let (error, count) = match outcome {
                    Ok(count) => (0, count),
                    Err(errno) => (errno.raw_os_error(), 0),
                };
                reply_head(&mut head, header, error, count)
            }
            opcode::WRITE => {
                let reply = self.write(&mut chain.readable);
                answer(&mut room, header, reply)
            }
            _ => {
                let reply = match chain.readable.read_all(MAX_ARGUMENTS) {
                    Some(arguments) => {
                        let most = room.len().saturating_sub(OUT_HEADER as u64);
                        self.dispatch(header, Fields::new(&arguments), most)
                    }
                    None => Err(Errno::TOOBIG),
                };
                answer(&mut room, header, reply)
            }
        }
    }

    fn dispatch(&mut self, header: Header, mut fields: Fields<'_>, room: u64) -> Reply {
        let node = header.node;
        if self.options.read_only && changes(header.opcode) {
            return Err(Errno::ROFS);
        }
        match header.opcode {
            opcode::INIT => init(fields),
            opcode::DESTROY => {
                self.nodes.forget_everything();
                Ok(Out::default())
            }
            opcode::LOOKUP => {
                let name = fields.name()?;
                self.entry(node, name)
            }
            opcode::GETATTR => self.get_attributes(node, fields),
            opcode::SETATTR => self.set_attributes(node, fields),
            opcode::READLINK => self.read_link(node),
            opcode::STATFS => self.statistics(node),
            opcode::ACCESS => {
                // The guest's kernel checks permissions itself.
                self.nodes.node(node).map(|_| Out::default())
            }
            opcode::SYMLINK => self.make_symlink(header, fields),
            opcode::MKNOD => self.make_node(header, fields),
            opcode::MKDIR => self.make_directory(header, fields),
            opcode::CREATE => self.create(header, fields),
            opcode::LINK => self.link(node, fields),
            opcode::UNLINK => self.unlink(node, fields, false),
            opcode::RMDIR => self.unlink(node, fields, true),
            opcode::RENAME => self.rename(node, fields, false),
            opcode::RENAME2 => self.rename(node, fields, true),
            opcode::OPEN => self.open(node, fields, false),
            opcode::OPENDIR => self.open(node, fields, true),
            opcode::RELEASE | opcode::RELEASEDIR => {
                self.nodes.release(fields.u64()?);
                Ok(Out::default())
            }
            opcode::FLUSH => self.nodes.handle(fields.u64()?).map(|_| Out::default()),
            opcode::FSYNC | opcode::FSYNCDIR => self.sync(fields),
            opcode::FALLOCATE => self.allocate(fields),
            opcode::LSEEK => self.seek(fields),
            opcode::READDIR => self.read_directory(fields, room, false),
            opcode::READDIRPLUS => self.read_directory(fields, room, true),
            opcode::GETXATTR => self.get_xattr(node, fields),
            opcode::LISTXATTR => self.list_xattrs(node, fields),
            opcode::SETXATTR => self.set_xattr(node, fields),
            opcode::REMOVEXATTR => self.remove_xattr(node, fields),
            _ => Err(Errno::NOSYS),
        }
    }

    fn forget(&mut self, header: Header, mut fields: Fields<'_>) -> Result<(), Errno> {
        match header.opcode {
            opcode::FORGET => self.nodes.forget(header.node, fields.u64()?),
            opcode::BATCH_FORGET => {
                let (count, _padding) = (fields.u32()?, fields.u32()?);
                for _ in 0..count {
                    self.nodes.forget(fields.u64()?, fields.u64()?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Reads a file straight into the guest's buffers (`fuse_read_in`).
    fn read(&mut self, arguments: &mut Buffers<'_>, room: &mut Buffers<'_>) -> Result<u64, Errno> {
        let arguments: [u8; 40] = arguments.read_array().ok_or(Errno::INVAL)?;
        let mut fields = Fields::new(&arguments);
        let (handle, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
        let handle = self.nodes.handle(handle)?;
        let mut data = room.split_front(u64::from(size.min(MAX_TRANSFER)));
        data.fill_from_file(handle.as_fd(), offset).map_err(errno)
    }

    /// Writes a file straight from the guest's buffers (`fuse_write_in`).
    fn write(&mut self, request: &mut Buffers<'_>) -> Reply {
        if self.options.read_only {
            return Err(Errno::ROFS);
        }
        let arguments: [u8; 40] = request.read_array().ok_or(Errno::INVAL)?;
        let mut fields = Fields::new(&arguments);
        let (handle, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
        let handle = self.nodes.handle(handle)?;
        let mut data = request.split_front(u64::from(size.min(MAX_TRANSFER)));
        let count = data.drain_to_file(handle.as_fd(), offset).map_err(errno)?;
        let mut out = Out::default();
        out.u32(count as u32).u32(0);
        Ok(out)
    }

    pub(super) fn forget_everything(&mut self) {
        self.nodes.forget_everything();
    }

    pub(super) fn save(&self) -> FsState {
        self.nodes.save()
    }

    pub(super) fn restore(&mut self, state: &FsState) {
        self.nodes.restore(state);
    }
}

/// Requests that change the share. (Opening is looked at by its flags.)
fn changes(operation: u32) -> bool {
    matches!(
        operation,
        opcode::SETATTR
            | opcode::SYMLINK
            | opcode::MKNOD
            | opcode::MKDIR
            | opcode::CREATE
            | opcode::LINK
            | opcode::UNLINK
            | opcode::RMDIR
            | opcode::RENAME
            | opcode::RENAME2
            | opcode::FALLOCATE
            | opcode::SETXATTR
            | opcode::REMOVEXATTR
    )
}

/// `fuse_init_in` to `fuse_init_out`.
fn init(mut fields: Fields<'_>) -> Reply {
    let (major, _minor) = (fields.u32()?, fields.u32()?);
    let mut out = Out::default();
    out.u32(MAJOR).u32(MINOR);
    if major > MAJOR {
        // The guest tries again with ours.
        out.zeroes(56);
        return Ok(out);
    }
    if major < MAJOR {
        return Err(Errno::PROTO);
    }
    let (read_ahead, flags) = (fields.u32()?, fields.u32()?);
    out.u32(read_ahead).u32(flags & WANTED_FLAGS);
    // At most so many requests in the background; so many are a jam.
    out.u16(64).u16(48);
    // The longest write, the clock's grain, and the longest request in pages.
    out.u32(MAX_TRANSFER)
        .u32(1)
        .u16((MAX_TRANSFER / 4096) as u16);
    out.zeroes(64 - 30);
    Ok(out)
}

fn answer(room: &mut Buffers<'_>, header: Header, reply: Reply) -> Result<u64, Broken> {
    let mut head = room.split_front(OUT_HEADER as u64);
    match reply {
        Ok(out) if out.0.len() as u64 <= room.len() => {
            room.write(&out.0);
            reply_head(&mut head, header, 0, out.0.len() as u64)
        }
        // The guest left too little room for an answer it must have expected.
        Ok(_) => reply_head(&mut head, header, Errno::RANGE.raw_os_error(), 0),
        Err(errno) => reply_head(&mut head, header, errno.raw_os_error(), 0),
    }
}

/// Writes `fuse_out_header`; gives the bytes of the whole reply.
fn reply_head(
    head: &mut Buffers<'_>,
    header: Header,
    error: i32,
    body: u64,
) -> Result<u64, Broken> {
    if head.len() < OUT_HEADER as u64 {
        return Err(Broken::Request);
    }
    let len = OUT_HEADER as u64 + body;
    let mut out = Out::default();
    out.u32(len as u32)
        .u32((-error).cast_unsigned())
        .u64(header.unique);
    head.write(&out.0);
    Ok(len)
}

/// The errno in an I/O error.
fn errno(why: std::io::Error) -> Errno {
    Errno::from_io_error(&why).unwrap_or(Errno::IO)
}
