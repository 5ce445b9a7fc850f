//! One request on one connection, plain or TLS.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{failure::network, url::Url};
use crate::ImageError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Sends `request` to the host of `url` and waits for the answer's head.
///
/// A connection of its own for each request: a pull makes a handful, most of them long.
pub(super) async fn send(
    url: &Url,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, ImageError> {
    let address = || format!("{}:{}", url.host, url.port());
    let failed = |reason: String| {
        network(format!(
            "Get \"{}\": dial tcp {reason}",
            url.with_path("/v2/")
        ))
    };
    let stream = timeout(
        CONNECT_TIMEOUT,
        TcpStream::connect((url.host.as_str(), url.port())),
    )
    .await
    .map_err(|_| failed(format!("{}: i/o timeout", address())))?
    .map_err(|error| failed(dial_reason(url, &error)))?;
    // A request is one small write; waiting for more only delays it.
    let _unsupported = stream.set_nodelay(true);
    if !url.is_tls {
        return exchange(url, TokioIo::new(stream), request).await;
    }
    let name = ServerName::try_from(url.host.clone())
        .map_err(|_| failed(format!("{}: invalid host name", address())))?;
    let handshake = TlsConnector::from(tls()).connect(name, stream);
    let stream = timeout(CONNECT_TIMEOUT, handshake)
        .await
        .map_err(|_| failed(format!("{}: TLS handshake timeout", address())))?
        .map_err(|error| network(format!("Get \"{}\": tls: {error}", url.with_path("/v2/"))))?;
    exchange(url, TokioIo::new(stream), request).await
}

async fn exchange<S>(
    url: &Url,
    stream: TokioIo<S>,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, ImageError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let method = request.method().as_str();
    let method = format!("{}{}", &method[..1], method[1..].to_ascii_lowercase());
    let failed = |reason: String| network(format!("{method} \"{url}\": {reason}"));
    let (mut sender, connection) = http1::handshake(stream)
        .await
        .map_err(|error| failed(chain(&error)))?;
    // Ends with the response's body, or when that is dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "registry connection ended");
        }
    });
    timeout(ANSWER_TIMEOUT, sender.send_request(request))
        .await
        .map_err(|_| failed("net/http: timeout awaiting response headers".to_owned()))?
        .map_err(|error| failed(chain(&error)))
}

fn tls() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let make = || {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "cannot read a system certificate");
        }
        roots.add_parsable_certificates(found.certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring provides the suites of TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    };
    Arc::clone(CONFIG.get_or_init(make))
}

/// Go's words for the usual reasons.
fn dial_reason(url: &Url, error: &io::Error) -> String {
    let address = format!("{}:{}", url.host, url.port());
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("{address}: connect: connection refused"),
        io::ErrorKind::NetworkUnreachable => format!("{address}: connect: network is unreachable"),
        io::ErrorKind::HostUnreachable => format!("{address}: connect: no route to host"),
        io::ErrorKind::TimedOut => format!("{address}: i/o timeout"),
        // Only the resolver's errors have no errno.
        _ if error.raw_os_error().is_none() => format!("lookup {}: no such host", url.host),
        _ => format!("{address}: {error}"),
    }
}

/// An error with its causes on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
