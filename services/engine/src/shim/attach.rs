//! Clients of a container's streams: those that wait for its start, and the bytes between client and shim.

use std::{
    io,
    path::Path,
    sync::{Mutex, PoisonError},
};

use atoll_shim_protocol::{AttachReply, AttachRequest};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    sync::oneshot,
};

use crate::{http::connection::Connection, sockets};

/// Bytes moved at a time.
const CHUNK: usize = 64 << 10;

/// The sequence that detaches a terminal when the client names no other: ctrl-p ctrl-q.
pub(crate) const DETACH_KEYS: &[u8] = &[16, 17];

/// Clients that attached before the start.
#[derive(Default)]
pub(crate) struct AttachHub {
    waiting: Mutex<Vec<(AttachRequest, oneshot::Sender<UnixStream>)>>,
}

impl AttachHub {
    /// Waits for the next start; the receiver fails when the start does, or the container is removed.
    pub(crate) fn wait(&self, request: AttachRequest) -> oneshot::Receiver<UnixStream> {
        let (sender, receiver) = oneshot::channel();
        self.lock().push((request, sender));
        receiver
    }

    /// Connects all who wait to the shim's `socket`; returns when each is registered there.
    ///
    /// # Errors
    /// When the shim refuses one.
    pub(crate) async fn connect_all(&self, socket: &Path) -> io::Result<()> {
        let waiting = std::mem::take(&mut *self.lock());
        for (request, sender) in waiting {
            if sender.is_closed() {
                continue;
            }
            let stream = connect(socket, &request).await?;
            // A client that went away meanwhile needs nothing.
            let _ = sender.send(stream);
        }
        Ok(())
    }

    /// Sends all who wait away.
    pub(crate) fn dismiss(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(AttachRequest, oneshot::Sender<UnixStream>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects to an attach socket; when this returns, all further output is delivered.
///
/// # Errors
/// When nobody listens or the shim refuses.
pub(crate) async fn connect(socket: &Path, request: &AttachRequest) -> io::Result<UnixStream> {
    let mut stream = sockets::connect_async(socket)?;
    stream.write_all(request.to_line().as_bytes()).await?;
    // Byte by byte would be a system call each; the reply is all the shim sends before output, but output may follow
    // at once, so nothing after the newline may be swallowed.
    let mut line = Vec::with_capacity(64);
    loop {
        let byte = stream.read_u8().await?;
        if byte == b'\n' {
            break;
        }
        line.push(byte);
        if line.len() > 4096 {
            return Err(io::Error::other("the shim's reply is too long"));
        }
    }
    let reply: AttachReply = serde_json::from_slice(&line)?;
    match reply {
        AttachReply { ok: true, .. } => Ok(stream),
        AttachReply { error, .. } => {
            Err(io::Error::other(error.unwrap_or_else(|| "refused".into())))
        }
    }
}

/// Moves bytes between a client and a shim until the output ends, the client goes away, or it detaches.
///
/// The end of the client's input is passed on; output goes on after it.
///
/// * `before_close`: awaited between the end of the output and the moment the client sees it.
///
/// Returns whether the client detached.
pub(crate) async fn proxy(
    client: Connection,
    shim: UnixStream,
    has_stdin: bool,
    detach_keys: Option<Vec<u8>>,
    before_close: impl Future<Output = ()>,
) -> bool {
    let (mut client_read, mut client_write) = tokio::io::split(client);
    let (mut shim_read, mut shim_write) = shim.into_split();
    let output = async {
        let mut chunk = vec![0; CHUNK];
        loop {
            match shim_read.read(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(len) => {
                    if client_write.write_all(&chunk[..len]).await.is_err() {
                        break;
                    }
                }
            }
        }
        before_close.await;
        let _ = client_write.shutdown().await;
    };
    let input = async {
        let mut detacher = detach_keys.map(DetachScanner::new);
        let mut reader = BufReader::with_capacity(CHUNK / 4, &mut client_read);
        loop {
            let chunk = match reader.fill_buf().await {
                Ok([]) | Err(_) => break,
                Ok(chunk) => chunk,
            };
            let len = chunk.len();
            if has_stdin {
                let written = match &mut detacher {
                    None => shim_write.write_all(chunk).await,
                    Some(detacher) => {
                        let (bytes, detached) = detacher.scan(chunk);
                        let written = shim_write.write_all(&bytes).await;
                        if detached {
                            return true;
                        }
                        written
                    }
                };
                if written.is_err() {
                    // The process reads no more; its output may go on.
                    break;
                }
            }
            reader.consume(len);
        }
        if has_stdin {
            let _ = shim_write.shutdown().await;
        }
        std::future::pending().await
    };
    tokio::select! {
        () = output => false,
        detached = input => detached,
    }
}

/// Finds the detach sequence in input that comes in pieces.
struct DetachScanner {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachScanner {
    fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// The bytes to pass on, and whether the sequence is complete.
    fn scan(&mut self, chunk: &[u8]) -> (Vec<u8>, bool) {
        let mut pass = Vec::with_capacity(chunk.len());
        for &byte in chunk {
            if self.keys.get(self.matched) == Some(&byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (pass, true);
                }
                continue;
            }
            pass.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            if self.keys.first() == Some(&byte) {
                self.matched = 1;
            } else {
                pass.push(byte);
            }
        }
        (pass, false)
    }
}

/// Reads `ctrl-p,ctrl-q` and the like; `None` when it isn't a sequence of keys.
pub(crate) fn parse_detach_keys(text: &str) -> Option<Vec<u8>> {
    text.split(',')
        .map(|key| match key.as_bytes() {
            [byte] => Some(*byte),
            _ => {
                let control = key.strip_prefix("ctrl-")?;
                match control.as_bytes() {
                    [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
                    [b'@'] => Some(0),
                    [symbol @ b'['..=b'_'] => Some(symbol - b'[' + 27),
                    _ => None,
                }
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::connection::Stream;

    #[test]
    fn detach_keys_are_read() {
        assert_eq!(parse_detach_keys("ctrl-p,ctrl-q").unwrap(), DETACH_KEYS);
        assert_eq!(parse_detach_keys("a,ctrl-[").unwrap(), [b'a', 27]);
        assert_eq!(parse_detach_keys("ctrl-pq"), None);
        assert_eq!(parse_detach_keys(""), None);
    }

    #[test]
    fn detach_sequence_is_found_across_chunks() {
        let mut scanner = DetachScanner::new(DETACH_KEYS.to_vec());
        assert_eq!(scanner.scan(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(scanner.scan(b"\x10x"), (b"\x10\x10x".to_vec(), false));
        assert_eq!(scanner.scan(b"\x10\x11rest"), (Vec::new(), true));
    }

    #[tokio::test]
    async fn output_goes_on_after_half_close() {
        let (server, mut client) = UnixStream::pair().unwrap();
        let (engine, mut shim) = UnixStream::pair().unwrap();
        let connection = Connection::open(Stream::Unix(server));
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let connection = connection.await.unwrap();
        let moved = tokio::spawn(proxy(connection, engine, true, None, async {}));
        client.write_all(b"input").await.unwrap();
        client.shutdown().await.unwrap();
        let mut seen = Vec::new();
        shim.read_to_end(&mut seen).await.unwrap();
        assert!(seen.ends_with(b"input"));
        shim.write_all(b"output").await.unwrap();
        drop(shim);
        let mut seen = Vec::new();
        client.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, b"output");
        assert!(!moved.await.unwrap());
    }
}
