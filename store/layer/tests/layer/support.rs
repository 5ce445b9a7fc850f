//! What the tests of this crate share: archives, stores in temporary places, trees compared.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};

use atoll_layer::{Digest, Layer, LayerError, LayerStore};
use rustix::fs::{lgetxattr, llistxattr};
use tar::{EntryType, Header};
use tempfile::TempDir;

/// A store in a temporary directory, and something outside of it that must not be touched.
pub(crate) struct Sandbox {
    pub(crate) dir: TempDir,
    pub(crate) store: LayerStore,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("outside"), "untouched").unwrap();
        let store = LayerStore::open(&dir.path().join("layers"), &dir.path().join("tmp")).unwrap();
        Self { dir, store }
    }

    pub(crate) fn unpack(&self, tar: &[u8]) -> Result<Layer, LayerError> {
        self.store.unpack(None, tar, None, &mut |_| {})
    }

    pub(crate) fn root_of(&self, layer: &Layer) -> std::path::PathBuf {
        self.store.dirs(&[layer.chain_id]).remove(0)
    }

    /// Every path with its type, size and times.
    pub(crate) fn everything(&self) -> BTreeMap<String, String> {
        tree(self.dir.path())
    }
}

/// What an entry of an archive under test is like.
pub(crate) struct Item<'a> {
    pub(crate) kind: EntryType,
    pub(crate) path: &'a str,
    pub(crate) link: &'a str,
    pub(crate) data: &'a [u8],
}

pub(crate) fn file<'a>(path: &'a str, data: &'a [u8]) -> Item<'a> {
    Item {
        kind: EntryType::Regular,
        path,
        link: "",
        data,
    }
}

pub(crate) fn directory(path: &str) -> Item<'_> {
    Item {
        kind: EntryType::Directory,
        path,
        link: "",
        data: b"",
    }
}

pub(crate) fn symlink<'a>(path: &'a str, link: &'a str) -> Item<'a> {
    Item {
        kind: EntryType::Symlink,
        path,
        link,
        data: b"",
    }
}

pub(crate) fn hard_link<'a>(path: &'a str, link: &'a str) -> Item<'a> {
    Item {
        kind: EntryType::Link,
        path,
        link,
        data: b"",
    }
}

/// One entry's blocks; paths are written as they are, which the `tar` crate would refuse.
pub(crate) fn entry(item: &Item<'_>) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..item.path.len()].copy_from_slice(item.path.as_bytes());
    header.as_mut_bytes()[157..157 + item.link.len()].copy_from_slice(item.link.as_bytes());
    header.set_entry_type(item.kind);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(item.data.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(item.data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

pub(crate) fn archive(items: &[Item<'_>]) -> Vec<u8> {
    let mut bytes: Vec<u8> = items.iter().flat_map(entry).collect();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Describes everything below `root`: type, mode, owner, size, mtime, device, links, extended
/// attributes and content, by path.
pub(crate) fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut first_names = BTreeMap::new();
    describe(root, root, &mut found, &mut first_names);
    found
}

fn describe(
    root: &Path,
    path: &Path,
    found: &mut BTreeMap<String, String>,
    first_names: &mut BTreeMap<u64, String>,
) {
    let meta = fs::symlink_metadata(path).unwrap();
    let name = path.strip_prefix(root).unwrap().display().to_string();
    let kind = meta.file_type();
    let content = if kind.is_file() {
        Digest::of(&fs::read(path).unwrap()).short()
    } else if kind.is_symlink() {
        fs::read_link(path).unwrap().display().to_string()
    } else if kind.is_block_device() || kind.is_char_device() {
        format!("{:x}", meta.rdev())
    } else {
        String::new()
    };
    let linked = match (kind.is_dir(), meta.nlink()) {
        (false, 2..) => first_names
            .entry(meta.ino())
            .or_insert_with(|| name.clone())
            .clone(),
        _ => String::new(),
    };
    let size = if kind.is_dir() { 0 } else { meta.size() };
    let text = format!(
        "{:o} {}:{} {size} {}.{:09} {content} ={linked} {:?}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.mtime(),
        meta.mtime_nsec(),
        xattrs(path)
    );
    found.insert(name, text);
    if kind.is_dir() {
        let mut children: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        children.sort();
        for child in children {
            describe(root, &child, found, first_names);
        }
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 65536];
    let length = llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = lgetxattr(path, name, &mut value[..]).unwrap();
            let name = std::ffi::OsStr::from_bytes(name)
                .to_string_lossy()
                .into_owned();
            (name, value[..length].to_vec())
        })
        .collect()
}

/// A PAX record, its length counted.
pub(crate) fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if length.to_string().len() > rest.to_string().len() {
        length += 1;
    }
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    assert_eq!(record.len(), length);
    record
}
