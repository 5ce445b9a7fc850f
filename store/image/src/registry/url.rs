//! Addresses of registries and of what they point to.

use std::{fmt, net::IpAddr};

use http::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::failure::protocol;
use crate::ImageError;

/// Docker Hub's registry isn't at the name people use.
const HUB_DOMAIN: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// An `http` or `https` address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) is_tls: bool,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: Option<u16>,
    path_and_query: String,
}

impl Url {
    /// Where a registry is: HTTP on loopback, as docker allows it there, HTTPS else.
    pub(super) fn of_registry(domain: &str) -> Result<Self, ImageError> {
        let authority = if domain == HUB_DOMAIN {
            HUB_HOST
        } else {
            domain
        };
        let mut url = Self::parse(&format!("https://{authority}/"))?;
        url.is_tls = !url.is_loopback();
        Ok(url)
    }

    pub(super) fn parse(text: &str) -> Result<Self, ImageError> {
        let invalid = || protocol(format!("`{text}` is not an http address"));
        let uri: Uri = text.parse().map_err(|_| invalid())?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(invalid()),
        };
        let authority = uri.authority().ok_or_else(invalid)?;
        if authority.as_str().contains('@') {
            return Err(invalid());
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let path_and_query = uri
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned();
        Ok(Self {
            is_tls,
            host,
            port: authority.port_u16(),
            path_and_query,
        })
    }

    pub(super) fn with_path(&self, path: &str) -> Self {
        Self {
            path_and_query: path.to_owned(),
            ..self.clone()
        }
    }

    pub(super) fn with_query(&self, query: &str) -> Self {
        let joint = if self.path_and_query.contains('?') {
            '&'
        } else {
            '?'
        };
        Self {
            path_and_query: format!("{}{joint}{query}", self.path_and_query),
            ..self.clone()
        }
    }

    /// Where a redirect leads; never from HTTPS back to HTTP.
    pub(super) fn joined(&self, location: &str) -> Result<Self, ImageError> {
        if location.starts_with('/') && !location.starts_with("//") {
            return Ok(self.with_path(location));
        }
        let target = Self::parse(location)?;
        if self.is_tls && !target.is_tls {
            return Err(protocol(format!(
                "refusing the redirect from https to `{target}`"
            )));
        }
        Ok(target)
    }

    pub(super) fn is_same_host(&self, other: &Self) -> bool {
        (self.is_tls, &self.host, self.port()) == (other.is_tls, &other.host, other.port())
    }

    pub(super) fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self
                .host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }

    /// Passwords only travel encrypted, or within this machine.
    pub(super) fn check_may_carry_secrets(&self) -> Result<(), ImageError> {
        if self.is_tls || self.is_loopback() {
            return Ok(());
        }
        Err(protocol(format!(
            "refusing to send credentials unencrypted to `{self}`"
        )))
    }

    pub(super) fn port(&self) -> u16 {
        self.port.unwrap_or(if self.is_tls { 443 } else { 80 })
    }

    pub(super) fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    /// Host and port as in the `Host` header.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match self.port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(
            formatter,
            "{scheme}://{}{}",
            self.authority(),
            self.path_and_query
        )
    }
}

/// `a=b&c=d`, percent-encoded.
pub(super) fn query(pairs: &[(&str, &str)]) -> String {
    let encoded = |text| utf8_percent_encode(text, UNRESERVED);
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(key, value)| format!("{}={}", encoded(key), encoded(value)))
        .collect();
    pairs.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_http_and_the_rest_https() {
        let url = |domain| Url::of_registry(domain).unwrap().to_string();
        assert_eq!(url("127.0.0.1:5000"), "http://127.0.0.1:5000/");
        assert_eq!(url("localhost"), "http://localhost/");
        assert_eq!(url("[::1]:5000"), "http://[::1]:5000/");
        assert_eq!(url("docker.io"), "https://registry-1.docker.io/");
        assert_eq!(url("example.com:5000"), "https://example.com:5000/");
    }

    #[test]
    fn redirects_may_not_leave_https() {
        let base = Url::parse("https://a.example/v2/x").unwrap();
        assert_eq!(
            base.joined("/y?z").unwrap().to_string(),
            "https://a.example/y?z"
        );
        assert_eq!(base.joined("https://b.example/").unwrap().host, "b.example");
        for location in [
            "http://b.example/",
            "ftp://b/",
            "",
            "https://u:p@b.example/",
        ] {
            assert!(base.joined(location).is_err(), "{location}");
        }
    }

    #[test]
    fn queries_are_encoded() {
        assert_eq!(
            query(&[("scope", "repository:a/b:pull")]),
            "scope=repository%3Aa%2Fb%3Apull"
        );
    }
}
