//! What is fetched ahead for an image: the bytes of its pack, or the spans that its prefetch artifacts name.
//!
//! Owns nothing: the queue is the engine's, a pack on its way is its task's. What must always hold: nobody waits for anything
//! here; whatever goes wrong, the layers stay as they are.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use soci_core::digest::Digest;
use soci_core::image::Descriptor;
use soci_core::prefetch::PrefetchSpan;
use soci_core::units::{ByteRange, SpanId};
use soci_core::ztoc::Ztoc;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::JoinHandle;

use super::launch::ChosenPack;
use super::source::{Indexed, parse_artifact};
use super::{AT_ONCE, ImageContext, SMALL_THINGS_FIRST};
use crate::engine::{Hold, Order, Stream};
use crate::layer::{Layer, LayerError};
use crate::pack::{self, Opened, PackFailure, PackSource, Target};
use crate::span::chain;

/// Places of one artifact that are looked at: an artifact may name a span again and again. Each span is queued once.
const MAX_PLACES: usize = 1 << 20;

/// A prefetch artifact on its way. Until it is queued all prefetch waits, so that the queue is in order from its start.
type FetchedArtifact = (Digest, JoinHandle<Result<(Bytes, OwnedSemaphorePermit), LayerError>>, Hold);

impl ImageContext {
    /// Brings the pack, without anybody waiting for its end. If it fails, the prefetch artifacts take its place.
    /// `promised` is told when readers wait for what it brings.
    pub(crate) fn spawn_pack(
        self: &Arc<Self>,
        chosen: ChosenPack,
        stream: Stream,
        promised: Option<oneshot::Sender<()>>,
    ) {
        let this = Arc::clone(self);
        let ChosenPack { source: pack, by, workload, .. } = chosen;
        self.account.pack_begins(pack.digest, &workload, &by, pack.blob.size);
        self.services.engine.runtime().spawn(async move {
            let stats = &this.services.stats;
            let brought = this.bring_pack(&pack, &stream, promised).await;
            let failure = brought.as_ref().err().map(|error| chain(error));
            this.account.pack_ends(&pack.digest, failure);
            let image = &this.request.reference;
            let Err(error) = brought else {
                stats.packs.inc();
                return tracing::info!(%image, digest = %pack.digest, workload, "pack is here");
            };
            stats.pack_failures.inc();
            // The next container may have more luck.
            this.begun.lock().remove(&pack.digest);
            tracing::warn!(%image, digest = %pack.digest, workload, error = %chain(&error), "pack failed, continuing without");
            drop(stream);
            let Ok(Some(index)) = this.index().await else { return };
            for (indexed, cell) in &index.layers {
                // A pack may fail before the layers are ready.
                if let Ok(layer) = this.ready(indexed, cell).await {
                    this.queue(&layer, indexed.position, this.artifacts(indexed));
                }
            }
        });
    }

    async fn bring_pack(
        &self,
        pack: &PackSource,
        stream: &Stream,
        promised: Option<oneshot::Sender<()>>,
    ) -> Result<(), PackFailure> {
        let layers = self.layers().await.map_err(|_| PackFailure::Over)?;
        let fetcher = self.source.repository.range_fetcher(pack.blob.digest, pack.blob.size);
        // An earlier process may have stored the head. If not, its failure to do so is not one of the pack.
        let stored = self.source.stored(pack.head.digest, pack.head.size).await;
        let (opened, raw) = match stored.ok().flatten() {
            Some(raw) => (Opened::stored(pack, raw).await?.0, None),
            None => Opened::fetch(pack, &fetcher, stream).await.map(|(opened, raw)| (opened, Some(raw)))?,
        };
        let keep = async {
            if let Some(raw) = raw
                && let Err(error) = self.source.keep(raw).await
            {
                tracing::warn!(digest = %pack.digest, error = %chain(&error), "head of the pack was not stored");
            }
        };
        let target = Target {
            image: self.request.manifest_digest,
            layers: layers.iter().map(|layer| layer.digest).collect(),
            lazy: Box::pin(self.lazy_layers()),
            mounted: self.options.pack.page_cache.then(|| self.services.mounted.subscribe()),
            packed: Arc::clone(&self.account.packed),
            promised,
        };
        let bring = pack::bring(opened, &fetcher, target, stream, &self.services.stats);
        tokio::join!(bring, keep).0
    }

    /// The layers that are served lazily, when all are ready.
    async fn lazy_layers(&self) -> HashMap<Digest, Arc<Layer>> {
        let Ok(Some(index)) = self.index().await else { return HashMap::new() };
        let all = futures_util::stream::iter(0..index.layers.len());
        let ready = all.map(|at| async move {
            let (indexed, cell) = &index.layers[at];
            let layer = self.ready(indexed, cell).await.ok()?;
            Some((indexed.layer, layer))
        });
        ready.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
    }

    /// Starts to fetch the layer's artifacts.
    pub(crate) fn artifacts(&self, indexed: &Indexed) -> Vec<FetchedArtifact> {
        if !self.options.prefetch {
            return Vec::new();
        }
        let fetch = |descriptor: &Descriptor| {
            let (source, descriptor) = (self.source.clone(), descriptor.clone());
            let digest = descriptor.digest;
            tracing::info!(image = %self.request.reference, %digest, "loading prefetch artifact");
            let fetched = self.services.engine.runtime().spawn(async move {
                let room = source.tables.artifact(descriptor.size).await?;
                Ok((source.artifact(&descriptor).await?, room))
            });
            (digest, fetched, self.services.engine.hold())
        };
        indexed.artifacts.iter().map(fetch).collect()
    }

    /// Puts the layer's artifacts into the queue as they come. Whatever goes wrong, the layer stays as it is.
    pub(crate) fn queue(&self, layer: &Arc<Layer>, position: u32, artifacts: Vec<FetchedArtifact>) {
        for (digest, mut fetched, hold) in artifacts {
            let spans = Arc::downgrade(layer);
            let (services, image) = (Arc::clone(&self.services), self.number);
            self.services.engine.runtime().spawn(async move {
                let mut hold = Some(hold);
                let raw = if let Ok(raw) = tokio::time::timeout(SMALL_THINGS_FIRST, &mut fetched).await {
                    raw
                } else {
                    drop(hold.take());
                    fetched.await
                };
                let raw = raw.map_err(|_| LayerError::CutOff).and_then(|raw| raw);
                let Some(layer) = spans.upgrade() else { return };
                // On another thread: an artifact may have a million ranges, and name as many spans.
                let queued = tokio::task::spawn_blocking(move || {
                    let queued = raw.and_then(|(raw, _room)| {
                        let ztoc = layer.spans().ztoc();
                        let artifact = parse_artifact(digest, &raw, ztoc)?;
                        let places = artifact
                            .prefetch_spans
                            .iter()
                            .flat_map(|range| spans_of(range, ztoc).map(|span| (range.priority, span)));
                        let spans = earliest(places.take(MAX_PLACES)).map(|(span, (priority, at))| {
                            let order = Order { priority, image, layer: position, position: at };
                            (order, SpanId(span))
                        });
                        services.engine.prefetch(layer.spans(), spans);
                        Ok(artifact.prefetch_spans.len())
                    });
                    match queued {
                        Ok(ranges) => {
                            services.stats.prefetch_artifacts.inc();
                            tracing::info!(%digest, ranges, "successfully loaded prefetch artifact");
                        }
                        Err(error) => {
                            services.stats.prefetch_artifact_failures.inc();
                            tracing::warn!(%digest, error = %chain(&error), "failed to execute prefetch, continuing without prefetch");
                        }
                    }
                });
                let _ = queued.await;
                drop(hold);
            });
        }
    }
}

/// Each span once, with its lowest priority and, among those, its first place.
fn earliest(places: impl Iterator<Item = (u64, u32)>) -> impl Iterator<Item = (u32, (u64, u32))> {
    let mut first: HashMap<u32, (u64, u32)> = HashMap::new();
    for (at, (priority, span)) in (0..).zip(places) {
        let place = (priority, at);
        first.entry(span).and_modify(|known| *known = place.min(*known)).or_insert(place);
    }
    first.into_iter()
}

/// The spans, of whatever index the layer is served with, that hold what an artifact names in spans of the layer's zTOC.
fn spans_of(named: &PrefetchSpan, ztoc: &Ztoc) -> Box<dyn Iterator<Item = u32>> {
    let coarse = ztoc.coarse();
    if coarse.is_empty() {
        return Box::new(named.start_span..=named.end_span);
    }
    let plain: Vec<ByteRange> = if named.ranges.is_empty() {
        let start = |span: u32| coarse.get(span as usize).copied().unwrap_or(ztoc.uncompressed_size());
        vec![ByteRange::new(start(named.start_span), start(named.end_span.saturating_add(1)))]
    } else {
        named.ranges.iter().map(|range| ByteRange::new(range[0], range[1])).collect()
    };
    let spans: Vec<_> = plain.iter().map(|range| ztoc.spans().spans_covering(*range)).collect();
    Box::new(spans.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_queued_once_where_it_is_needed_first() {
        let places = [(5, 1), (2, 7), (5, 1), (1, 1), (1, 1), (2, 7)];
        let mut queued: Vec<_> = earliest(places.into_iter()).collect();
        queued.sort_unstable();
        assert_eq!(queued, [(1, (1, 3)), (7, (2, 1))]);
    }
}
