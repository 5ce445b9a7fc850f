//! A request, taken apart for its handler.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::{HeaderMap, Method, header};
use http_body_util::BodyStream;
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc;

use super::{
    connection::PLAIN_MARK,
    hijack::Hijack,
    query::Query,
    version::{self, ApiVersion},
};
use crate::error::{Error, Result};

/// Longest JSON body.
const MAX_JSON: usize = 4 << 20;

/// A request, taken apart.
pub(crate) struct Request {
    /// GET, POST, …
    pub(crate) method: Method,
    /// The version to answer in.
    pub(crate) version: ApiVersion,
    /// The path after the version, split at slashes and decoded.
    pub(crate) segments: Vec<String>,
    /// The query.
    pub(crate) query: Query,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The body, not yet read.
    pub(crate) body: Incoming,
    hijack: Option<Hijack>,
}

impl Request {
    /// Takes `request` apart.
    ///
    /// # Errors
    /// 400 when the version isn't served.
    pub(crate) fn new(mut request: http::Request<Incoming>) -> Result<Self> {
        let is_plain = request.headers().contains_key(PLAIN_MARK);
        let hijack = request
            .headers()
            .contains_key(header::UPGRADE)
            .then(|| Hijack::new(hyper::upgrade::on(&mut request), is_plain));
        let (parts, body) = request.into_parts();
        let (version, rest) = version::split(parts.uri.path())?;
        let segments = rest
            .split('/')
            .skip(1)
            .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
            .collect();
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        Ok(Self {
            method: parts.method,
            version,
            segments,
            query,
            headers: parts.headers,
            body,
            hijack,
        })
    }

    /// The right to take the connection over.
    ///
    /// # Errors
    /// 400 when the connection carries another request before this one and no upgrade is asked for.
    pub(crate) fn hijack(&mut self) -> Result<Hijack> {
        self.hijack.take().ok_or_else(|| {
            Error::invalid("this request takes the connection over: send it first on a connection, or with `Upgrade: tcp`")
        })
    }

    /// The whole body as JSON; an empty body is `T::default()`; `null` members are as if absent.
    ///
    /// # Errors
    /// 400 when it is too long or isn't a valid `T`.
    pub(crate) async fn json<T: DeserializeOwned + Default>(&mut self) -> Result<T> {
        let bytes = self.bytes(MAX_JSON).await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(T::default());
        }
        let mut value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| Error::invalid(format!("invalid JSON: {error}")))?;
        drop_nulls(&mut value);
        serde_json::from_value(value)
            .map_err(|error| Error::invalid(format!("invalid JSON: {error}")))
    }

    /// The whole body.
    ///
    /// # Errors
    /// 400 when it is longer than `max` bytes or the client breaks off.
    pub(crate) async fn bytes(&mut self, max: usize) -> Result<Bytes> {
        let mut stream = BodyStream::new(&mut self.body);
        let mut all = BytesMut::new();
        let mut len = 0_usize;
        while let Some(frame) = stream.next().await {
            let frame =
                frame.map_err(|error| Error::invalid(format!("body broken off: {error}")))?;
            if let Ok(data) = frame.into_data() {
                len += data.len();
                // Read on for a while, so that the client is there to hear why it is refused.
                if len > max.saturating_mul(4) {
                    break;
                }
                if len > max {
                    all.clear();
                    continue;
                }
                all.extend_from_slice(&data);
            }
        }
        if len > max {
            return Err(Error::invalid(format!("body is longer than {max} bytes")));
        }
        Ok(all.freeze())
    }

    /// Moves the body into a blocking reader; the returned future feeds it and must be polled beside it.
    ///
    /// When the reader is dropped early, the rest of the body is read and forgotten: a client that is
    /// still sending would otherwise see its connection break instead of the answer that says why.
    pub(crate) fn into_reader(self) -> (BodyReader, impl Future<Output = ()>) {
        let (sender, receiver) = mpsc::channel::<std::io::Result<Bytes>>(4);
        let body = self.body;
        let feed = async move {
            let mut stream = BodyStream::new(body);
            let mut is_wanted = true;
            while let Some(frame) = stream.next().await {
                let item = match frame {
                    Ok(frame) => match frame.into_data() {
                        Ok(data) => Ok(data),
                        Err(_) => continue,
                    },
                    Err(error) => Err(std::io::Error::other(format!("upload broken off: {error}"))),
                };
                let failed = item.is_err();
                is_wanted = is_wanted && sender.send(item).await.is_ok();
                if failed {
                    return;
                }
            }
        };
        (
            BodyReader {
                receiver,
                chunk: Bytes::new(),
            },
            feed,
        )
    }
}

/// A request's body for code that reads synchronously. Not for use on an async thread.
pub(crate) struct BodyReader {
    receiver: mpsc::Receiver<std::io::Result<Bytes>>,
    chunk: Bytes,
}

impl std::io::Read for BodyReader {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(0),
            }
        }
        let len = self.chunk.len().min(buf.len());
        buf[..len].copy_from_slice(&self.chunk.split_to(len));
        Ok(len)
    }
}

/// Go decodes `null` as the zero value: drops all null members, so that serde's defaults stand in.
pub(crate) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, member| !member.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
