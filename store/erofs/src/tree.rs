//! What an image is made of, as values.

/// Index of a node in its [`Tree`].
pub(crate) type Index = usize;

/// Nodes; the first one is the root.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) nodes: Vec<Node>,
}

/// One inode.
#[derive(Debug)]
pub(crate) struct Node {
    /// One of its paths beneath the root, without a slash before it.
    pub(crate) path: Vec<u8>,
    /// File type and permissions, as `st_mode`.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970, as the kernel's two's complement, and nanoseconds.
    pub(crate) modified: (u64, u32),
    /// Names it has in this tree; of a directory, 2 and one for each directory in it.
    pub(crate) links: u32,
    pub(crate) xattrs: Vec<Xattr>,
    pub(crate) kind: Kind,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Directory {
        /// Sorted by name, with `.` and `..`.
        entries: Vec<Entry>,
    },
    Regular {
        bytes: u64,
    },
    Symlink {
        target: Vec<u8>,
    },
    /// A character or block device.
    Device {
        major: u32,
        minor: u32,
    },
    /// A pipe or socket.
    Other,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) node: Index,
}

/// An extended attribute.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Xattr {
    /// Number of its prefix, which is not in `name`.
    pub(crate) prefix: u8,
    pub(crate) name: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

impl Xattr {
    /// `None` for a name whose prefix the format does not know.
    pub(crate) fn new(name: &[u8], value: Vec<u8>) -> Option<Self> {
        const PREFIXES: [(u8, &[u8]); 5] = [
            (2, b"system.posix_acl_access"),
            (3, b"system.posix_acl_default"),
            (1, b"user."),
            (4, b"trusted."),
            (6, b"security."),
        ];
        let (prefix, rest) = PREFIXES
            .iter()
            .find_map(|(number, prefix)| Some((*number, name.strip_prefix(*prefix)?)))?;
        Some(Self {
            prefix,
            name: rest.to_vec(),
            value,
        })
    }
}
