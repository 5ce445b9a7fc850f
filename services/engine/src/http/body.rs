//! Bodies of answers: whole, or streamed through a bounded channel.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc;

use crate::error::Error;

/// How many chunks a slow client may leave waiting.
const CHANNEL_CHUNKS: usize = 4;

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Body {
    /// All at once; `None` when it has been sent.
    Full(Option<Bytes>),
    /// As it comes; ends when the sender is dropped.
    Stream(mpsc::Receiver<Bytes>),
    /// As it comes, until something fails: the connection is then broken off, so that the client sees that it lacks something.
    Pieces(mpsc::Receiver<Result<Bytes, Error>>),
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
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(receiver) => receiver
                .poll_recv(cx)
                .map(|chunk| chunk.map(|bytes| Ok(Frame::data(bytes)))),
            Self::Pieces(receiver) => receiver.poll_recv(cx).map(|piece| {
                let piece = piece?;
                Some(piece.map(Frame::data).inspect_err(|error| {
                    tracing::warn!(%error, "an answer is broken off");
                }))
            }),
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
            Self::Stream(_) | Self::Pieces(_) => SizeHint::default(),
        }
    }
}
