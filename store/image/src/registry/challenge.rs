//! `WWW-Authenticate` and what answers it.
//!
//! Format: RFC 9110 §11.6.1.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, header};
use serde::Deserialize;

use super::failure::protocol;
use crate::{Auth, ImageError};

/// One way a registry offers to be convinced.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    /// In lower case.
    pub(super) scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// All challenges of an answer; what can't be understood is left out.
    pub(super) fn all(headers: &HeaderMap) -> Vec<Self> {
        let values = headers.get_all(header::WWW_AUTHENTICATE).iter();
        values
            .filter_map(|value| Self::parse(value.to_str().ok()?))
            .collect()
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (scheme, mut rest) = text.split_once(' ').unwrap_or((text, ""));
        if scheme.is_empty() {
            return None;
        }
        let mut parameters = Vec::new();
        while let Some((name, after)) = rest.split_once('=') {
            let (value, after) = value(after.trim_start())?;
            parameters.push((name.trim().to_ascii_lowercase(), value));
            rest = after.trim_start().trim_start_matches(',').trim_start();
        }
        Some(Self {
            scheme: scheme.to_ascii_lowercase(),
            parameters,
        })
    }

    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A quoted string or a token, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((index, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &quoted[index + 1..])),
            '\\' => value.push(letters.next()?.1),
            letter => value.push(letter),
        }
    }
    None
}

impl Auth {
    pub(super) fn header(&self) -> Result<HeaderValue, ImageError> {
        let text = match self {
            Self::Basic { username, password } => {
                format!(
                    "Basic {}",
                    BASE64_STANDARD.encode(format!("{username}:{password}"))
                )
            }
            Self::IdentityToken(token) | Self::RegistryToken(token) => format!("Bearer {token}"),
        };
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| protocol("the credentials hold a control character".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// The token of an authorization server's answer.
pub(super) fn token(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    answer
        .token
        .or(answer.access_token)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_have_quoted_and_bare_values() {
        let text = r#"Bearer realm="https://a/token",service=reg, scope="a:b:pull,push""#;
        let challenge = Challenge::parse(text).unwrap();
        assert_eq!(challenge.scheme, "bearer");
        assert_eq!(challenge.parameter("realm"), Some("https://a/token"));
        assert_eq!(challenge.parameter("service"), Some("reg"));
        assert_eq!(challenge.parameter("scope"), Some("a:b:pull,push"));
        assert_eq!(Challenge::parse(r#"Basic realm="x"#), None);
        assert_eq!(Challenge::parse("Basic").unwrap().scheme, "basic");
    }

    #[test]
    fn tokens_have_two_names() {
        assert_eq!(token(br#"{"token":"a"}"#).as_deref(), Some("a"));
        assert_eq!(token(br#"{"access_token":"b"}"#).as_deref(), Some("b"));
        assert_eq!(token(b"{}"), None);
    }
}
