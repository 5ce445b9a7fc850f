//! The files and directories a guest knows, and those it has open.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, StatVfsMountFlags, StatxFlags,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::FsState;
use crate::device::DeviceError;

/// The share's own node id (`FUSE_ROOT_ID`).
pub(super) const ROOT: u64 = 1;

/// The highest id taken over from a snapshot: no machine lives to count from here to the end.
const MAX_ID: u64 = 1 << 62;

/// What of open(2)'s flags a guest decides.
const OPEN_FLAGS: OFlags = OFlags::APPEND
    .union(OFlags::TRUNC)
    .union(OFlags::DSYNC)
    .union(OFlags::SYNC)
    .union(OFlags::RWMODE);

/// A node in a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedNode {
    /// Its id.
    pub id: u64,
    /// How often the guest looked it up and did not forget it.
    pub lookups: u64,
    /// Its path in the share, without a slash in front.
    pub path: Vec<u8>,
}

/// An open file or directory in a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedHandle {
    /// Its id.
    pub id: u64,
    /// The node it was opened from.
    pub node: u64,
    /// The flags of open(2) it was opened with.
    pub flags: u32,
}

/// A file or directory that was looked up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) id: u64,
    pub(super) stat: Stat,
    /// It is a directory of another file system than the one it was found in: its files may have the same numbers.
    pub(super) is_submount: bool,
}

/// Which file, for the host: device and inode, and whether it is seen through a read-only mount. A file that is seen both
/// ways is two nodes: as one it could be written everywhere or nowhere, as it was found first.
type Identity = (u64, u64, bool);

#[derive(Debug)]
struct Node {
    fd: Arc<OwnedFd>,
    identity: Identity,
    lookups: u64,
}

#[derive(Debug)]
struct Handle {
    fd: Arc<OwnedFd>,
    node: u64,
    flags: u32,
}

/// Both tables.
#[derive(Debug)]
pub(super) struct Nodes {
    root: Arc<OwnedFd>,
    /// The file system the root is in.
    root_device: u64,
    // `/proc/self/fd`, held open: the monitor may lose sight of /proc later.
    descriptors: OwnedFd,
    nodes: BTreeMap<u64, Node>,
    by_identity: HashMap<Identity, u64>,
    /// Whether a mount, by its id, is read-only: asked once, because some file systems ask a server.
    mounts: HashMap<u64, bool>,
    handles: BTreeMap<u64, Handle>,
    next_node: u64,
    next_handle: u64,
    max_nodes: usize,
    max_handles: usize,
}

impl Nodes {
    pub(super) fn new(
        directory: OwnedFd,
        descriptors: OwnedFd,
        max_nodes: usize,
        max_handles: usize,
    ) -> Result<Self, DeviceError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(&directory, c".", flags, Mode::empty())
            .map_err(|errno| DeviceError::Kernel("open the shared directory", errno.into()))?;
        let stat = rustix::fs::fstat(&root)
            .map_err(|errno| DeviceError::Kernel("look at the shared directory", errno.into()))?;
        Ok(Self {
            root: Arc::new(root),
            root_device: stat.st_dev,
            descriptors,
            nodes: BTreeMap::new(),
            by_identity: HashMap::new(),
            mounts: HashMap::new(),
            handles: BTreeMap::new(),
            next_node: ROOT + 1,
            next_handle: 1,
            max_nodes,
            max_handles,
        })
    }

    /// The `O_PATH` descriptor of a node.
    pub(super) fn node(&self, id: u64) -> Result<Arc<OwnedFd>, Errno> {
        if id == ROOT {
            return Ok(Arc::clone(&self.root));
        }
        let node = self.nodes.get(&id).ok_or(Errno::STALE)?;
        Ok(Arc::clone(&node.fd))
    }

    /// Finds `name` in node `parent` and counts one look-up of it.
    pub(super) fn look_up(&mut self, parent: u64, name: &CStr) -> Result<Found, Errno> {
        let fd = open_beneath(self.node(parent)?.as_fd(), name)?;
        let parent = self.nodes.get(&parent);
        let device = parent.map_or(self.root_device, |node| node.identity.0);
        let (id, stat) = self.enter(fd)?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        Ok(Found {
            id,
            stat,
            is_submount: is_directory && stat.st_dev != device,
        })
    }

    fn enter(&mut self, fd: OwnedFd) -> Result<(u64, Stat), Errno> {
        let stat = rustix::fs::fstat(&fd)?;
        let identity = self.identity(&fd, &stat)?;
        if let Some(id) = self.by_identity.get(&identity).copied() {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.lookups = node.lookups.saturating_add(1);
            }
            return Ok((id, stat));
        }
        if self.nodes.len() >= self.max_nodes {
            return Err(Errno::NFILE);
        }
        let id = self.next_node;
        self.next_node += 1;
        self.insert(id, fd, identity, 1);
        Ok((id, stat))
    }

    fn identity(&mut self, fd: &OwnedFd, stat: &Stat) -> Result<Identity, Errno> {
        let mount = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id;
        let is_read_only = match self.mounts.get(&mount) {
            Some(known) => *known,
            None => {
                let mounted = rustix::fs::fstatvfs(fd)?.f_flag;
                let is_read_only = mounted.contains(StatVfsMountFlags::RDONLY);
                self.mounts.insert(mount, is_read_only);
                is_read_only
            }
        };
        Ok((stat.st_dev, stat.st_ino, is_read_only))
    }

    fn insert(&mut self, id: u64, fd: OwnedFd, identity: Identity, lookups: u64) {
        let node = Node {
            fd: Arc::new(fd),
            identity,
            lookups,
        };
        self.nodes.insert(id, node);
        self.by_identity.insert(identity, id);
    }

    /// Takes `count` look-ups back.
    pub(super) fn forget(&mut self, id: u64, count: u64) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups == 0 {
            let identity = node.identity;
            self.nodes.remove(&id);
            self.by_identity.remove(&identity);
        }
    }

    pub(super) fn forget_everything(&mut self) {
        self.nodes.clear();
        self.by_identity.clear();
        self.handles.clear();
    }

    /// Opens the file or directory a node is, for reading or writing. What is neither is never opened.
    pub(super) fn reopen(&self, id: u64, flags: OFlags) -> Result<OwnedFd, Errno> {
        let node = self.node(id)?;
        let stat = rustix::fs::fstat(&node)?;
        let base = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => OFlags::empty(),
            FileType::Directory => OFlags::DIRECTORY,
            FileType::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::OPNOTSUPP),
        };
        let flags = opening(flags) | base;
        let (directory, name) = self.by_descriptor(&node);
        rustix::fs::openat(directory, name, flags, Mode::empty())
    }

    /// A path that leads to what a node's descriptor refers to, for system calls that take no such descriptor.
    pub(super) fn by_descriptor(&self, fd: &OwnedFd) -> (BorrowedFd<'_>, String) {
        (self.descriptors.as_fd(), fd.as_raw_fd().to_string())
    }

    /// Whether another file can be opened.
    pub(super) fn check_room(&self) -> Result<(), Errno> {
        if self.handles.len() >= self.max_handles {
            return Err(Errno::MFILE);
        }
        Ok(())
    }

    /// Keeps an open file; gives its id.
    pub(super) fn keep(&mut self, fd: OwnedFd, node: u64, flags: u32) -> u64 {
        let id = self.next_handle;
        self.next_handle += 1;
        let fd = Arc::new(fd);
        self.handles.insert(id, Handle { fd, node, flags });
        id
    }

    /// The open file `id`.
    pub(super) fn handle(&self, id: u64) -> Result<Arc<OwnedFd>, Errno> {
        let handle = self.handles.get(&id).ok_or(Errno::BADF)?;
        Ok(Arc::clone(&handle.fd))
    }

    /// The node the open file `id` was opened from.
    pub(super) fn handle_node(&self, id: u64) -> Result<u64, Errno> {
        self.handles
            .get(&id)
            .map(|handle| handle.node)
            .ok_or(Errno::BADF)
    }

    pub(super) fn release(&mut self, id: u64) {
        self.handles.remove(&id);
    }

    /// A node's path in the share; `None` when it has none any more.
    fn path(&self, fd: &OwnedFd) -> Option<Vec<u8>> {
        let absolute = |fd: &OwnedFd| {
            let (directory, name) = self.by_descriptor(fd);
            let path = rustix::fs::readlinkat(directory, name, Vec::new()).ok()?;
            Some(path.into_bytes())
        };
        let mut root = absolute(&self.root)?;
        if root.last() != Some(&b'/') {
            root.push(b'/');
        }
        let path = absolute(fd)?;
        let inside = path.strip_prefix(root.as_slice())?.to_vec();
        // A name that is gone reads as "name (deleted)", which usually is no file; make sure of it.
        let found = self.open_path(&inside).ok()?;
        let (found, wanted) = (rustix::fs::fstat(&found).ok()?, rustix::fs::fstat(fd).ok()?);
        ((found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)).then_some(inside)
    }

    fn open_path(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        open_trying(self.root.as_fd(), path, flags, resolve)
    }

    pub(super) fn save(&self) -> FsState {
        let nodes = self.nodes.iter().filter_map(|(id, node)| {
            Some(SavedNode {
                id: *id,
                lookups: node.lookups,
                path: self.path(&node.fd)?,
            })
        });
        let handles = self.handles.iter().map(|(id, handle)| SavedHandle {
            id: *id,
            node: handle.node,
            flags: handle.flags,
        });
        FsState {
            nodes: nodes.collect(),
            handles: handles.collect(),
            next_node: self.next_node,
            next_handle: self.next_handle,
        }
    }

    /// Finds again what `state` names. What is gone meanwhile is stale for the guest (`ESTALE`, `EBADF`).
    pub(super) fn restore(&mut self, state: &FsState) {
        self.forget_everything();
        self.next_node = state.next_node.clamp(ROOT + 1, MAX_ID);
        self.next_handle = state.next_handle.clamp(1, MAX_ID);
        for saved in state.nodes.iter().take(self.max_nodes) {
            if saved.id <= ROOT || saved.id >= self.next_node {
                continue;
            }
            if let Ok(fd) = self.open_path(&saved.path)
                && let Ok(stat) = rustix::fs::fstat(&fd)
                && let Ok(identity) = self.identity(&fd, &stat)
            {
                self.insert(saved.id, fd, identity, saved.lookups);
            }
        }
        for saved in state.handles.iter().take(self.max_handles) {
            if saved.id >= self.next_handle {
                continue;
            }
            let flags = OFlags::from_bits_retain(saved.flags) & !OFlags::TRUNC;
            if let Ok(fd) = self.reopen(saved.node, flags) {
                let handle = Handle {
                    fd: Arc::new(fd),
                    node: saved.node,
                    flags: saved.flags,
                };
                self.handles.insert(saved.id, handle);
            }
        }
    }
}

/// The flags of open(2) for a guest that asks for `asked`.
pub(super) fn opening(asked: OFlags) -> OFlags {
    asked & OPEN_FLAGS | OFlags::CLOEXEC | OFlags::NOCTTY
}

/// Opens one name in `parent` as a path descriptor, symbolic links as themselves.
pub(super) fn open_beneath(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open_trying(parent, name.to_bytes(), flags, resolve)
}

fn open_trying(
    directory: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve) {
            // A rename somewhere on the host raced with the walk: openat2(2) asks to try again.
            Err(Errno::AGAIN) if tries < 128 => tries += 1,
            outcome => return outcome,
        }
    }
}
