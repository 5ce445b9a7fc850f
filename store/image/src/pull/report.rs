//! Progress of several downloads, told by one voice.

use std::{future::Future, pin::pin};

use tokio::sync::mpsc::UnboundedReceiver;

use crate::{LayerStatus, Progress};

/// A layer's ID and how far it is.
pub(super) type Report = (String, LayerStatus);

/// What the downloads have to say.
pub(super) struct Reports(UnboundedReceiver<Report>);

impl Reports {
    pub(super) fn new(receiver: UnboundedReceiver<Report>) -> Self {
        Self(receiver)
    }

    /// Passes reports on until `work` is done, and those made before its end.
    pub(super) async fn until<T>(
        &mut self,
        work: impl Future<Output = T>,
        progress: &mut (impl FnMut(Progress) + Send),
    ) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                Some((id, status)) = self.0.recv() => progress(Progress::Layer { id, status }),
                result = &mut work => {
                    while let Ok((id, status)) = self.0.try_recv() {
                        progress(Progress::Layer { id, status });
                    }
                    return result;
                }
            }
        }
    }
}
