//! Extended attributes, of regular files and directories. On the host they are all in the `user.` namespace: the others
//! mean something to the host's kernel. What the guest sees of them is decided by [`Names`].

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, XattrFlags};
use rustix::io::Errno;

use super::session::{Reply, Session};
use super::wire::{Fields, Out};

/// The longest value and the longest list (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const MAX_BYTES: usize = 64 << 10;
/// The longest name (`XATTR_NAME_MAX`).
const MAX_NAME: usize = 255;

const USER: &[u8] = b"user.";
/// Of the guest's kernel.
const GUEST_OVERLAY: &[u8] = b"trusted.overlay.";
/// What they are on the host: an overlay mounted with `userxattr` looks at these.
const HOST_OVERLAY: &[u8] = b"user.overlay.";
/// What goes before names on the host that mean something to kernels only.
const KEPT: &[u8] = b"user.atoll.";
/// The namespaces of those.
const KERNELS: [&[u8]; 3] = [b"trusted.", b"security.", b"system."];

/// What an attribute is called on the host, and what in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// The same, in the `user.` namespace; others there are none.
    Same,
    /// For an overlay: kernels' attributes have another name on the host, and the guest does not reach those that have
    /// such a name of themselves.
    Overlay,
}

impl Names {
    /// The host's name of the guest's `name`.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where there is none (which an overlay that copies attributes passes over), `ERANGE` when it is too
    /// long.
    fn on_host(self, name: &CStr) -> Result<CString, Errno> {
        let bytes = name.to_bytes();
        let made = |prefix: &[u8], rest: &[u8]| {
            let made = [prefix, rest].concat();
            if made.len() > MAX_NAME {
                return Err(Errno::RANGE);
            }
            CString::new(made).map_err(|_| Errno::INVAL)
        };
        if self == Self::Same {
            return match bytes.starts_with(USER) {
                true => Ok(name.to_owned()),
                false => Err(Errno::OPNOTSUPP),
            };
        }
        if let Some(rest) = bytes.strip_prefix(GUEST_OVERLAY) {
            return made(HOST_OVERLAY, rest);
        }
        if KERNELS.iter().any(|prefix| bytes.starts_with(prefix)) {
            return made(KEPT, bytes);
        }
        let is_taken = bytes.starts_with(HOST_OVERLAY) || bytes.starts_with(KEPT);
        if bytes.starts_with(USER) && !is_taken {
            return Ok(name.to_owned());
        }
        Err(Errno::OPNOTSUPP)
    }

    /// The guest's name of what is `name` on the host; `None` when the guest does not see it.
    fn in_guest(self, name: &[u8]) -> Option<Vec<u8>> {
        if self == Self::Overlay {
            if let Some(rest) = name.strip_prefix(HOST_OVERLAY) {
                return Some([GUEST_OVERLAY, rest].concat());
            }
            if let Some(rest) = name.strip_prefix(KEPT) {
                // Never what has a name of its own.
                let is_kernels = KERNELS.iter().any(|prefix| rest.starts_with(prefix));
                let is_shown = is_kernels && !rest.starts_with(GUEST_OVERLAY);
                return is_shown.then(|| rest.to_vec());
            }
        }
        name.starts_with(USER).then(|| name.to_vec())
    }
}

impl Session {
    fn names(&self) -> Names {
        if self.options.overlay_upper {
            Names::Overlay
        } else {
            Names::Same
        }
    }

    /// The file of `node`, opened for its attributes; `None` for what can have none in the `user.` namespace: links,
    /// devices, pipes and sockets.
    fn attributes_of(&self, node: u64) -> Result<Option<OwnedFd>, Errno> {
        match self.nodes.reopen(node, OFlags::RDONLY) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::LOOP | Errno::OPNOTSUPP) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// The same, to change attributes. An overlay does without them on `EPERM`, but with `EOPNOTSUPP` takes it that the
    /// whole file system has none.
    fn changeable(&self, node: u64) -> Result<OwnedFd, Errno> {
        self.attributes_of(node)?.ok_or(Errno::PERM)
    }

    /// `fuse_getxattr_in`: the value, or its length when the guest has no room yet.
    pub(super) fn get_xattr(&mut self, node: u64, mut fields: Fields<'_>) -> Reply {
        let (size, _padding) = (fields.u32()?, fields.u32()?);
        let name = self.names().on_host(fields.text()?)?;
        let file = self.attributes_of(node)?.ok_or(Errno::NODATA)?;
        let mut value = vec![0; MAX_BYTES];
        let len = rustix::fs::fgetxattr(&file, &*name, &mut value[..])?;
        value.truncate(len);
        sized(size, value)
    }

    /// `fuse_getxattr_in`: names, each with a NUL behind it.
    pub(super) fn list_xattrs(&mut self, node: u64, mut fields: Fields<'_>) -> Reply {
        let (size, _padding) = (fields.u32()?, fields.u32()?);
        let Some(file) = self.attributes_of(node)? else {
            return sized(size, Vec::new());
        };
        let mut list = vec![0; MAX_BYTES];
        let len = rustix::fs::flistxattr(&file, &mut list[..])?;
        let mut shown = Vec::new();
        for name in list[..len].split(|byte| *byte == 0) {
            if let Some(name) = self.names().in_guest(name) {
                shown.extend(name);
                shown.push(0);
            }
        }
        sized(size, shown)
    }

    /// `fuse_setxattr_in`, in its short form.
    pub(super) fn set_xattr(&mut self, node: u64, mut fields: Fields<'_>) -> Reply {
        let (size, flags) = (fields.u32()?, fields.u32()?);
        let name = self.names().on_host(fields.text()?)?;
        let value = fields.rest().get(..size as usize).ok_or(Errno::INVAL)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        rustix::fs::fsetxattr(self.changeable(node)?, &*name, value, flags)?;
        Ok(Out::default())
    }

    pub(super) fn remove_xattr(&mut self, node: u64, mut fields: Fields<'_>) -> Reply {
        let name = self.names().on_host(fields.text()?)?;
        rustix::fs::fremovexattr(self.changeable(node)?, &*name)?;
        Ok(Out::default())
    }
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
