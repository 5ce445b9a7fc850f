//! An attached process: its streams, its terminal's size, its signals.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::client::{Client, Hijacked, Target};
use crate::detach_keys::DetachKeys;
use crate::error::{Error, Message};
use crate::frames::Frames;
use crate::pipes::{self, Output, Stdin};
use crate::terminal;

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The process closed its output.
    Output,
    /// The user typed the detach keys.
    Detached,
}

/// What a session connects.
pub(crate) struct Streams {
    /// Whether our standard input goes to the process.
    pub(crate) stdin: bool,
    /// Whether the process has a terminal: no frames, and detach keys count.
    pub(crate) is_tty: bool,
    /// Keys that leave a terminal.
    pub(crate) detach_keys: DetachKeys,
}

/// Copies until the process closes its output or the user detaches.
///
/// The end of our input closes the process's input while its output goes on.
///
/// # Errors
/// [`Error::Io`] when our output can't be written, [`Error::Answer`] when the engine sends no
/// frames.
pub(crate) async fn copy(connection: Hijacked, streams: Streams) -> Result<Ended, Error> {
    let (reader, writer) = tokio::io::split(connection);
    let input = async {
        if streams.stdin {
            let keys = streams.is_tty.then_some(streams.detach_keys);
            if send_input(writer, pipes::read(Stdin)?, keys).await {
                return Ok(Ended::Detached);
            }
            std::future::pending().await
        } else {
            // The writing half must stay open: closing it would end the process's input.
            let _writer = writer;
            std::future::pending().await
        }
    };
    tokio::select! {
        ended = receive_output(reader, streams.is_tty) => ended.map(|()| Ended::Output),
        detached = input => detached,
    }
}

/// Sends our input; `true` when the detach keys were typed, else the input has ended.
async fn send_input(
    mut writer: WriteHalf<Hijacked>,
    mut chunks: mpsc::Receiver<std::io::Result<Bytes>>,
    mut keys: Option<DetachKeys>,
) -> bool {
    // Errors end the input: of ours as its end, of the process's as its end of interest.
    while let Some(Ok(chunk)) = chunks.recv().await {
        let (chunk, is_detached) = match &mut keys {
            Some(keys) => {
                let (passed, is_detached) = keys.filter(&chunk);
                (Bytes::from(passed), is_detached)
            }
            None => (chunk, false),
        };
        if writer.write_all(&chunk).await.is_err() {
            break;
        }
        if is_detached {
            return true;
        }
    }
    let _ = writer.shutdown().await;
    false
}

async fn receive_output(mut reader: ReadHalf<Hijacked>, is_tty: bool) -> Result<(), Error> {
    let output = Output::start()?;
    let mut frames = Frames::new(is_tty);
    loop {
        frames.buffer().reserve(64 << 10);
        // A connection that breaks is the end of output; the exit code tells the rest.
        let length = reader.read_buf(frames.buffer()).await.unwrap_or(0);
        if length == 0 {
            break;
        }
        while let Some((stream, bytes)) = frames.next().map_err(|bad| Error::Answer {
            action: "attach".to_owned(),
            message: Message(bad.to_string()),
        })? {
            if !output.write(stream, bytes).await {
                return output.finish().await;
            }
        }
    }
    output.finish().await
}

/// Tells the engine the terminal's size now and whenever it changes.
///
/// * `target`: `/containers/<id>/resize` or `/exec/<id>/resize`.
///
/// # Errors
/// [`Error::Io`] when the signal can't be caught.
pub(crate) fn follow_size(client: &Client, target: Target) -> Result<Background, Error> {
    let mut changes = signal(SignalKind::window_change()).map_err(Error::io("catch SIGWINCH"))?;
    let client = client.clone();
    Ok(Background(tokio::spawn(async move {
        loop {
            if let Some((rows, columns)) = terminal::size() {
                let target = target.clone().with("h", rows).with("w", columns);
                // A process that has just ended has no size.
                let _ = client.post("resize the terminal", &target, None).await;
            }
            if changes.recv().await.is_none() {
                break;
            }
        }
    })))
}

/// Passes signals sent to us on to the container.
///
/// # Errors
/// [`Error::Io`] when a signal can't be caught.
pub(crate) fn pass_signals(client: &Client, container: &str) -> Result<Vec<Background>, Error> {
    let signals = [
        (SignalKind::hangup(), "HUP"),
        (SignalKind::interrupt(), "INT"),
        (SignalKind::quit(), "QUIT"),
        (SignalKind::terminate(), "TERM"),
        (SignalKind::user_defined1(), "USR1"),
        (SignalKind::user_defined2(), "USR2"),
    ];
    let mut tasks = Vec::with_capacity(signals.len());
    for (kind, name) in signals {
        let mut arrivals = signal(kind).map_err(Error::io(format!("catch SIG{name}")))?;
        let client = client.clone();
        let target = Target::object("containers", container, "kill").with("signal", name);
        tasks.push(Background(tokio::spawn(async move {
            while arrivals.recv().await.is_some() {
                // A container that has just ended takes no signal.
                let _ = client.post("send a signal", &target, None).await;
            }
        })));
    }
    Ok(tasks)
}

/// A task that ends when this is dropped.
pub(crate) struct Background(JoinHandle<()>);

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}
