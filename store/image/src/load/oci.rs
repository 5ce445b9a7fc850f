//! `index.json`, an OCI layout's table of contents.
//!
//! Spec: OCI image-spec image-layout.md, annotations.md.

use super::{Content, ImagePlan, content::blob_path};
use crate::{
    ImageError, Reference,
    manifest::{self, Descriptor, Document, Manifest, Platform},
};

/// An index in an index in an index is enough.
const MAX_DEPTH: usize = 4;
/// containerd's and buildx' full name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// A full name by skopeo, a bare tag by others.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

pub(super) fn plan(
    content: &Content,
    index: &[u8],
    platform: &Platform,
) -> Result<Vec<ImagePlan>, ImageError> {
    let Document::Index(entries) = manifest::parse(index)? else {
        let reason = "it is no index".to_owned();
        return Err(ImageError::Document {
            what: "index.json",
            reason,
        });
    };
    // Several platforms of one image at the top level: only this machine's.
    let is_ours = |entry: &&Descriptor| {
        entry.platform.as_ref().is_none_or(|found| {
            found.os == platform.os && found.architecture == platform.architecture
        })
    };
    let ours: Vec<&Descriptor> = entries.iter().filter(is_ours).collect();
    if ours.is_empty() && !entries.is_empty() {
        return Err(ImageError::Platform {
            platform: platform.to_string(),
        });
    }
    ours.into_iter()
        .map(|entry| entry_plan(content, entry, platform))
        .collect()
}

fn entry_plan(
    content: &Content,
    entry: &Descriptor,
    platform: &Platform,
) -> Result<ImagePlan, ImageError> {
    let names = names(entry)?;
    let mut descriptor = entry.clone();
    for _ in 0..MAX_DEPTH {
        let bytes = content.blob(&descriptor.digest, "manifest")?;
        match manifest::parse(&bytes)? {
            Document::Manifest(Manifest { config, layers }) => {
                return Ok(ImagePlan {
                    config: content.blob(&config.digest, "configuration")?,
                    manifest: Some(bytes),
                    layers: layers
                        .iter()
                        .map(|layer| blob_path(&layer.digest))
                        .collect(),
                    names,
                });
            }
            Document::Index(entries) => {
                descriptor = manifest::choose(&entries, platform)?.clone();
            }
        }
    }
    Err(ImageError::Document {
        what: "index.json",
        reason: "it is nested too deep".to_owned(),
    })
}

fn names(entry: &Descriptor) -> Result<Vec<Reference>, ImageError> {
    let Some(annotations) = &entry.annotations else {
        return Ok(Vec::new());
    };
    if let Some(name) = annotations.get(CONTAINERD_NAME) {
        return Ok(vec![name.parse()?]);
    }
    match annotations.get(REF_NAME) {
        Some(name) if name.contains(['/', ':', '@']) => Ok(vec![name.parse()?]),
        // A tag without a repository names nothing.
        _ => Ok(Vec::new()),
    }
}
