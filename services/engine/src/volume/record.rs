//! What is known about a volume, on disk as `volume.json` (docs/formats/volume-store.md).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::DRIVER;
use crate::error::{Error, Result};

/// Version of the record's format.
pub(crate) const VERSION: u32 = 1;
/// Label of volumes that nobody gave a name; Docker's word.
pub(crate) const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";
/// Longest name, in bytes: a directory's.
const MAX_NAME: usize = 255;

/// What is known about a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    /// [`VERSION`].
    pub(crate) version: u32,
    /// Its name, that of its directory too.
    pub(crate) name: String,
    /// RFC 3339.
    pub(crate) created: String,
    /// Labels.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// The driver's options as they were given.
    #[serde(default)]
    pub(crate) options: BTreeMap<String, String>,
}

impl VolumeRecord {
    /// Whether nobody gave it a name.
    pub(crate) fn is_anonymous(&self) -> bool {
        self.labels.contains_key(ANONYMOUS_LABEL)
    }

    /// Docker Engine API v1.51, definition `Volume`.
    pub(crate) fn shown(&self, mountpoint: &std::path::Path) -> Value {
        // Go writes empty maps that were never made as null.
        let map = |map: &BTreeMap<String, String>| match map.is_empty() {
            true => Value::Null,
            false => json!(map),
        };
        json!({
            "CreatedAt": self.created,
            "Driver": DRIVER,
            "Labels": map(&self.labels),
            "Mountpoint": mountpoint,
            "Name": self.name,
            "Options": map(&self.options),
            "Scope": "local",
        })
    }
}

/// Refuses what cannot be a volume's name.
///
/// # Errors
/// 400 in dockerd's words.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.len() == 1 {
        return Err(Error::invalid(format!(
            "create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )));
    }
    let mut bytes = name.bytes();
    let starts_well = bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric());
    let goes_on_well =
        bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if !starts_well || !goes_on_well {
        return Err(Error::invalid(format!(
            "create {name}: {name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        )));
    }
    if name.len() > MAX_NAME {
        return Err(Error::invalid(format!(
            "create {name}: a volume's name has at most {MAX_NAME} bytes"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_directories() {
        for good in ["ab", "0a", "data_1.x-y", &"a".repeat(255)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            ".",
            "..",
            ".a",
            "a/b",
            "../x",
            "a b",
            "ä1",
            "a\0b",
            &"a".repeat(256),
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn it_is_shown_as_docker_shows_it() {
        let mut record = VolumeRecord {
            version: VERSION,
            name: "data".to_owned(),
            created: "2026-01-01T00:00:00Z".to_owned(),
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
        };
        let shown = record.shown("/d/volumes/data/_data".as_ref());
        assert_eq!(shown["Mountpoint"], "/d/volumes/data/_data");
        assert!(shown["Labels"].is_null() && shown["Options"].is_null());
        assert!(!record.is_anonymous());
        record
            .labels
            .insert(ANONYMOUS_LABEL.to_owned(), String::new());
        assert!(record.is_anonymous());
        assert_eq!(record.shown("/x".as_ref())["Labels"][ANONYMOUS_LABEL], "");
    }
}
