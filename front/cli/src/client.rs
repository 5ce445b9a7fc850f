//! A small client of the Docker Engine API.
//!
//! One connection per request, so that a waiting request never blocks another one.
//! Docker Engine API v1.51; older engines are spoken to in their own newest version.

use std::io;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::address::Address;
use crate::error::{Error, Message};

/// The newest API version this client knows.
const NEWEST: (u32, u32) = (1, 51);
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A request's body.
pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// A byte stream in both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// An engine at an address, spoken to in one API version.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    address: Address,
    version: (u32, u32),
}

impl Client {
    /// Asks the engine which versions it speaks.
    ///
    /// # Errors
    /// [`Error::Connect`] when nobody listens, [`Error::Api`] when it does not answer a ping.
    pub(crate) async fn connect(address: Address) -> Result<Self, Error> {
        let mut client = Self {
            address,
            version: NEWEST,
        };
        let answer = client
            .send("ping", Method::GET, "/_ping", empty(), None)
            .await?;
        let offered = answer
            .headers()
            .get("api-version")
            .and_then(|value| value.to_str().ok());
        if let Some(version) = offered.and_then(parse_version) {
            client.version = version.min(NEWEST);
        }
        Ok(client)
    }

    /// The version spoken, like `1.51`.
    pub(crate) fn version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// The engine's address.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Sends a request without body and reads the JSON it is answered with.
    ///
    /// * `action`: what it does, for errors: `list containers`.
    ///
    /// # Errors
    /// [`Error::Api`] when the engine refuses, [`Error::Connect`] or [`Error::Http`] when it can't
    /// be reached, [`Error::Answer`] when the answer is no such JSON.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        action: &str,
        target: &Target,
    ) -> Result<T, Error> {
        let answer = self.request(action, Method::GET, target, empty()).await?;
        read_json(action, answer).await
    }

    /// Posts `body` (JSON, or nothing) and reads the JSON it is answered with; an empty answer is
    /// `null`.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) async fn post(
        &self,
        action: &str,
        target: &Target,
        body: Option<&Value>,
    ) -> Result<Value, Error> {
        let answer = self
            .request(action, Method::POST, target, json(body))
            .await?;
        read_json(action, answer).await
    }

    /// Deletes what `target` names.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) async fn delete(&self, action: &str, target: &Target) -> Result<Value, Error> {
        let answer = self
            .request(action, Method::DELETE, target, empty())
            .await?;
        read_json(action, answer).await
    }

    /// Sends a request and gives the answer once its header is there; the body streams.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) async fn request(
        &self,
        action: &str,
        method: Method,
        target: &Target,
        body: Body,
    ) -> Result<Response<Incoming>, Error> {
        self.send(action, method, &self.path(target), body, None)
            .await
    }

    /// Posts a request that turns the connection into a byte stream in both directions.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) async fn hijack(
        &self,
        action: &str,
        target: &Target,
        body: Option<&Value>,
    ) -> Result<Hijacked, Error> {
        let path = self.path(target);
        let answer = self
            .send(action, Method::POST, &path, json(body), Some("tcp"))
            .await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let message = Message(format!("it did not upgrade but said {}", answer.status()));
            return Err(Error::Answer {
                action: action.to_owned(),
                message,
            });
        }
        let upgraded = hyper::upgrade::on(answer)
            .await
            .map_err(Error::http(action))?;
        Ok(TokioIo::new(upgraded))
    }

    fn path(&self, target: &Target) -> String {
        format!("/v{}.{}{}", self.version.0, self.version.1, target.0)
    }

    async fn send(
        &self,
        action: &str,
        method: Method,
        path: &str,
        body: Body,
        upgrade: Option<&str>,
    ) -> Result<Response<Incoming>, Error> {
        let stream = self.open().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(Error::http(action))?;
        tokio::spawn(connection.with_upgrades());

        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "atoll")
            .header(
                header::USER_AGENT,
                concat!("Atoll-Client/", env!("CARGO_PKG_VERSION")),
            )
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(protocol) = upgrade {
            request = request
                .header(header::CONNECTION, "Upgrade")
                .header("Upgrade", protocol);
        }
        let request = request.body(body).map_err(|error| Error::Answer {
            action: action.to_owned(),
            message: Message(error.to_string()),
        })?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(Error::http(action))?;
        if answer.status().is_client_error() || answer.status().is_server_error() {
            return Err(refusal(action, answer).await);
        }
        Ok(answer)
    }

    async fn open(&self) -> Result<Box<dyn Duplex>, Error> {
        let opened: io::Result<Box<dyn Duplex>> = match &self.address {
            Address::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(error),
            },
            Address::Tcp(host) => match TcpStream::connect(host).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(error),
            },
        };
        opened.map_err(|source| Error::Connect {
            address: self.address.clone(),
            source,
        })
    }
}

/// A connection after the upgrade.
pub(crate) type Hijacked = TokioIo<hyper::upgrade::Upgraded>;

/// A path below the version, with its query: `/containers/json?all=1`.
#[derive(Debug, Clone)]
pub(crate) struct Target(String);

impl Target {
    /// A path of fixed words: `/containers/json`.
    pub(crate) fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    /// `/kind/name/verb` with the name encoded; an empty verb is left out.
    pub(crate) fn object(kind: &str, name: &str, verb: &str) -> Self {
        let name = name.split('/').map(encode).collect::<Vec<_>>().join("/");
        let verb = if verb.is_empty() {
            String::new()
        } else {
            format!("/{verb}")
        };
        Self(format!("/{kind}/{name}{verb}"))
    }

    /// Adds a query parameter.
    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        let separator = if self.0.contains('?') { '&' } else { '?' };
        self.0.push(separator);
        self.0.push_str(name);
        self.0.push('=');
        self.0.push_str(&encode(&value.to_string()));
        self
    }

    /// Adds a query parameter when there is a value.
    pub(crate) fn with_some(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Adds `name=1` when `condition` holds.
    pub(crate) fn with_flag(self, name: &str, condition: bool) -> Self {
        if condition { self.with(name, 1) } else { self }
    }
}

/// No body.
pub(crate) fn empty() -> Body {
    Full::new(Bytes::new())
        .map_err(|never| match never {})
        .boxed()
}

/// A body that is read from a channel, chunk by chunk.
pub(crate) fn streamed(chunks: tokio::sync::mpsc::Receiver<io::Result<Bytes>>) -> Body {
    let frames = futures_util::stream::unfold(chunks, |mut chunks| async {
        let chunk = chunks.recv().await?;
        Some((chunk.map(Frame::data), chunks))
    });
    BodyExt::boxed(StreamBody::new(frames))
}

fn json(body: Option<&Value>) -> Body {
    body.map_or_else(empty, |value| {
        Full::new(Bytes::from(value.to_string()))
            .map_err(|never| match never {})
            .boxed()
    })
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Reads an answer's JSON; an empty one is `null`.
///
/// # Errors
/// [`Error::Http`] when the answer breaks off, [`Error::Answer`] when it is no such JSON.
pub(crate) async fn read_json<T: DeserializeOwned>(
    action: &str,
    answer: Response<Incoming>,
) -> Result<T, Error> {
    let body = answer
        .into_body()
        .collect()
        .await
        .map_err(Error::http(action))?
        .to_bytes();
    let text: &[u8] = if body.is_empty() { b"null" } else { &body };
    serde_json::from_slice(text).map_err(|error| Error::Answer {
        action: action.to_owned(),
        message: Message(error.to_string()),
    })
}

/// The engine's `{"message": …}` as an error.
async fn refusal(action: &str, answer: Response<Incoming>) -> Error {
    let status = answer.status();
    let body = match answer.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(source) => {
            return Error::Http {
                action: action.to_owned(),
                source,
            };
        }
    };
    let message = serde_json::from_slice::<Value>(&body)
        .ok()
        .and_then(|value| value.get("message")?.as_str().map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(&body).trim().to_owned());
    let message = if message.is_empty() {
        status.to_string()
    } else {
        message
    };
    Error::Api {
        action: action.to_owned(),
        status: status.as_u16(),
        message: Message(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_encode_names_and_values() {
        let target = Target::object("images", "127.0.0.1:5000/a b", "json").with("q", "a=b&c");
        assert_eq!(target.0, "/images/127.0.0.1%3A5000/a%20b/json?q=a%3Db%26c");
        let target = Target::new("/containers/json")
            .with_flag("all", true)
            .with_flag("x", false);
        assert_eq!(target.with("limit", 3).0, "/containers/json?all=1&limit=3");
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(parse_version("1.9").map(|v| v.min(NEWEST)), Some((1, 9)));
        assert_eq!(parse_version("1.60").map(|v| v.min(NEWEST)), Some(NEWEST));
        assert_eq!(parse_version("x"), None);
    }
}
