//! `docker import`: a root file system in a tar becomes an image of one layer.

use std::io::Read;

use atoll_layer::{ChainId, Digest};

use crate::{
    ImageConfig, ImageError, ImageStore, Reference, changes,
    config::{History, RootFs, RunConfig},
    host::is_reserved,
    store::now,
};

/// How an imported image is called and runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Its name; none leaves it without.
    pub reference: Option<Reference>,
    /// Dockerfile instructions: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD,
    /// STOPSIGNAL, USER, VOLUME, WORKDIR.
    pub changes: Vec<String>,
    /// Its history's comment; docker's `Imported from -` when empty.
    pub message: String,
}

impl ImageStore {
    /// Makes an image of the files in `tar` (plain, gzip or zstd).
    ///
    /// # Errors
    /// [`ImageError::Change`] for a bad instruction, before anything is read;
    /// [`ImageError::Layer`] for a bad archive or a full disk. Nothing stays then.
    pub fn import(&self, tar: impl Read, options: ImportOptions) -> Result<Digest, ImageError> {
        if options.reference.as_ref().is_some_and(is_reserved) {
            return Err(ImageError::HostReserved { action: "import" });
        }
        let mut run = RunConfig::default();
        for change in &options.changes {
            changes::apply(&mut run, change)?;
        }
        let layer = |source| ImageError::Layer { index: 1, source };
        let staged = self.inner.layers.stage(tar, &mut |_| {}).map_err(layer)?;
        if staged.entries == 0 {
            return Err(ImageError::Archive("it has no files".to_owned()));
        }
        let created = now();
        let comment = match options.message.as_str() {
            "" => "Imported from -".to_owned(),
            message => message.to_owned(),
        };
        let config = ImageConfig {
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            created: Some(created.clone()),
            comment: Some(comment.clone()),
            config: run,
            rootfs: RootFs {
                diff_ids: vec![staged.diff_id],
                ..RootFs::default()
            },
            history: vec![History {
                created: Some(created),
                comment: Some(comment),
                ..History::default()
            }],
            ..ImageConfig::default()
        };
        let raw = serde_json::to_vec(&config).map_err(|source| ImageError::Json {
            what: "image configuration",
            source,
        })?;
        let _pinned = self.pin(&[ChainId::on(None, &staged.diff_id)]);
        self.inner.layers.commit(staged, None).map_err(layer)?;
        let names: Vec<Reference> = options.reference.into_iter().collect();
        self.register(&raw, None, &names)
    }
}
