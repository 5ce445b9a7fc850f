//! Image names, normalised as docker does.

use std::{fmt, str::FromStr};

use atoll_layer::Digest;

use crate::ImageError;

const DEFAULT_DOMAIN: &str = "docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const MAX_NAME_BYTES: usize = 255;
const MAX_TAG_BYTES: usize = 128;

/// A full image name: registry, repository, and a tag or a digest or both.
///
/// Parsing adds what docker adds: `bb` is `docker.io/library/bb:latest`.
///
/// Grammar: github.com/distribution/reference, the comment at its head.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry, such as `docker.io` or `127.0.0.1:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry, such as `library/bb`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, absent when only a digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The manifest's digest, if given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository, such as `docker.io/library/bb`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The repository as people write it: without `docker.io` and `library`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        self.path
            .strip_prefix(OFFICIAL_PREFIX)
            .unwrap_or(&self.path)
            .to_owned()
    }

    /// The whole reference as people write it, such as `bb:latest`.
    pub fn familiar(&self) -> String {
        self.suffixed(self.familiar_name())
    }

    /// The same repository by a manifest's digest alone.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The same repository and tag without a digest.
    pub(crate) fn without_digest(&self) -> Self {
        Self {
            digest: None,
            ..self.clone()
        }
    }

    /// What a registry is asked for: the digest when there is one, else the tag.
    pub fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    fn suffixed(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.suffixed(self.name()))
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let invalid = |reason| ImageError::Reference {
            text: text.to_owned(),
            reason,
        };
        if text.len() == 64 && Digest::from_hex(text).is_some() {
            return Err(invalid("cannot specify 64-byte hexadecimal strings"));
        }
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                let digest = digest.parse().map_err(|_| invalid("invalid digest"))?;
                (rest, Some(digest))
            }
        };
        let (domain, rest) = split_domain(rest);
        let (path, tag) = match rest.split_once(':') {
            None => (rest, None),
            Some((path, tag)) => (path, Some(tag)),
        };
        if path.chars().any(char::is_uppercase) {
            return Err(invalid("repository name must be lowercase"));
        }
        if !path.split('/').all(is_path_component) || !is_domain(domain) {
            return Err(invalid("invalid reference format"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(invalid("invalid tag"));
        }
        let is_official = domain == DEFAULT_DOMAIN && !path.contains('/');
        let path = if is_official {
            format!("{OFFICIAL_PREFIX}{path}")
        } else {
            path.to_owned()
        };
        if domain.len() + path.len() >= MAX_NAME_BYTES {
            return Err(invalid(
                "repository name must not be more than 255 characters",
            ));
        }
        let tag = match (tag, digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Self {
            domain: domain.to_owned(),
            path,
            tag,
            digest,
        })
    }
}

/// The first part is a registry when it has a dot, a port or capitals, or is `localhost`.
fn split_domain(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(char::is_uppercase) =>
        {
            let first = if first == "index.docker.io" {
                DEFAULT_DOMAIN
            } else {
                first
            };
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = if let Some(inner) = domain.strip_prefix('[') {
        let Some((address, rest)) = inner.split_once(']') else {
            return false;
        };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        match rest.strip_prefix(':') {
            Some(port) => ("v6", Some(port)),
            None if rest.is_empty() => ("v6", None),
            None => return false,
        }
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        }
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(is_label) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// `[a-z0-9]+` runs joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    is_word(*first)
        && is_word(*last)
        && bytes
            .split(|byte| is_word(*byte))
            .all(|gap| matches!(gap, b"" | b"." | b"_" | b"__") || gap.iter().all(|b| *b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= MAX_TAG_BYTES
        && tag.bytes().next().is_some_and(is_word)
        && tag
            .bytes()
            .all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn full(text: &str) -> String {
        text.parse::<Reference>().unwrap().to_string()
    }

    #[test]
    fn names_are_completed_as_docker_does() {
        assert_eq!(full("bb"), "docker.io/library/bb:latest");
        assert_eq!(full("me/bb:1.0"), "docker.io/me/bb:1.0");
        assert_eq!(full("index.docker.io/bb"), "docker.io/library/bb:latest");
        assert_eq!(full("localhost/bb"), "localhost/bb:latest");
        assert_eq!(full("127.0.0.1:5000/a/b:t"), "127.0.0.1:5000/a/b:t");
        assert_eq!(full("[::1]:5000/a"), "[::1]:5000/a:latest");
        let by_digest = format!("bb@sha256:{HEX}");
        assert_eq!(full(&by_digest), format!("docker.io/library/{by_digest}"));
    }

    #[test]
    fn familiar_names_are_short() {
        for text in ["bb:latest", "me/bb:1", "127.0.0.1:5000/a/b:t"] {
            assert_eq!(text.parse::<Reference>().unwrap().familiar(), text);
        }
        assert_eq!(
            "docker.io/library/bb"
                .parse::<Reference>()
                .unwrap()
                .familiar(),
            "bb:latest"
        );
    }

    #[test]
    fn bad_names_are_refused() {
        for text in [
            "",
            "Bb",
            "a//b",
            "a/",
            "/a",
            "a:",
            "a:b:c",
            "a b",
            "-a",
            "a..b",
            "a___b",
            "a@b",
            "a:-x",
            HEX,
            "a.b:99999/c",
            "http://x/y",
            "a@sha256:12",
            "../a",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
        let error = "Bb".parse::<Reference>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid reference format: repository name (Bb) must be lowercase"
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_printing_parses_back(text in "\\PC{0,40}|[a-zA-Z0-9._:/@-]{0,60}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
                prop_assert_eq!(&reference.familiar().parse::<Reference>().unwrap(), &reference);
            }
        }
    }
}
