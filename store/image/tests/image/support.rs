//! Images made by hand, stores in temporary places.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use atoll_image::{Digest, ImageError, ImageStore, Loaded};
use serde_json::json;
use tempfile::TempDir;

/// An empty store and its data root.
pub(crate) struct Sandbox {
    pub(crate) dir: TempDir,
    pub(crate) store: ImageStore,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path()).unwrap();
        Self { dir, store }
    }

    pub(crate) fn load(&self, tar: &[u8]) -> Result<Vec<Loaded>, ImageError> {
        self.store.load(tar, &mut |_| {})
    }

    /// Every path below the data root.
    pub(crate) fn paths(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        collect(self.dir.path(), &mut found);
        found
    }

    /// The content of a file as a container would see it.
    pub(crate) fn file(&self, image: &str, path: &str) -> Option<String> {
        let image = self.store.resolve(image).unwrap();
        let dirs = self.store.lower_dirs(&image);
        dirs.iter()
            .find_map(|dir| fs::read_to_string(dir.join(path)).ok())
    }
}

fn collect(path: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        }
        found.insert(path);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    pub(crate) fn pack(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain => bytes.to_vec(),
            Self::Gzip => {
                let level = flate2::Compression::fast();
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Self::Zstd => zstd::encode_all(bytes, 1).unwrap(),
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        }
    }
}

/// A tar of files.
pub(crate) fn tar_of<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        header.set_mtime(1_700_000_000);
        builder.append_data(&mut header, path, data).unwrap();
    }
    builder.into_inner().unwrap()
}

/// An image with all its documents.
#[derive(Clone)]
pub(crate) struct TestImage {
    pub(crate) blobs: BTreeMap<Digest, Vec<u8>>,
    pub(crate) id: Digest,
    pub(crate) manifest: Digest,
    pub(crate) layers: Vec<Digest>,
    diff_ids: Vec<Digest>,
}

impl TestImage {
    /// * `layers`: uncompressed tars, bottom first.
    pub(crate) fn new(layers: &[Vec<u8>], packing: Packing) -> Self {
        let mut blobs = BTreeMap::new();
        let mut put = |bytes: Vec<u8>| {
            let digest = Digest::of(&bytes);
            let size = bytes.len();
            blobs.insert(digest, bytes);
            (digest, size)
        };
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "created": "2026-01-02T03:04:05Z",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [],
        });
        let (id, config_size) = put(config.to_string().into_bytes());
        let packed: Vec<(Digest, usize)> = layers
            .iter()
            .map(|layer| put(packing.pack(layer)))
            .collect();
        let media = format!("application/vnd.oci.image.layer.v1.tar{}", packing.suffix());
        let descriptors: Vec<_> = packed
            .iter()
            .map(|(digest, size)| json!({"mediaType": media, "digest": digest, "size": size}))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": id, "size": config_size,
            },
            "layers": descriptors,
        });
        let (manifest, _) = put(manifest.to_string().into_bytes());
        let layers = packed.into_iter().map(|(digest, _)| digest).collect();
        Self {
            blobs,
            id,
            manifest,
            layers,
            diff_ids,
        }
    }

    /// Two small layers; the upper one replaces `b`.
    pub(crate) fn small(packing: Packing) -> Self {
        let lower = tar_of([("a", &b"1"[..]), ("b", b"2")]);
        Self::new(&[lower, tar_of([("b", &b"3"[..])])], packing)
    }

    /// Adds a document as a blob.
    pub(crate) fn put(&mut self, document: &serde_json::Value) -> Digest {
        let bytes = document.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        self.blobs.insert(digest, bytes);
        digest
    }

    pub(crate) fn descriptor(&self, digest: &Digest) -> serde_json::Value {
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest, "size": self.blobs[digest].len(),
        })
    }

    /// An OCI layout in a tar, its index naming `entries`.
    pub(crate) fn oci(&self, entries: &[serde_json::Value]) -> Vec<u8> {
        let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
        let blobs: Vec<(String, &Vec<u8>)> = self
            .blobs
            .iter()
            .map(|(digest, bytes)| (format!("blobs/sha256/{}", digest.hex()), bytes))
            .collect();
        let mut files: Vec<(&str, &[u8])> = blobs
            .iter()
            .map(|(path, bytes)| (path.as_str(), &bytes[..]))
            .collect();
        files.push(("index.json", index.as_bytes()));
        files.push(("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#));
        tar_of(files)
    }

    /// An OCI layout with one name.
    pub(crate) fn oci_named(&self, key: &str, name: &str) -> Vec<u8> {
        let mut entry = self.descriptor(&self.manifest);
        entry["annotations"] = json!({ key: name });
        self.oci(&[entry])
    }

    /// What docker before version 25 saved: a directory per layer, links for repeated ones.
    pub(crate) fn docker(&self, names: &[&str]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |path: &str, data: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(data.len() as u64);
            builder.append_data(&mut header, path, data).unwrap();
        };
        let mut paths: Vec<String> = Vec::new();
        let mut links = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let path = format!(
                "{}/layer.tar",
                self.diff_ids[index].hex().replace('a', "b") + &index.to_string()
            );
            match self.layers[..index].iter().position(|other| other == layer) {
                Some(first) => links.push((path.clone(), format!("../{}", paths[first]))),
                None => add(&path, &self.blobs[layer]),
            }
            paths.push(path);
        }
        let config = format!("{}.json", self.id.hex());
        add(&config, &self.blobs[&self.id]);
        let manifest = json!([{"Config": config, "RepoTags": names, "Layers": paths}]);
        add("manifest.json", manifest.to_string().as_bytes());
        for (path, target) in links {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, path, target).unwrap();
        }
        builder.into_inner().unwrap()
    }
}
