//! Manifests and indexes, as registries and OCI layouts have them.

use std::collections::BTreeMap;

use atoll_layer::Digest;
use serde::Deserialize;

use crate::ImageError;

/// Media types asked for, indexes first as docker does.
pub(crate) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// Layers whose bytes a registry isn't allowed to have.
const FOREIGN: &str = "foreign";
const NONDISTRIBUTABLE: &str = "nondistributable";

/// A pointer to content.
///
/// Spec: OCI image-spec descriptor.md.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(crate) platform: Option<DescriptorPlatform>,
}

/// What the content of an index entry is built for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct DescriptorPlatform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) variant: Option<String>,
}

/// What an image must be built for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// Operating system in Go's words.
    pub os: String,
    /// Architecture in Go's words.
    pub architecture: String,
    /// Architecture variant; any when none.
    pub variant: Option<String>,
}

impl Default for Platform {
    /// This machine's.
    fn default() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            other => other,
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: None,
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(formatter, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl std::str::FromStr for Platform {
    type Err = ImageError;

    /// `os/architecture[/variant]`, or an architecture alone.
    fn from_str(text: &str) -> Result<Self, ImageError> {
        let mut parts = text.split('/');
        let parts = (parts.next(), parts.next(), parts.next(), parts.next());
        let (os, architecture, variant) = match parts {
            (Some(architecture), None, ..) => ("linux", architecture, None),
            (Some(os), Some(architecture), variant, None) => (os, architecture, variant),
            _ => ("", "", None),
        };
        if os.is_empty() || architecture.is_empty() {
            let reason = format!("`{text}` is not os/architecture");
            return Err(ImageError::Document {
                what: "platform",
                reason,
            });
        }
        let (architecture, variant) = match architecture {
            "x86_64" | "x86-64" => ("amd64", variant),
            "aarch64" => ("arm64", variant),
            architecture => (architecture, variant),
        };
        Ok(Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        })
    }
}

/// A manifest of one image, or an index of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

/// One image: its configuration and its layers, bottom first.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default, rename = "schemaVersion")]
    schema_version: u32,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// Parses either, told apart by their fields: media types are left out by some tools.
pub(crate) fn parse(bytes: &[u8]) -> Result<Document, ImageError> {
    let what = "manifest";
    let bad = |reason: &str| ImageError::Document {
        what,
        reason: reason.to_owned(),
    };
    let raw: Raw =
        serde_json::from_slice(bytes).map_err(|source| ImageError::Json { what, source })?;
    match raw {
        Raw {
            schema_version: 1, ..
        } => Err(bad(
            "schema version 1, which registries have stopped serving, is not supported",
        )),
        Raw {
            config: Some(_),
            manifests: Some(_),
            ..
        } => Err(bad("it is a manifest and an index at once")),
        Raw {
            manifests: Some(manifests),
            ..
        } => Ok(Document::Index(manifests)),
        Raw {
            config: Some(config),
            layers: Some(layers),
            ..
        } => {
            let is_foreign = |layer: &Descriptor| {
                layer.media_type.contains(FOREIGN) || layer.media_type.contains(NONDISTRIBUTABLE)
            };
            if layers.iter().any(is_foreign) {
                return Err(bad("it has a layer that only its publisher may hand out"));
            }
            Ok(Document::Manifest(Manifest { config, layers }))
        }
        _ => Err(bad("it has neither a configuration nor manifests")),
    }
}

/// Chooses the entry of an index for a platform.
///
/// Entries without a platform count as fitting when nothing else does; attestations
/// (`unknown/unknown`) never.
pub(crate) fn choose<'a>(
    entries: &'a [Descriptor],
    wanted: &Platform,
) -> Result<&'a Descriptor, ImageError> {
    let fits = |entry: &&Descriptor| {
        entry.platform.as_ref().is_some_and(|platform| {
            platform.os == wanted.os && platform.architecture == wanted.architecture
        })
    };
    let variant = |entry: &&Descriptor| {
        let variant = entry
            .platform
            .as_ref()
            .and_then(|platform| platform.variant.as_deref());
        variant.unwrap_or_default() == wanted.variant.as_deref().unwrap_or_default()
    };
    let any_variant = || wanted.variant.is_none();
    entries
        .iter()
        .filter(fits)
        .find(variant)
        .or_else(|| any_variant().then(|| entries.iter().find(fits)).flatten())
        .or_else(|| entries.iter().find(|entry| entry.platform.is_none()))
        .ok_or_else(|| ImageError::Platform {
            platform: wanted.to_string(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(platform: &str, digit: char) -> String {
        let digest = digit.to_string().repeat(64);
        let (os, architecture) = platform.split_once('/').unwrap();
        format!(
            r#"{{"mediaType":"x","digest":"sha256:{digest}","size":1,
                "platform":{{"os":"{os}","architecture":"{architecture}"}}}}"#
        )
    }

    #[test]
    fn an_index_gives_this_platforms_entry() {
        let text = format!(
            r#"{{"manifests":[{},{},{}]}}"#,
            entry("unknown/unknown", 'a'),
            entry("linux/arm64", 'b'),
            entry("linux/amd64", 'c')
        );
        let Document::Index(entries) = parse(text.as_bytes()).unwrap() else {
            panic!()
        };
        let wanted = "linux/amd64".parse().unwrap();
        assert!(
            choose(&entries, &wanted)
                .unwrap()
                .digest
                .hex()
                .starts_with('c')
        );
        let error = choose(&entries, &"linux/s390x".parse().unwrap()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no matching manifest for linux/s390x in the manifest list entries"
        );
    }

    #[test]
    fn documents_that_are_neither_are_refused() {
        for text in [
            "{}",
            "[]",
            "{\"schemaVersion\":1}",
            "{\"config\":null}",
            "x",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
