//! One client's connection below HTTP.
//!
//! Docker's attach and exec hijack a connection also when the client didn't send `Upgrade`, and then answer
//! `200 OK` followed by raw bytes. hyper hands a connection over only after `Upgrade` and `101`, so the head of
//! such a request gets an `Upgrade` line on its way in ([`PLAIN_MARK`] says so), and the `101` of its answer
//! becomes `200` on its way out. Only the first request of a connection is treated so: clients that hijack
//! open a connection for it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

/// Header that marks a request whose client didn't ask for an upgrade.
pub(crate) const PLAIN_MARK: &str = "x-atoll-plain-hijack";

/// Longest head that is looked at; a longer one is left to hyper, which refuses it.
const MAX_HEAD: usize = 64 << 10;

const INSERTED: &[u8] = b"Upgrade: tcp\r\nx-atoll-plain-hijack: 1\r\n";
const STATUS_101: &[u8; 12] = b"HTTP/1.1 101";
const STATUS_200: &[u8; 12] = b"HTTP/1.1 200";

/// The socket itself.
#[derive(Debug)]
pub(crate) enum Stream {
    /// From the Unix listener.
    Unix(UnixStream),
    /// From the TCP listener.
    Tcp(TcpStream),
}

/// A connection that replays what was read ahead, and rewrites the status of a plain hijack.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    ahead: Bytes,
    /// Bytes of the status still to be looked at on their way out; 0 when nothing is to be rewritten.
    status_left: usize,
}

impl Connection {
    /// Reads the first head and prepares a plain hijack if it asks for one.
    ///
    /// # Errors
    /// When the socket fails.
    pub(crate) async fn open(mut stream: Stream) -> io::Result<Self> {
        let mut ahead = BytesMut::with_capacity(1024);
        let head_len = loop {
            if let Some(end) = find_head_end(&ahead) {
                break Some(end);
            }
            if ahead.len() >= MAX_HEAD || stream.read_buf(&mut ahead).await? == 0 {
                break None;
            }
        };
        let is_plain = head_len.is_some_and(|len| is_plain_hijack(&ahead[..len]));
        if is_plain && let Some(line_end) = ahead.windows(2).position(|pair| pair == b"\r\n") {
            let rest = ahead.split_off(line_end + 2);
            ahead.extend_from_slice(INSERTED);
            ahead.extend_from_slice(&rest);
        }
        let status_left = if is_plain { STATUS_101.len() } else { 0 };
        Ok(Self {
            stream,
            ahead: ahead.freeze(),
            status_left,
        })
    }

    /// Puts `bytes`, which were read too early, back in front.
    pub(crate) fn unread(&mut self, bytes: Bytes) {
        if self.ahead.is_empty() {
            self.ahead = bytes;
        } else if !bytes.is_empty() {
            let mut joined = BytesMut::from(&bytes[..]);
            joined.extend_from_slice(&self.ahead);
            self.ahead = joined.freeze();
        }
    }
}

fn find_head_end(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map(|at| at + 4)
}

/// Whether `head` is a POST to attach or exec start without `Upgrade`.
fn is_plain_hijack(head: &[u8]) -> bool {
    let Ok(head) = std::str::from_utf8(head) else {
        return false;
    };
    let mut lines = head.split("\r\n");
    let mut request = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (request.next(), request.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let mut segments = path.rsplit('/');
    let (last, _, kind) = (segments.next(), segments.next(), segments.next());
    let hijacks = matches!((kind, last), (Some("containers"), Some("attach")))
        || matches!((kind, last), (Some("exec"), Some("start")));
    let has_upgrade = lines.any(|line| {
        line.split_once(':')
            .is_some_and(|(name, _)| name.eq_ignore_ascii_case("upgrade"))
    });
    method == Some("POST") && hijacks && !has_upgrade
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let len = this.ahead.len().min(buf.remaining());
        buf.put_slice(&this.ahead[..len]);
        this.ahead.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.status_left == 0 {
            return Pin::new(&mut this.stream).poll_write(cx, buf);
        }
        let done = STATUS_101.len() - this.status_left;
        let len = buf.len().min(this.status_left);
        let is_switch = buf[..len] == STATUS_101[done..done + len];
        if !is_switch {
            this.status_left = 0;
            return Pin::new(&mut this.stream).poll_write(cx, buf);
        }
        let replaced = &STATUS_200[done..done + len];
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, replaced))?;
        this.status_left -= written;
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.status_left == 0 {
            return Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        }
        let first = bufs
            .iter()
            .find(|buf| !buf.is_empty())
            .map_or(&[][..], |buf| &**buf);
        Pin::new(this).poll_write(cx, first)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[test]
    fn plain_hijacks_are_recognised() {
        let plain = |text: &str| is_plain_hijack(text.as_bytes());
        assert!(plain(
            "POST /v1.41/containers/x/attach?stream=1 HTTP/1.1\r\nHost: d\r\n\r\n"
        ));
        assert!(plain("POST /exec/x/start HTTP/1.1\r\n\r\n"));
        assert!(!plain(
            "POST /exec/x/start HTTP/1.1\r\nUPGRADE: tcp\r\n\r\n"
        ));
        assert!(!plain("POST /containers/x/start HTTP/1.1\r\n\r\n"));
        assert!(!plain("GET /containers/x/attach HTTP/1.1\r\n\r\n"));
        assert!(!is_plain_hijack(&[0xff, 0xfe]));
        assert!(!plain(""));
    }

    #[tokio::test]
    async fn plain_hijack_is_rewritten_both_ways() {
        let (server, mut client) = UnixStream::pair().unwrap();
        client
            .write_all(b"POST /containers/x/attach HTTP/1.1\r\nA: b\r\n\r\nstdin")
            .await
            .unwrap();
        let mut connection = Connection::open(Stream::Unix(server)).await.unwrap();
        let mut seen = vec![0; 512];
        let len = connection.read(&mut seen).await.unwrap();
        let text = String::from_utf8_lossy(&seen[..len]).into_owned();
        assert!(text.contains("HTTP/1.1\r\nUpgrade: tcp\r\nx-atoll-plain-hijack: 1\r\nA: b"));
        assert!(text.ends_with("\r\n\r\nstdin"));
        connection
            .write_all(b"HTTP/1.1 101 OK\r\n\r\nout HTTP/1.1 101")
            .await
            .unwrap();
        let len = client.read(&mut seen).await.unwrap();
        let mut got = seen[..len].to_vec();
        while got.len() < 35 {
            let len = client.read(&mut seen).await.unwrap();
            got.extend_from_slice(&seen[..len]);
        }
        assert_eq!(got, b"HTTP/1.1 200 OK\r\n\r\nout HTTP/1.1 101");
    }
}
