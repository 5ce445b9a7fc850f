//! The store's database: which images there are and what they are called.
//!
//! Layout: `docs/formats/image-store.md`. All of it is small, so readers use a copy in memory
//! and the database is only written.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use atoll_layer::Digest;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use crate::ImageError;

/// Image ID (64 hex digits) → [`ImageRecord`] as JSON.
const IMAGES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("images");
/// Full reference, with tag or digest → image ID (64 hex digits).
const NAMES: TableDefinition<'_, &str, &str> = TableDefinition::new("names");
/// `version` → layout version.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const VERSION: u64 = 1;
/// redb's own default is 1 GiB.
const CACHE_BYTES: usize = 1 << 20;

/// What the store knows of an image besides its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) size_bytes: u64,
    /// The manifest it came with, a blob too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) manifest: Option<Digest>,
    /// When a name was last given to it, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tagged_at: Option<String>,
}

/// A change, written in one transaction.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) put: Vec<(Digest, ImageRecord)>,
    pub(crate) name: Vec<(String, Digest)>,
    pub(crate) unname: Vec<String>,
    pub(crate) delete: Vec<Digest>,
}

#[derive(Debug)]
pub(crate) struct Metadata {
    database: Database,
    path: PathBuf,
}

impl Metadata {
    pub(crate) fn open(path: &Path) -> Result<Self, ImageError> {
        let database = match Database::builder().set_cache_size(CACHE_BYTES).create(path) {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                return Err(ImageError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(error) => return Err(database_error(path, error)),
        };
        let metadata = Self {
            database,
            path: path.to_owned(),
        };
        metadata.prepare()?;
        Ok(metadata)
    }

    fn prepare(&self) -> Result<(), ImageError> {
        let write = || -> Result<u64, redb::Error> {
            let transaction = self.database.begin_write()?;
            transaction.open_table(IMAGES)?;
            transaction.open_table(NAMES)?;
            let version = {
                let mut meta = transaction.open_table(META)?;
                let found = meta.get("version")?.map(|value| value.value());
                match found {
                    Some(version) => version,
                    None => {
                        meta.insert("version", VERSION)?;
                        VERSION
                    }
                }
            };
            transaction.commit()?;
            Ok(version)
        };
        let version = write().map_err(|error| database_error(&self.path, error))?;
        if version == VERSION {
            return Ok(());
        }
        Err(ImageError::Document {
            what: "image database",
            reason: format!("layout version {version}, this engine knows {VERSION}"),
        })
    }

    /// Reads everything.
    #[expect(clippy::type_complexity, reason = "the two tables, as maps")]
    pub(crate) fn load(
        &self,
    ) -> Result<(BTreeMap<Digest, ImageRecord>, BTreeMap<String, Digest>), ImageError> {
        let read = || -> Result<_, redb::Error> {
            let transaction = self.database.begin_read()?;
            let mut images = BTreeMap::new();
            for row in transaction.open_table(IMAGES)?.iter()? {
                let (key, value) = row?;
                images.insert(key.value().to_owned(), value.value().to_owned());
            }
            let mut names = BTreeMap::new();
            for row in transaction.open_table(NAMES)?.iter()? {
                let (key, value) = row?;
                names.insert(key.value().to_owned(), value.value().to_owned());
            }
            Ok((images, names))
        };
        let (images, names) = read().map_err(|error| database_error(&self.path, error))?;
        let id = |hex: &str| {
            Digest::from_hex(hex).ok_or_else(|| ImageError::Document {
                what: "image database",
                reason: format!("`{hex}` is not an image ID"),
            })
        };
        let mut records = BTreeMap::new();
        for (hex, json) in images {
            let record = serde_json::from_slice(&json).map_err(|source| ImageError::Json {
                what: "image record",
                source,
            })?;
            records.insert(id(&hex)?, record);
        }
        let names = names
            .into_iter()
            .map(|(name, hex)| Ok((name, id(&hex)?)))
            .collect::<Result<_, ImageError>>()?;
        Ok((records, names))
    }

    /// Writes a change; on disk when it returns.
    pub(crate) fn write(&self, change: &Change) -> Result<(), ImageError> {
        let write = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            {
                let mut images = transaction.open_table(IMAGES)?;
                for (id, record) in &change.put {
                    let json = serde_json::to_vec(record).map_err(std::io::Error::from)?;
                    images.insert(id.hex().as_str(), &json[..])?;
                }
                for id in &change.delete {
                    images.remove(id.hex().as_str())?;
                }
                let mut names = transaction.open_table(NAMES)?;
                for name in &change.unname {
                    names.remove(name.as_str())?;
                }
                for (name, id) in &change.name {
                    names.insert(name.as_str(), id.hex().as_str())?;
                }
            }
            transaction.commit()?;
            Ok(())
        };
        write().map_err(|error| database_error(&self.path, error))
    }
}

fn database_error(path: &Path, error: impl Into<redb::Error>) -> ImageError {
    ImageError::Database {
        path: path.to_owned(),
        source: Box::new(error.into()),
    }
}
