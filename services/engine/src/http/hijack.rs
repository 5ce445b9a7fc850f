//! Taking a connection over from HTTP: attach and exec.

use http::{HeaderValue, StatusCode, header};
use hyper::{ext::ReasonPhrase, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;

use super::{
    body::Body,
    connection::Connection,
    response::{self, Response},
    version::ApiVersion,
};
use crate::error::{Error, Result};

/// A request's right to take its connection over.
pub(crate) struct Hijack {
    on_upgrade: OnUpgrade,
    is_plain: bool,
}

impl Hijack {
    /// Keeps what hyper gave with the request.
    pub(crate) fn new(on_upgrade: OnUpgrade, is_plain: bool) -> Self {
        Self {
            on_upgrade,
            is_plain,
        }
    }

    /// The answer that ends HTTP on this connection: 101 UPGRADED when the client asked for it, else 200.
    pub(crate) fn response(&self, version: ApiVersion, is_tty: bool) -> Response {
        let mut response = response::empty(StatusCode::SWITCHING_PROTOCOLS);
        let reason: &'static [u8] = if self.is_plain { b"OK" } else { b"UPGRADED" };
        response
            .extensions_mut()
            .insert(ReasonPhrase::from_static(reason));
        let content_type = content_type(version, is_tty);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if !self.is_plain {
            response::set(&mut response, header::CONNECTION, "Upgrade");
            response::set(&mut response, header::UPGRADE, "tcp");
        }
        *response.body_mut() = Body::empty();
        response
    }

    /// Waits until the answer is on its way and hands over the connection with all that was read ahead.
    ///
    /// # Errors
    /// 500 when the client has gone.
    pub(crate) async fn connection(self) -> Result<Connection> {
        let upgraded = self
            .on_upgrade
            .await
            .map_err(|error| Error::internal(format!("connection lost before hijack: {error}")))?;
        let parts = upgraded
            .downcast::<TokioIo<Connection>>()
            .map_err(|_| Error::internal("hijacked connection is of another kind"))?;
        let mut connection = parts.io.into_inner();
        connection.unread(parts.read_buf);
        Ok(connection)
    }
}

/// The content type of a hijacked stream: since 1.42 it says whether frames are multiplexed.
pub(crate) fn content_type(version: ApiVersion, is_tty: bool) -> &'static str {
    if version.at_least(42) && !is_tty {
        "application/vnd.docker.multiplexed-stream"
    } else {
        "application/vnd.docker.raw-stream"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_type_depends_on_version_and_tty() {
        let multiplexed = "application/vnd.docker.multiplexed-stream";
        let raw = "application/vnd.docker.raw-stream";
        assert_eq!(content_type(ApiVersion::new(1, 42), false), multiplexed);
        assert_eq!(content_type(ApiVersion::new(1, 51), true), raw);
        assert_eq!(content_type(ApiVersion::new(1, 41), false), raw);
    }
}
