//! Errors of registries, in docker's words.

use http::StatusCode;
use serde::Deserialize;

use super::url::Url;
use crate::{ImageError, Reference, RegistryErrorKind};

/// The registry answered, but wrongly.
pub(crate) fn protocol(message: String) -> ImageError {
    ImageError::Registry {
        message,
        kind: RegistryErrorKind::Protocol,
    }
}

/// The connection can't be made or broke.
pub(crate) fn network(message: String) -> ImageError {
    ImageError::Registry {
        message,
        kind: RegistryErrorKind::Network,
    }
}

/// A login is needed and none was given.
pub(super) fn no_credentials(reference: &Reference, base: &Url) -> ImageError {
    let message = format!(
        "pull access denied for {}, repository does not exist or may require 'docker login': \
         Get \"{}\": no basic auth credentials",
        reference.familiar_name(),
        base.with_path("/v2/")
    );
    ImageError::Registry {
        message,
        kind: RegistryErrorKind::Denied,
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    errors: Vec<Item>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Item {
    code: String,
    message: String,
}

/// What a status and the registry's own words mean for a pull.
///
/// Spec: OCI distribution-spec, "Error Codes"; texts: moby, distribution/errors.go.
pub(super) fn refused(reference: &Reference, status: StatusCode, body: &[u8]) -> ImageError {
    use RegistryErrorKind::{Denied, NotFound, Protocol, Unavailable};
    let first = serde_json::from_slice::<Body>(body)
        .unwrap_or_default()
        .errors
        .into_iter()
        .next();
    let code = match &first {
        Some(item) => item.code.as_str(),
        None => match status {
            StatusCode::UNAUTHORIZED => "UNAUTHORIZED",
            StatusCode::FORBIDDEN => "DENIED",
            StatusCode::NOT_FOUND => "MANIFEST_UNKNOWN",
            _ => "",
        },
    };
    let words = code.to_ascii_lowercase().replace('_', " ");
    let text = first
        .as_ref()
        .map(|item| item.message.as_str())
        .filter(|text| !text.is_empty());
    let cause = format!("{words}: {}", text.unwrap_or(&words));
    let name = reference.familiar_name();
    let (message, kind) = match code {
        "MANIFEST_UNKNOWN" => (
            format!("manifest for {} not found: {cause}", reference.familiar()),
            NotFound,
        ),
        "NAME_UNKNOWN" => (format!("repository {name} not found: {cause}"), NotFound),
        "BLOB_UNKNOWN" => (cause, NotFound),
        "DENIED" | "UNAUTHORIZED" => (
            format!(
                "pull access denied for {name}, repository does not exist or may require \
                 'docker login': {cause}"
            ),
            Denied,
        ),
        _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            let status = format!("received unexpected HTTP status: {status}");
            (if code.is_empty() { status } else { cause }, Unavailable)
        }
        "" => (
            format!("received unexpected HTTP status: {status}"),
            Protocol,
        ),
        _ => (cause, Protocol),
    };
    ImageError::Registry { message, kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_dockers_words() {
        let reference = "127.0.0.1:5000/x".parse().unwrap();
        let text = |status: u16, body: &str| {
            refused(
                &reference,
                StatusCode::from_u16(status).unwrap(),
                body.as_bytes(),
            )
            .to_string()
        };
        assert_eq!(
            text(
                404,
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#
            ),
            "manifest for 127.0.0.1:5000/x:latest not found: manifest unknown: manifest unknown"
        );
        assert_eq!(
            text(403, ""),
            "pull access denied for 127.0.0.1:5000/x, repository does not exist or may require \
             'docker login': denied: denied"
        );
        assert_eq!(
            text(500, "<html>"),
            "received unexpected HTTP status: 500 Internal Server Error"
        );
    }
}
