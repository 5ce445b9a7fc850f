//! Layers on their way from the registry into staging directories.

use std::{collections::HashMap, sync::Arc, time::Duration};

use atoll_layer::{Digest, LayerError, LayerStore, StagedLayer};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{
        Semaphore,
        mpsc::{self, Receiver, Sender, UnboundedSender},
    },
    task::JoinSet,
};

use super::{blocking, report::Report};
use crate::{
    ImageError, LayerStatus, RegistryErrorKind,
    manifest::Descriptor,
    registry::{Repository, network, protocol},
};

/// Layers fetched at the same time, docker's default.
pub(super) const PARALLEL: usize = 3;
/// Attempts in a row that bring nothing.
const MAX_ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Bytes between two reports.
const REPORT_BYTES: u64 = 512 * 1024;
/// Pieces waiting to be unpacked; the pipeline behind has its own queue.
const QUEUE_CHUNKS: usize = 16;

/// Downloads going on; dropping it stops them.
pub(super) struct Downloads {
    tasks: JoinSet<(usize, Result<StagedLayer, ImageError>)>,
    done: HashMap<usize, StagedLayer>,
}

impl Downloads {
    /// Waits for the layer at `place`. The first failure of any layer ends the wait.
    pub(super) async fn next(&mut self, place: usize) -> Result<StagedLayer, ImageError> {
        loop {
            if let Some(staged) = self.done.remove(&place) {
                return Ok(staged);
            }
            match self.tasks.join_next().await {
                Some(Ok((place, result))) => {
                    self.done.insert(place, result?);
                }
                Some(Err(error)) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => return Err(ImageError::Store(LayerError::Interrupted)),
                },
                None => return Err(ImageError::Store(LayerError::Interrupted)),
            }
        }
    }
}

/// Starts to fetch `wanted`, each digest once.
///
/// * `present`: layers below that are in the store already.
pub(super) fn download_all(
    layers: &LayerStore,
    repository: &Arc<Repository>,
    wanted: &[Descriptor],
    present: usize,
    reports: &UnboundedSender<Report>,
) -> Downloads {
    // Fair: permits are given in the order asked for, so the lowest layers come first.
    let permits = Arc::new(Semaphore::new(PARALLEL));
    let mut tasks = JoinSet::new();
    for (place, descriptor) in wanted.iter().enumerate() {
        if wanted[..place]
            .iter()
            .any(|other| other.digest == descriptor.digest)
        {
            continue;
        }
        let download = Download {
            layers: layers.clone(),
            repository: Arc::clone(repository),
            index: present + place + 1,
            digest: descriptor.digest,
            size_bytes: descriptor.size,
            reports: reports.clone(),
        };
        let permits = Arc::clone(&permits);
        tasks.spawn(async move {
            // The semaphore is never closed.
            let _permit = permits.acquire_owned().await;
            (place, download.run().await)
        });
    }
    Downloads {
        tasks,
        done: HashMap::new(),
    }
}

struct Download {
    layers: LayerStore,
    repository: Arc<Repository>,
    /// In the image, from 1, for messages.
    index: usize,
    digest: Digest,
    size_bytes: u64,
    reports: UnboundedSender<Report>,
}

/// What goes to the thread that feeds the unpacking pipeline.
enum Piece {
    Chunk(Bytes),
    End,
}

impl Download {
    async fn run(self) -> Result<StagedLayer, ImageError> {
        let (sender, receiver) = mpsc::channel(QUEUE_CHUNKS);
        let layers = self.layers.clone();
        let index = self.index;
        let unpacking = tokio::spawn(blocking(move || {
            unpack(&layers, receiver).map_err(|source| ImageError::Layer { index, source })
        }));
        let sent = self.transfer(&sender).await;
        drop(sender);
        let unpacked = unpacking.await;
        sent?;
        let staged = match unpacked {
            Ok(Ok(staged)) => staged,
            Ok(Err(error)) => return Err(self.wrong_bytes().await.unwrap_or(error)),
            Err(_) => return Err(ImageError::Store(LayerError::Interrupted)),
        };
        self.report(LayerStatus::VerifyingChecksum);
        if staged.blob_digest != self.digest {
            let name = self.digest.to_string();
            return Err(ImageError::BlobDigest {
                name,
                found: staged.blob_digest,
            });
        }
        self.report(LayerStatus::DownloadComplete);
        Ok(staged)
    }

    /// A blob that could not be unpacked is fetched once more and hashed: bytes that are not those asked for are said to be
    /// so, whatever the unpacker stumbled over.
    async fn wrong_bytes(&self) -> Option<ImageError> {
        let mut body = self.repository.blob(&self.digest, 0).await.ok()?;
        let mut hasher = Sha256::new();
        let mut left = self.size_bytes;
        while left > 0 {
            let chunk = body.next().await.ok()??;
            left = left.checked_sub(chunk.len() as u64)?;
            hasher.update(&chunk);
        }
        let found = Digest::from_bytes(hasher.finalize().into());
        (found != self.digest).then(|| ImageError::BlobDigest {
            name: self.digest.to_string(),
            found,
        })
    }

    /// Fetches the whole blob, going on where a broken connection stopped.
    async fn transfer(&self, sender: &Sender<Piece>) -> Result<(), ImageError> {
        let mut received = 0;
        let mut attempts = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            let before = received;
            match self.attempt(sender, &mut received).await {
                Ok(()) => return Ok(()),
                Err(error) if !is_transient(&error) => return Err(error),
                Err(error) => {
                    if received > before {
                        (attempts, pause) = (0, FIRST_PAUSE);
                    }
                    attempts += 1;
                    if attempts == MAX_ATTEMPTS {
                        return Err(error);
                    }
                    tracing::warn!(blob = %self.digest, received, %error, "download broke; trying again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
            }
        }
    }

    /// Ok also when the unpacking thread has given up, which has its own error.
    async fn attempt(&self, sender: &Sender<Piece>, received: &mut u64) -> Result<(), ImageError> {
        let mut body = self.repository.blob(&self.digest, *received).await?;
        let total_bytes = self.size_bytes;
        let mut reported = *received;
        while *received < total_bytes {
            let Some(chunk) = body.next().await? else {
                return Err(network("unexpected EOF".to_owned()));
            };
            *received += chunk.len() as u64;
            if *received > total_bytes {
                return Err(protocol(format!(
                    "layer {} is longer than its size",
                    self.digest
                )));
            }
            if sender.send(Piece::Chunk(chunk)).await.is_err() {
                return Ok(());
            }
            if *received - reported >= REPORT_BYTES || *received == total_bytes {
                reported = *received;
                self.report(LayerStatus::Downloading {
                    current_bytes: reported,
                    total_bytes,
                });
            }
        }
        let _given_up = sender.send(Piece::End).await;
        Ok(())
    }

    fn report(&self, status: LayerStatus) {
        // Nobody listens any more once another layer has failed.
        let _gone = self.reports.send((self.digest.short(), status));
    }
}

/// Feeds the pipeline on a thread of its own, as it waits for the disk.
fn unpack(layers: &LayerStore, mut pieces: Receiver<Piece>) -> Result<StagedLayer, LayerError> {
    let mut sink = layers.sink()?;
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Chunk(chunk)) => {
                if !sink.feed(chunk) {
                    return sink.finish().wait();
                }
            }
            Some(Piece::End) => return sink.finish().wait(),
            None => return Err(LayerError::Interrupted),
        }
    }
}

fn is_transient(error: &ImageError) -> bool {
    use RegistryErrorKind::{Network, Unavailable};
    matches!(
        error,
        ImageError::Registry {
            kind: Network | Unavailable,
            ..
        }
    )
}
