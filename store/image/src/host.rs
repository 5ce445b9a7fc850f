//! The reserved image `host`: the running system's root file system, read-only.

use std::sync::{Arc, LazyLock};

use atoll_layer::Digest;

use crate::{Image, ImageConfig, Reference, config::RunConfig};

/// The reserved name.
pub const HOST_NAME: &str = "host";

static HOST: LazyLock<Image> = LazyLock::new(|| {
    let config = ImageConfig {
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        comment: Some("the running system's root file system".to_owned()),
        config: RunConfig {
            cmd: Some(vec!["/bin/sh".to_owned()]),
            env: Some(vec![
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            ]),
            ..RunConfig::default()
        },
        ..ImageConfig::default()
    };
    let raw = serde_json::to_vec(&config).expect("a configuration without maps is valid JSON");
    Image {
        id: Digest::of(&raw),
        config: Arc::new(config),
        raw_config: raw.into(),
        chain_ids: Vec::new(),
        size_bytes: 0,
        repo_tags: vec!["host:latest".to_owned()],
        repo_digests: Vec::new(),
        created: None,
        tagged_at: None,
        manifest_digest: None,
        is_host: true,
    }
});

/// The host image. Its ID is the same on every machine and in every version with its defaults.
pub fn host_image() -> Image {
    HOST.clone()
}

/// Whether `name` is `host`, `host:latest` or the host image's ID.
pub(crate) fn is_host(name: &str) -> bool {
    name == HOST_NAME || name == "host:latest" || name == HOST.id.to_string()
}

/// Whether a reference would take the reserved name.
pub(crate) fn is_reserved(reference: &Reference) -> bool {
    reference.familiar_name() == HOST_NAME
}
