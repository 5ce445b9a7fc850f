//! The API version a request asks for, from the prefix of its path.

use std::fmt;

use crate::error::{Error, Result};

/// A version of the Docker Engine API; all have major number 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ApiVersion {
    major: u16,
    minor: u16,
}

/// The newest version served.
pub(crate) const MAX_VERSION: ApiVersion = ApiVersion::new(1, 51);
/// The oldest version served.
pub(crate) const MIN_VERSION: ApiVersion = ApiVersion::new(1, 24);

impl ApiVersion {
    /// Makes `major.minor`.
    pub(crate) const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// Whether this is at least `1.minor`.
    pub(crate) fn at_least(self, minor: u16) -> bool {
        self >= Self::new(1, minor)
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Splits `/v1.43/containers/json` into its version and `/containers/json`; without a prefix the newest version is meant.
///
/// # Errors
/// 400 in dockerd's words when the version is outside what is served.
pub(crate) fn split(path: &str) -> Result<(ApiVersion, &str)> {
    let Some((text, rest)) = prefix(path) else {
        return Ok((MAX_VERSION, path));
    };
    let Some(version) = parse(text) else {
        return Err(Error::invalid(format!(
            "client version {text} is not a version"
        )));
    };
    if version > MAX_VERSION {
        return Err(Error::invalid(format!(
            "client version {text} is too new. Maximum supported API version is {MAX_VERSION}"
        )));
    }
    if version < MIN_VERSION {
        return Err(Error::invalid(format!(
            "client version {text} is too old. Minimum supported API version is {MIN_VERSION}, please upgrade your client to a newer version"
        )));
    }
    Ok((version, rest))
}

fn prefix(path: &str) -> Option<(&str, &str)> {
    let after = path.strip_prefix("/v")?;
    let end = after.find('/').unwrap_or(after.len());
    let (text, rest) = after.split_at(end);
    let is_version = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    is_version.then_some((text, rest))
}

fn parse(text: &str) -> Option<ApiVersion> {
    let (major, minor) = text.split_once('.')?;
    Some(ApiVersion {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_between_are_served() {
        let (version, rest) = split("/v1.43/containers/json").unwrap();
        assert_eq!(
            (version, rest),
            (ApiVersion::new(1, 43), "/containers/json")
        );
        assert_eq!(split("/v1.24/_ping").unwrap().1, "/_ping");
        assert_eq!(split("/v1.51/_ping").unwrap().0, MAX_VERSION);
        assert_eq!(split("/_ping").unwrap(), (MAX_VERSION, "/_ping"));
        assert_eq!(split("/volumes").unwrap(), (MAX_VERSION, "/volumes"));
    }

    #[test]
    fn versions_outside_are_refused_in_dockers_words() {
        let words = |path| split(path).unwrap_err().to_string();
        assert_eq!(
            words("/v1.99/info"),
            "client version 1.99 is too new. Maximum supported API version is 1.51"
        );
        assert_eq!(
            words("/v1.10/info"),
            "client version 1.10 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"
        );
        assert!(words("/v1/info").contains("not a version"));
        assert!(words("/v1.2.3/info").contains("not a version"));
        assert!(words("/v1.99999999/info").contains("not a version"));
        assert!(words("/v2.0/info").contains("too new"));
    }
}
