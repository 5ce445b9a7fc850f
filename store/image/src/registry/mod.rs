//! A registry's HTTP API, as far as pulling needs it.
//!
//! Spec: OCI distribution-spec 1.1; the errors' words are docker's.

mod challenge;
mod connection;
mod failure;
mod url;

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use atoll_layer::Digest;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

pub(crate) use self::failure::{network, protocol};
use self::{challenge::Challenge, failure::refused, url::Url};
use crate::{
    Auth, ImageError, Reference, manifest::ACCEPTED, registry::connection::send,
    store::MAX_DOCUMENT_BYTES,
};

const MAX_REDIRECTS: usize = 5;
/// Longest silence in the middle of a body.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
const USER_AGENT: &str = concat!("atoll/", env!("CARGO_PKG_VERSION"));

/// One repository of a registry, seen by one user.
#[derive(Debug)]
pub(crate) struct Repository {
    reference: Reference,
    base: Url,
    auth: Option<Auth>,
    /// The `Authorization` that worked last.
    authorization: Mutex<Option<HeaderValue>>,
}

/// A body that arrives in pieces.
#[derive(Debug)]
pub(crate) struct BlobBody {
    body: Incoming,
    /// Bytes the server sends again from the start because it doesn't know ranges.
    skip_bytes: u64,
}

impl Repository {
    pub(crate) fn new(reference: &Reference, auth: Option<Auth>) -> Result<Self, ImageError> {
        let base = Url::of_registry(reference.domain())?;
        Ok(Self {
            reference: reference.clone(),
            base,
            auth,
            authorization: Mutex::new(None),
        })
    }

    /// Fetches a manifest or index; its digest is checked when it is asked for by digest.
    pub(crate) async fn manifest(&self, selector: &str) -> Result<Bytes, ImageError> {
        let url = self.base.with_path(&format!(
            "/v2/{}/manifests/{selector}",
            self.reference.path()
        ));
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(ACCEPTED));
        let response = self.get(&url, headers).await?;
        if response.status() != StatusCode::OK {
            return Err(self.failure(response).await);
        }
        let bytes = read_limited(response.into_body(), MAX_DOCUMENT_BYTES).await?;
        if let Ok(wanted) = selector.parse::<Digest>() {
            check(&bytes, &wanted)?;
        }
        Ok(bytes)
    }

    /// Fetches a small blob whole, checking size and digest.
    pub(crate) async fn document(&self, digest: &Digest, size: u64) -> Result<Bytes, ImageError> {
        if size > MAX_DOCUMENT_BYTES {
            return Err(protocol(format!(
                "configuration {digest} of {size} bytes is too large"
            )));
        }
        let body = self.blob(digest, 0).await?;
        let bytes = read_limited(body.body, size).await?;
        check(&bytes, digest)?;
        Ok(bytes)
    }

    /// Starts to fetch a blob from `offset` on.
    pub(crate) async fn blob(&self, digest: &Digest, offset: u64) -> Result<BlobBody, ImageError> {
        let path = format!("/v2/{}/blobs/{digest}", self.reference.path());
        let mut headers = HeaderMap::new();
        if offset > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={offset}-"))
        {
            headers.insert(header::RANGE, range);
        }
        let response = self.get(&self.base.with_path(&path), headers).await?;
        match response.status() {
            StatusCode::OK => Ok(BlobBody {
                body: response.into_body(),
                skip_bytes: offset,
            }),
            StatusCode::PARTIAL_CONTENT if offset > 0 => {
                let range = response.headers().get(header::CONTENT_RANGE);
                let wanted = format!("bytes {offset}-");
                if range
                    .and_then(|range| range.to_str().ok())
                    .is_some_and(|r| r.starts_with(&wanted))
                {
                    Ok(BlobBody {
                        body: response.into_body(),
                        skip_bytes: 0,
                    })
                } else {
                    Err(protocol(
                        "the registry answered with another range".to_owned(),
                    ))
                }
            }
            StatusCode::RANGE_NOT_SATISFIABLE if offset > 0 => Err(protocol(format!(
                "blob {digest} ends at byte {offset}, before the size that its manifest names"
            ))),
            _ => Err(self.failure(response).await),
        }
    }

    async fn failure(&self, response: Response<Incoming>) -> ImageError {
        let status = response.status();
        let body = read_limited(response.into_body(), MAX_DOCUMENT_BYTES)
            .await
            .unwrap_or_default();
        refused(&self.reference, status, &body)
    }

    /// GETs `url`, proving who asks when the registry wants to know, and following redirects.
    async fn get(&self, url: &Url, headers: HeaderMap) -> Result<Response<Incoming>, ImageError> {
        let mut url = url.clone();
        let mut is_proved = false;
        let mut redirects = 0;
        loop {
            let mut request = get_request(&url, &headers)?;
            let is_home = url.is_same_host(&self.base);
            if is_home && let Some(value) = self.authorization() {
                request.headers_mut().insert(header::AUTHORIZATION, value);
            }
            let response = send(&url, request).await?;
            match response.status() {
                StatusCode::UNAUTHORIZED if is_home && !is_proved => {
                    is_proved = true;
                    let value = self.prove(response.headers()).await?;
                    *self
                        .authorization
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner) = Some(value);
                }
                status if status.is_redirection() && redirects < MAX_REDIRECTS => {
                    redirects += 1;
                    let location = response.headers().get(header::LOCATION);
                    let location = location.and_then(|location| location.to_str().ok());
                    url = url.joined(location.unwrap_or_default())?;
                }
                status if status.is_redirection() => {
                    return Err(protocol("stopped after 5 redirects".to_owned()));
                }
                _ => return Ok(response),
            }
        }
    }

    fn authorization(&self) -> Option<HeaderValue> {
        self.authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Answers a 401's challenge.
    async fn prove(&self, headers: &HeaderMap) -> Result<HeaderValue, ImageError> {
        let challenges = Challenge::all(headers);
        let bearer = challenges
            .iter()
            .find(|challenge| challenge.scheme == "bearer");
        if let Some(challenge) = bearer {
            return self.token(challenge).await;
        }
        let is_basic = challenges
            .iter()
            .any(|challenge| challenge.scheme == "basic");
        match &self.auth {
            Some(auth @ Auth::Basic { .. }) if is_basic => auth.header(),
            _ => Err(failure::no_credentials(&self.reference, &self.base)),
        }
    }

    /// Spec: distribution, docs/spec/auth/token.md and oauth.md.
    async fn token(&self, challenge: &Challenge) -> Result<HeaderValue, ImageError> {
        if let Some(auth @ Auth::RegistryToken(_)) = &self.auth {
            return auth.header();
        }
        let realm = challenge.parameter("realm").unwrap_or_default();
        let service = challenge.parameter("service").unwrap_or_default();
        let scope = format!("repository:{}:pull", self.reference.path());
        let url = Url::parse(realm)?;
        let request = match &self.auth {
            Some(Auth::IdentityToken(token)) => {
                url.check_may_carry_secrets()?;
                let form = url::query(&[
                    ("grant_type", "refresh_token"),
                    ("service", service),
                    ("client_id", "atoll"),
                    ("scope", &scope),
                    ("refresh_token", token),
                ]);
                let mut request = request(Method::POST, &url, Bytes::from(form))?;
                let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
                request
                    .headers_mut()
                    .insert(header::CONTENT_TYPE, form_type);
                request
            }
            auth => {
                let query = url::query(&[("service", service), ("scope", &scope)]);
                let url = url.with_query(&query);
                let mut request = get_request(&url, &HeaderMap::new())?;
                if let Some(auth) = auth {
                    url.check_may_carry_secrets()?;
                    request
                        .headers_mut()
                        .insert(header::AUTHORIZATION, auth.header()?);
                }
                request
            }
        };
        let response = send(&url, request).await?;
        if response.status() != StatusCode::OK {
            return Err(self.failure(response).await);
        }
        let body = read_limited(response.into_body(), MAX_DOCUMENT_BYTES).await?;
        let token = challenge::token(&body)
            .ok_or_else(|| protocol("the authorization server gave no token".to_owned()))?;
        Auth::RegistryToken(token).header()
    }
}

impl BlobBody {
    /// The next piece, nothing at the end.
    ///
    /// # Errors
    /// A network error when the connection broke or was silent for a minute.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ImageError> {
        loop {
            let Some(mut chunk) = next_chunk(&mut self.body).await? else {
                return Ok(None);
            };
            let skipped =
                usize::try_from(self.skip_bytes).map_or(chunk.len(), |n| n.min(chunk.len()));
            self.skip_bytes -= skipped as u64;
            let rest = chunk.split_off(skipped);
            if !rest.is_empty() {
                return Ok(Some(rest));
            }
        }
    }
}

async fn next_chunk(body: &mut Incoming) -> Result<Option<Bytes>, ImageError> {
    loop {
        let frame = tokio::time::timeout(STALL_TIMEOUT, body.frame())
            .await
            .map_err(|_| failure::network("the registry sent nothing for a minute".to_owned()))?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(failure::network(connection::chain(&error))),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

async fn read_limited(mut body: Incoming, limit: u64) -> Result<Bytes, ImageError> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = next_chunk(&mut body).await? {
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Err(protocol(format!("the answer is longer than {limit} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

fn check(bytes: &[u8], wanted: &Digest) -> Result<(), ImageError> {
    let found = Digest::of(bytes);
    if found == *wanted {
        return Ok(());
    }
    Err(ImageError::BlobDigest {
        name: wanted.to_string(),
        found,
    })
}

fn get_request(url: &Url, headers: &HeaderMap) -> Result<Request<Full<Bytes>>, ImageError> {
    let mut request = request(Method::GET, url, Bytes::new())?;
    request.headers_mut().extend(headers.clone());
    Ok(request)
}

fn request(method: Method, url: &Url, body: Bytes) -> Result<Request<Full<Bytes>>, ImageError> {
    Request::builder()
        .method(method)
        .uri(url.path_and_query())
        .header(header::HOST, url.authority())
        .header(header::USER_AGENT, USER_AGENT)
        .body(Full::new(body))
        .map_err(|error| protocol(format!("cannot ask for `{url}`: {error}")))
}
