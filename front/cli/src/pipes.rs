//! Our standard streams, each served by a thread of its own so that none ever blocks another.
//!
//! The threads end with their channels, or with the process while they wait for a terminal.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::error::Error;
use crate::frames::Stream;

const CHUNK_BYTES: usize = 64 << 10;
const CHUNKS_WAITING: usize = 16;

/// Reads `source` to its end, chunk by chunk.
///
/// # Errors
/// [`Error::Io`] when no thread can be started.
pub(crate) fn read(
    source: impl AsFd + Send + 'static,
) -> Result<mpsc::Receiver<io::Result<Bytes>>, Error> {
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING);
    let work = move || {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let chunk = match rustix::io::read(source.as_fd(), &mut buffer) {
                Ok(0) => break,
                Ok(length) => Ok(Bytes::copy_from_slice(&buffer[..length])),
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => {
                    wait_readable(source.as_fd());
                    continue;
                }
                Err(errno) => Err(errno.into()),
            };
            let is_last = chunk.is_err();
            if sender.blocking_send(chunk).is_err() || is_last {
                break;
            }
        }
    };
    std::thread::Builder::new()
        .name("input".to_owned())
        .spawn(work)
        .map_err(Error::io("start a thread"))?;
    Ok(receiver)
}

/// Our standard input, whose descriptor outlives everything.
pub(crate) struct Stdin;

impl AsFd for Stdin {
    fn as_fd(&self) -> BorrowedFd<'_> {
        rustix::stdio::stdin()
    }
}

/// Writes to our standard output and error, in the order given.
pub(crate) struct Output {
    sender: mpsc::Sender<(Stream, Bytes)>,
    result: oneshot::Receiver<io::Result<()>>,
}

impl Output {
    /// Starts the writing thread.
    ///
    /// # Errors
    /// [`Error::Io`] when no thread can be started.
    pub(crate) fn start() -> Result<Self, Error> {
        let (sender, mut receiver) = mpsc::channel::<(Stream, Bytes)>(CHUNKS_WAITING);
        let (tell, result) = oneshot::channel();
        let work = move || {
            let mut outcome = Ok(());
            while let Some((stream, bytes)) = receiver.blocking_recv() {
                let fd = match stream {
                    Stream::Out => rustix::stdio::stdout(),
                    Stream::Err => rustix::stdio::stderr(),
                };
                outcome = write_all(fd, &bytes);
                if outcome.is_err() {
                    break;
                }
            }
            // Nobody to tell is fine: the verb has ended already.
            let _ = tell.send(outcome);
        };
        std::thread::Builder::new()
            .name("output".to_owned())
            .spawn(work)
            .map_err(Error::io("start a thread"))?;
        Ok(Self { sender, result })
    }

    /// Queues bytes; waits while much is waiting already. `false` when the reader has gone.
    pub(crate) async fn write(&self, stream: Stream, bytes: Bytes) -> bool {
        self.sender.send((stream, bytes)).await.is_ok()
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// [`Error::Io`] when writing failed.
    pub(crate) async fn finish(self) -> Result<(), Error> {
        drop(self.sender);
        match self.result.await {
            Ok(outcome) => outcome.map_err(Error::io("write output")),
            Err(_) => Ok(()),
        }
    }
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => wait_writable(fd),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn wait_readable(fd: BorrowedFd<'_>) {
    wait(fd, rustix::event::PollFlags::IN);
}

fn wait_writable(fd: BorrowedFd<'_>) {
    wait(fd, rustix::event::PollFlags::OUT);
}

/// Waits for a stream that somebody has made non-blocking; an error shows at the next read.
fn wait(fd: BorrowedFd<'_>, flags: rustix::event::PollFlags) {
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(fd, flags)];
    let _ = rustix::event::poll(&mut fds, None);
}
