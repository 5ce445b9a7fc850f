//! What is in an archive of images: small documents in memory, layers being unpacked.

use std::{
    collections::{BTreeMap, VecDeque},
    io::Read,
};

use atoll_layer::{
    ArchiveEntryKind, ArchiveReader, ChainId, Digest, LayerError, LayerStore, PendingLayer,
    StagedLayer, is_layer_start,
};
use bytes::{Bytes, BytesMut};

use super::Taken;
use crate::{ImageError, LayerStatus, Progress, store::MAX_DOCUMENT_BYTES};

/// All documents of an archive together.
const MAX_DOCUMENTS_BYTES: u64 = 64 << 20;
/// Layers being written while the next is read. More would only compete for the disk.
const MAX_PENDING: usize = 3;
/// Most entries of the outer archive.
const MAX_ENTRIES: usize = 1 << 16;
const MAX_LINKS_FOLLOWED: usize = 8;

/// The files of an archive, by path.
pub(super) struct Content {
    documents: BTreeMap<String, Bytes>,
    layers: BTreeMap<String, File>,
    links: BTreeMap<String, String>,
}

/// A file that looked like a layer.
enum File {
    Staged(Box<StagedLayer>),
    /// Bad, which matters only if an image names it.
    Bad(LayerError),
    Committed(ChainId),
}

impl Content {
    /// Reads the whole archive.
    pub(super) fn read(
        store: &LayerStore,
        tar: impl Read,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, ImageError> {
        let mut content = Self {
            documents: BTreeMap::new(),
            layers: BTreeMap::new(),
            links: BTreeMap::new(),
        };
        let mut pending: VecDeque<(String, PendingLayer)> = VecDeque::new();
        let mut archive = ArchiveReader::new(tar).map_err(ImageError::Unreadable)?;
        let mut documents_bytes = 0;
        let mut entries = 0;
        while let Some(entry) = archive.next_entry().map_err(ImageError::Unreadable)? {
            entries += 1;
            if entries > MAX_ENTRIES {
                return Err(ImageError::Archive("it has too many files".to_owned()));
            }
            let size_bytes = match entry.kind {
                ArchiveEntryKind::File { size_bytes } => size_bytes,
                ArchiveEntryKind::Symlink(target) => {
                    let target = beside(&entry.path, &target);
                    content.links.insert(entry.path, target);
                    continue;
                }
                ArchiveEntryKind::HardLink(target) => {
                    content.links.insert(entry.path, beside("", &target));
                    continue;
                }
                ArchiveEntryKind::Other => continue,
            };
            let first = archive.read_chunk().map_err(ImageError::Unreadable)?;
            if is_layer_start(&first) {
                while pending.len() >= MAX_PENDING {
                    content.finish(pending.pop_front());
                }
                let told = Told {
                    id: short_id(&entry.path),
                    size_bytes,
                    progress,
                };
                match unpack(store, &mut archive, first, told)? {
                    Ok(layer) => pending.push_back((entry.path, layer)),
                    Err(error) => {
                        content.layers.insert(entry.path, File::Bad(error));
                    }
                }
            } else if size_bytes <= MAX_DOCUMENT_BYTES {
                documents_bytes += size_bytes;
                if documents_bytes > MAX_DOCUMENTS_BYTES {
                    return Err(ImageError::Archive(
                        "its documents are too large".to_owned(),
                    ));
                }
                let bytes = read_rest(&mut archive, first)?;
                content.documents.insert(entry.path, bytes);
            }
        }
        archive.drain().map_err(ImageError::Unreadable)?;
        while let Some(layer) = pending.pop_front() {
            content.finish(Some(layer));
        }
        Ok(content)
    }

    fn finish(&mut self, pending: Option<(String, PendingLayer)>) {
        if let Some((path, layer)) = pending {
            let file = match layer.wait() {
                Ok(staged) => File::Staged(Box::new(staged)),
                Err(error) => File::Bad(error),
            };
            self.layers.insert(path, file);
        }
    }

    /// The bytes of a document.
    pub(super) fn document(&self, path: &str) -> Option<Bytes> {
        self.documents.get(self.followed(path)).cloned()
    }

    /// A document by its digest, which is checked.
    pub(super) fn blob(&self, digest: &Digest, what: &'static str) -> Result<Bytes, ImageError> {
        let path = blob_path(digest);
        let bytes = self
            .document(&path)
            .ok_or_else(|| ImageError::Archive(format!("the {what} {digest} is missing")))?;
        let found = Digest::of(&bytes);
        if found == *digest {
            Ok(bytes)
        } else {
            Err(ImageError::BlobDigest { name: path, found })
        }
    }

    /// Hands out a layer for an image; the index is for the message.
    pub(super) fn take_layer(&mut self, path: &str, index: usize) -> Result<Taken, ImageError> {
        let key = self.followed(path).to_owned();
        match self.layers.remove(&key) {
            None => Err(ImageError::Archive(format!(
                "layer {index} (`{path}`) is missing"
            ))),
            Some(File::Bad(source)) => Err(ImageError::Layer { index, source }),
            Some(File::Committed(chain_id)) => {
                self.layers.insert(key, File::Committed(chain_id));
                Ok(Taken::Committed(chain_id))
            }
            Some(File::Staged(staged)) => match digest_of_path(&key) {
                Some(named) if named != staged.blob_digest => Err(ImageError::BlobDigest {
                    name: key,
                    found: staged.blob_digest,
                }),
                _ => Ok(Taken::Staged(staged)),
            },
        }
    }

    /// Remembers where a layer taken before is now.
    pub(super) fn committed(&mut self, path: &str, chain_id: ChainId) {
        let key = self.followed(path).to_owned();
        self.layers.insert(key, File::Committed(chain_id));
    }

    fn followed<'a>(&'a self, path: &'a str) -> &'a str {
        let mut path = path;
        for _ in 0..MAX_LINKS_FOLLOWED {
            match self.links.get(path) {
                Some(target) => path = target,
                None => break,
            }
        }
        path
    }
}

/// Who wants to know how far a layer is.
struct Told<'a> {
    id: String,
    size_bytes: u64,
    progress: &'a mut dyn FnMut(Progress),
}

/// Feeds the current file to the layer store. The outer error ends the load, the inner one is
/// the layer's own.
fn unpack(
    store: &LayerStore,
    archive: &mut ArchiveReader<'_>,
    first: Bytes,
    told: Told<'_>,
) -> Result<Result<PendingLayer, LayerError>, ImageError> {
    let mut sink = match store.sink() {
        Ok(sink) => sink,
        Err(error) => return Ok(Err(error)),
    };
    let mut chunk = first;
    while !chunk.is_empty() && sink.feed(chunk) {
        (told.progress)(Progress::Layer {
            id: told.id.clone(),
            status: LayerStatus::Loading {
                current_bytes: sink.fed_bytes(),
                total_bytes: told.size_bytes,
            },
        });
        chunk = archive.read_chunk().map_err(ImageError::Unreadable)?;
    }
    Ok(Ok(sink.finish()))
}

fn read_rest(archive: &mut ArchiveReader<'_>, first: Bytes) -> Result<Bytes, ImageError> {
    let mut bytes = BytesMut::from(&first[..]);
    loop {
        let chunk = archive.read_chunk().map_err(ImageError::Unreadable)?;
        if chunk.is_empty() {
            return Ok(bytes.freeze());
        }
        bytes.extend_from_slice(&chunk);
    }
}

pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The digest a file in an OCI layout is named by.
fn digest_of_path(path: &str) -> Option<Digest> {
    Digest::from_hex(path.strip_prefix("blobs/sha256/")?)
}

/// What a layer is called while it is loaded: the first 12 digits of the digest in its path.
fn short_id(path: &str) -> String {
    let is_digest = |part: &&str| part.len() >= 12 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let name = path.split(['/', '.']).find(is_digest).unwrap_or(path);
    name.chars().take(12).collect()
}

/// Resolves a link's target by text, relative to where the link is.
fn beside(link: &str, target: &str) -> String {
    let directory = link.rsplit_once('/').map_or("", |(directory, _)| directory);
    let mut parts: Vec<&str> = Vec::new();
    if !target.starts_with('/') {
        parts.extend(directory.split('/').filter(|part| !part.is_empty()));
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_resolve_beside_themselves() {
        assert_eq!(beside("abc/layer.tar", "../def/layer.tar"), "def/layer.tar");
        assert_eq!(beside("a.tar", "b.tar"), "b.tar");
        assert_eq!(beside("", "x/../y"), "y");
    }

    #[test]
    fn layers_are_called_by_their_digest() {
        let hex = "0123456789abcdef".repeat(4);
        assert_eq!(short_id(&format!("blobs/sha256/{hex}")), "0123456789ab");
        assert_eq!(short_id(&format!("{hex}/layer.tar")), "0123456789ab");
        assert_eq!(short_id("layer.tar"), "layer.tar");
    }
}
