//! Extended attributes, of regular files and directories, in the `user.` namespace only: the others mean something to
//! the host's kernel.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, XattrFlags};
use rustix::io::Errno;

use super::session::{Reply, Session};
use super::wire::{Fields, Out};

/// The longest value and the longest list (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const MAX_BYTES: usize = 64 << 10;
const PREFIX: &[u8] = b"user.";

impl Session {
    /// The file of `node`, opened for its attributes.
    fn attributes_of(&self, node: u64) -> Result<OwnedFd, Errno> {
        self.nodes
            .reopen(node, OFlags::RDONLY)
            .map_err(|errno| match errno {
                // A symbolic link has no such attributes.
                Errno::LOOP => Errno::OPNOTSUPP,
                errno => errno,
            })
    }

    /// `fuse_getxattr_in`: the value, or its length when the guest has no room yet.
    pub(super) fn get_xattr(&mut self, node: u64, mut fields: Fields<'_>) -> Reply {
        let (size, _padding) = (fields.u32()?, fields.u32()?);
        let name = attribute(&mut fields)?;
        let file = self.attributes_of(node)?;
        let mut value = vec![0; MAX_BYTES];
        let len = rustix::fs::fgetxattr(&file, name, &mut value[..])?;
        value.truncate(len);
        sized(size, value)
    }

    /// `fuse_getxattr_in`: names, each with a NUL behind it.
    pub(super) fn list_xattrs(&mut self, node: u64, mut fields: Fields<'_>) -> Reply {
        let (size, _padding) = (fields.u32()?, fields.u32()?);
        let file = match self.attributes_of(node) {
            Err(Errno::OPNOTSUPP) => return sized(size, Vec::new()),
            outcome => outcome?,
        };
        let mut list = vec![0; MAX_BYTES];
        let len = rustix::fs::flistxattr(&file, &mut list[..])?;
        let names = list[..len].split_inclusive(|byte| *byte == 0);
        let shown = names.filter(|name| name.starts_with(PREFIX));
        sized(size, shown.flatten().copied().collect())
    }

    /// `fuse_setxattr_in`, in its short form.
    pub(super) fn set_xattr(&mut self, node: u64, mut fields: Fields<'_>) -> Reply {
        let (size, flags) = (fields.u32()?, fields.u32()?);
        let name = attribute(&mut fields)?;
        let value = fields.rest().get(..size as usize).ok_or(Errno::INVAL)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        rustix::fs::fsetxattr(self.attributes_of(node)?, name, value, flags)?;
        Ok(Out::default())
    }

    pub(super) fn remove_xattr(&mut self, node: u64, mut fields: Fields<'_>) -> Reply {
        let name = attribute(&mut fields)?;
        rustix::fs::fremovexattr(self.attributes_of(node)?, name)?;
        Ok(Out::default())
    }
}

fn attribute<'a>(fields: &mut Fields<'a>) -> Result<&'a CStr, Errno> {
    let name = fields.text()?;
    if name.to_bytes().starts_with(PREFIX) {
        return Ok(name);
    }
    Err(Errno::OPNOTSUPP)
}

fn sized(size: u32, value: Vec<u8>) -> Reply {
    if size == 0 {
        let mut out = Out::default();
        out.u32(value.len() as u32).u32(0);
        return Ok(out);
    }
    if value.len() > size as usize {
        return Err(Errno::RANGE);
    }
    Ok(Out(value))
}
