//! Listeners and connections: accepts, serves HTTP/1.1, and puts dockerd's headers on every answer.

use std::{
    convert::Infallible, fs, io, net::SocketAddr, os::unix::fs::PermissionsExt as _,
    panic::AssertUnwindSafe, path::Path,
};

use futures_util::FutureExt as _;
use http::{HeaderValue, Method, header::HeaderName};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, UnixListener};

use super::{
    body::Body,
    connection::{Connection, Stream},
    request::Request,
    response::{self, Response},
    router,
    version::MAX_VERSION,
};
use crate::{
    engine::EngineRef,
    error::{Error, Result},
};

/// Mode of the API's socket: root and its group.
const SOCKET_MODE: u32 = 0o660;

/// A bound listener.
#[derive(Debug)]
pub(crate) enum Listener {
    /// A Unix socket.
    Unix(UnixListener),
    /// A loopback TCP socket.
    Tcp(TcpListener),
}

impl Listener {
    /// Binds a Unix socket at `path`; a socket file nobody listens on is replaced.
    ///
    /// # Errors
    /// When somebody listens there, or the directory isn't writable.
    pub(crate) fn unix(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        if path.exists() {
            if crate::sockets::connect(path).is_ok() {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another program listens",
                ));
            }
            fs::remove_file(path)?;
        }
        let listener = crate::sockets::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
        listener.set_nonblocking(true)?;
        Ok(Self::Unix(UnixListener::from_std(listener)?))
    }

    /// Binds a TCP socket.
    ///
    /// # Errors
    /// When the address is taken.
    pub(crate) async fn tcp(address: SocketAddr) -> io::Result<Self> {
        Ok(Self::Tcp(TcpListener::bind(address).await?))
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
            Self::Tcp(listener) => {
                let stream = listener.accept().await?.0;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

/// Accepts for as long as the engine runs.
pub(crate) async fn serve(listener: Listener, engine: EngineRef) {
    loop {
        match listener.accept().await {
            Ok(stream) => {
                let engine = EngineRef::clone(&engine);
                tokio::spawn(serve_connection(stream, engine));
            }
            Err(error) => {
                // Out of file descriptors: let connections end instead of spinning.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(stream: Stream, engine: EngineRef) {
    let Ok(connection) = Connection::open(stream).await else {
        return;
    };
    let service = service_fn(move |request| {
        let engine = EngineRef::clone(&engine);
        async move { Ok::<_, Infallible>(answer(engine, request).await) }
    });
    let served = http1::Builder::new()
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(connection), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended");
    }
}

async fn answer(engine: EngineRef, request: http::Request<Incoming>) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let handled = AssertUnwindSafe(handle(engine, request))
        .catch_unwind()
        .await;
    let result = handled.unwrap_or_else(|_| {
        Err(Error::internal(
            "the engine failed on this request; its log says where",
        ))
    });
    let mut response = result.unwrap_or_else(|error| {
        tracing::debug!(%method, path, error = %error, "request refused");
        response::from_error(&error)
    });
    if method == Method::HEAD {
        *response.body_mut() = Body::empty();
    }
    tracing::debug!(%method, path, status = response.status().as_u16(), "request");
    common_headers(&mut response);
    response
}

async fn handle(engine: EngineRef, request: http::Request<Incoming>) -> Result<Response> {
    let request = Request::new(request)?;
    router::route(engine, request).await
}

fn common_headers(response: &mut Response) {
    let headers = response.headers_mut();
    let mut put = |name: &'static str, value: HeaderValue| {
        headers.insert(HeaderName::from_static(name), value);
    };
    if let Ok(version) = HeaderValue::from_str(&MAX_VERSION.to_string()) {
        put("api-version", version);
    }
    put("docker-experimental", HeaderValue::from_static("false"));
    put("ostype", HeaderValue::from_static("linux"));
    put(
        "server",
        HeaderValue::from_static(concat!("Atoll/", env!("CARGO_PKG_VERSION"), " (linux)")),
    );
}
