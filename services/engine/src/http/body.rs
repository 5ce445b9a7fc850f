//! Bodies of answers: whole, or streamed through a bounded channel.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc;

/// How many chunks a slow client may leave waiting.
const CHANNEL_CHUNKS: usize = 4;

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Body {
    /// All at once; `None` when it has been sent.
    Full(Option<Bytes>),
    /// As it comes; ends when the sender is dropped.
    Stream(mpsc::Receiver<Bytes>),
}

/// The writing end of a streamed body. Sending fails when the client has gone.
pub(crate) type BodySender = mpsc::Sender<Bytes>;

impl Body {
    /// A body of nothing.
    pub(crate) fn empty() -> Self {
        Self::Full(None)
    }

    /// A body of `bytes`.
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(Some(bytes.into()))
    }

    /// A streamed body and its writing end.
    pub(crate) fn channel() -> (BodySender, Self) {
        let (sender, receiver) = mpsc::channel(CHANNEL_CHUNKS);
        (sender, Self::Stream(receiver))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(receiver) => receiver
                .poll_recv(cx)
                .map(|chunk| chunk.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Stream(_) => SizeHint::default(),
        }
    }
}
