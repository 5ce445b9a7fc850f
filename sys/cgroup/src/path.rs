//! Where a container's cgroup is, relative to something.

use std::fmt;
use std::path::{Component, Path};
use std::str::FromStr;

use crate::Error;

/// A cgroup's place: `/a/b` below each hierarchy's mount, `a/b` below the caller's own cgroup.
///
/// Never empty, never with `..`, so it can't leave the hierarchy.
///
/// Spec: OCI runtime-spec config-linux.md#cgroups-path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupPath {
    absolute: bool,
    relative: String,
}

impl CgroupPath {
    /// Whether the path starts at the hierarchy's mount.
    pub fn is_absolute(&self) -> bool {
        self.absolute
    }

    /// The path without a leading `/`.
    pub(crate) fn below(&self) -> &str {
        &self.relative
    }
}

impl FromStr for CgroupPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason| Error::Path {
            path: text.to_owned(),
            reason,
        };
        let mut parts = Vec::new();
        for component in Path::new(text).components() {
            match component {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(part) => parts.push(part.to_string_lossy()),
                Component::ParentDir => return Err(wrong("has `..`")),
                Component::Prefix(_) => return Err(wrong("is not a Unix path")),
            }
        }
        if parts.is_empty() {
            return Err(wrong("names no cgroup"));
        }
        if text.contains(['\0', '\n']) {
            return Err(wrong("has a zero byte or a line break"));
        }
        Ok(Self {
            absolute: text.starts_with('/'),
            relative: parts.join("/"),
        })
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{}{}",
            if self.absolute { "/" } else { "" },
            self.relative
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_and_refuses() {
        for (text, shown) in [
            ("/a/b", "/a/b"),
            ("a//b/", "a/b"),
            ("./a", "a"),
            ("//a", "/a"),
        ] {
            assert_eq!(text.parse::<CgroupPath>().unwrap().to_string(), shown);
        }
        for text in ["", "/", ".", "a/../b", "..", "a\nb"] {
            assert!(text.parse::<CgroupPath>().is_err(), "{text:?}");
        }
    }
}
