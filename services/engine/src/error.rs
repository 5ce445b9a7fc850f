//! What goes wrong in the engine, and what a client is told.

use std::fmt::Write as _;

use http::StatusCode;

/// The kind of a failure: what a client would do differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request is malformed or asks for something contradictory (400).
    InvalidParameter,
    /// Credentials are missing or wrong (401).
    Unauthorized,
    /// The request is understood and refused (403).
    Forbidden,
    /// The named object does not exist (404).
    NotFound,
    /// The object is in a state that excludes the request (409).
    Conflict,
    /// The object already is what the request wants (304).
    NotModified,
    /// The engine failed (500).
    Internal,
    /// Docker has it, this engine does not (501).
    NotImplemented,
    /// The engine is stopping or starting (503).
    Unavailable,
}

/// A failure with the words for the client: message, causes joined, and an optional hint.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
}

/// The engine's result.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Makes an error of `kind` that says `message`.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    /// Makes a 400.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidParameter, message)
    }

    /// Makes a 404.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// Makes a 409.
    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// Makes a 500.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Makes a 501.
    pub(crate) fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotImplemented, message)
    }

    /// Makes a 304.
    pub(crate) fn not_modified() -> Self {
        Self::new(ErrorKind::NotModified, "")
    }

    /// Makes an error of `kind` out of `source` and all that caused it, below `context`.
    pub(crate) fn caused(
        kind: ErrorKind,
        context: impl Into<String>,
        source: &(dyn std::error::Error + 'static),
    ) -> Self {
        let mut message = context.into();
        if !message.is_empty() {
            message.push_str(": ");
        }
        message.push_str(&chain(source));
        Self::new(kind, message).with_hint(is_disk_full(source).then(|| {
            "the disk is full: remove unused images and containers, or move the data root with \
             --data-root"
                .to_owned()
        }))
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub(crate) fn with_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// What a client would do differently.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What the user can do about it, if that is known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The message with the hint on a line of its own, as clients print it.
    pub(crate) fn client_message(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}\nhint: {hint}", self.message),
            None => self.message.clone(),
        }
    }

    /// The HTTP status of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        match self.kind {
            ErrorKind::InvalidParameter => StatusCode::BAD_REQUEST,
            ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::NotModified => StatusCode::NOT_MODIFIED,
            ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorKind::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Joins an error and its sources: `a: b: c`, leaving out a source that its parent repeats.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            let _ = write!(text, ": {words}");
        }
        source = cause.source();
    }
    text
}

fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut current = Some(error);
    while let Some(cause) = current {
        let kind = cause
            .downcast_ref::<std::io::Error>()
            .map(std::io::Error::kind);
        if matches!(
            kind,
            Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
        ) {
            return true;
        }
        current = cause.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_joins_causes_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(chain(&error), "outer: inner");
    }

    #[test]
    fn hint_is_on_its_own_line() {
        let error = Error::invalid("bad").with_hint(Some("do good".into()));
        assert_eq!(error.client_message(), "bad\nhint: do good");
        assert_eq!(error.status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn a_full_disk_is_hinted_at() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = Error::caused(ErrorKind::Internal, "cannot write x", &full);
        assert!(error.hint().unwrap().contains("disk is full"));
        let other = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = Error::caused(ErrorKind::Internal, "cannot write x", &other);
        assert_eq!(error.hint(), None);
    }
}
