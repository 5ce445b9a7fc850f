//! Reading a directory into a [`Tree`], without following any link.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};
use rustix::io::Errno;

use crate::error::{ErofsError, shown};
use crate::tree::{Entry, Index, Kind, Node, Tree, Xattr};

/// The kernel's limits for the names and the value of extended attributes.
const XATTR_BYTES: usize = 64 * 1024;
/// Directories deeper than this are refused: each is open while what is in it is read.
const DEEPEST: usize = 512;

pub(crate) fn scan(folder: BorrowedFd<'_>) -> Result<Tree, ErofsError> {
    let mut scanner = Scanner {
        tree: Tree::default(),
        links: HashMap::new(),
        path: Vec::new(),
        depth: 0,
        names: vec![0; XATTR_BYTES],
        value: vec![0; XATTR_BYTES],
    };
    let stat = rustix::fs::fstat(folder).map_err(ErofsError::read(b""))?;
    let xattrs = scanner.xattrs(folder, c".")?;
    let root = scanner.add(&stat, xattrs, Kind::Other);
    scanner.directory(folder, root, root)?;
    Ok(scanner.tree)
}

struct Scanner {
    tree: Tree,
    /// Files with several names: device and inode on the host → their node.
    links: HashMap<(u64, u64), Index>,
    /// Of what is being read, beneath the root.
    path: Vec<u8>,
    depth: usize,
    names: Vec<u8>,
    value: Vec<u8>,
}

impl Scanner {
    fn add(&mut self, stat: &Stat, xattrs: Vec<Xattr>, kind: Kind) -> Index {
        self.tree.nodes.push(Node {
            path: self.path.clone(),
            mode: stat.st_mode as u16,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: (stat.st_mtime.cast_unsigned(), stat.st_mtime_nsec as u32),
            links: 1,
            xattrs,
            kind,
        });
        self.tree.nodes.len() - 1
    }

    /// Fills in node `index`, which is the directory `folder`.
    fn directory(
        &mut self,
        folder: BorrowedFd<'_>,
        index: Index,
        parent: Index,
    ) -> Result<(), ErofsError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(ErofsError::Unfit {
                path: shown(&self.path),
                reason: "it is nested too deeply",
            });
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(folder).map_err(ErofsError::read(&self.path))? {
            let entry = entry.map_err(ErofsError::read(&self.path))?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        let entry = |name: Vec<u8>, node| Entry { name, node };
        let mut entries = vec![entry(b".".to_vec(), index), entry(b"..".to_vec(), parent)];
        let mut links = 2;
        for name in names {
            let before = self.path.len();
            if before > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.to_bytes());
            let node = self.entry(folder, &name, index)?;
            self.path.truncate(before);
            links += u32::from(matches!(self.tree.nodes[node].kind, Kind::Directory { .. }));
            entries.push(entry(name.into_bytes(), node));
        }
        entries.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        let node = &mut self.tree.nodes[index];
        node.links = links;
        node.kind = Kind::Directory { entries };
        self.depth -= 1;
        Ok(())
    }

    fn entry(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &CStr,
        parent: Index,
    ) -> Result<Index, ErofsError> {
        let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(ErofsError::read(&self.path))?;
        let host = (stat.st_dev, stat.st_ino);
        let file_type = FileType::from_raw_mode(stat.st_mode);
        if file_type != FileType::Directory && stat.st_nlink > 1 {
            if let Some(&node) = self.links.get(&host) {
                self.tree.nodes[node].links += 1;
                return Ok(node);
            }
            self.links.insert(host, self.tree.nodes.len());
        }
        let xattrs = self.xattrs(folder, name)?;
        let kind = match file_type {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let opened: OwnedFd = openat(folder, name, flags, Mode::empty())
                    .map_err(ErofsError::read(&self.path))?;
                let node = self.add(&stat, xattrs, Kind::Other);
                self.directory(opened.as_fd(), node, parent)?;
                return Ok(node);
            }
            FileType::RegularFile => Kind::Regular {
                bytes: stat.st_size.cast_unsigned(),
            },
            FileType::Symlink => {
                let target =
                    readlinkat(folder, name, Vec::new()).map_err(ErofsError::read(&self.path))?;
                Kind::Symlink {
                    target: target.into_bytes(),
                }
            }
            FileType::CharacterDevice | FileType::BlockDevice => Kind::Device {
                major: rustix::fs::major(stat.st_rdev),
                minor: rustix::fs::minor(stat.st_rdev),
            },
            _ => Kind::Other,
        };
        Ok(self.add(&stat, xattrs, kind))
    }

    /// Sorted, so that the same attributes give the same bytes.
    fn xattrs(&mut self, folder: BorrowedFd<'_>, name: &CStr) -> Result<Vec<Xattr>, ErofsError> {
        let failed = |errno| ErofsError::read(&self.path)(errno);
        // There is no call for what is in an open directory; its entry in /proc is one.
        let mut path = format!("/proc/self/fd/{}/", folder.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.to_bytes());
        let count = match rustix::fs::llistxattr(&path[..], &mut self.names[..]) {
            Ok(count) => count,
            Err(Errno::OPNOTSUPP) => 0,
            Err(errno) => return Err(failed(errno)),
        };
        let mut xattrs = Vec::new();
        for name in self.names[..count].split(|byte| *byte == 0) {
            if name.is_empty() {
                continue;
            }
            let count = match rustix::fs::lgetxattr(&path[..], name, &mut self.value[..]) {
                Ok(count) => count,
                // It went meanwhile.
                Err(Errno::NODATA) => continue,
                Err(errno) => return Err(failed(errno)),
            };
            xattrs.extend(Xattr::new(name, self.value[..count].to_vec()));
        }
        xattrs.sort_unstable();
        Ok(xattrs)
    }
}
