//! Making the layers of an image ready, all at once, and what is fetched for each before it is.
//!
//! Stateless: a layer that is ready is in its cell of the image's index. What must always hold: a layer waits for its own table only;
//! a failure is met by whoever asks for the layer.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use soci_core::image::Descriptor;
use soci_core::index::DEFAULT_MIN_LAYER_SIZE;
use soci_core::registry::RangeFetcher;
use soci_core::ztoc::Ztoc;
use tokio::sync::OnceCell;

use super::companions::Companions;
use super::source::Indexed;
use super::{AT_ONCE, ImageContext, SMALL_THINGS_FIRST};
use crate::layer::{Layer, LayerError};
use crate::span::chain;

impl ImageContext {
    /// Finds everything and makes all layers ready. Failures are logged here and met again by whoever asks for the layer.
    pub(crate) async fn start(self: &Arc<Self>) {
        let before_prefetch = self.services.engine.hold();
        let mut all = pin!(self.make_ready());
        if tokio::time::timeout(SMALL_THINGS_FIRST, &mut all).await.is_err() {
            drop(before_prefetch);
            all.await;
        }
    }

    async fn make_ready(self: &Arc<Self>) {
        // All begin now: none needs the others. The pack is neither behind the index nor behind the fine indexes, which are larger
        // than what it begins with.
        let is_new = self.request.companions == Companions::Discover;
        let ahead = async {
            if is_new {
                tokio::join!(self.config_ahead(), self.start_pack());
            }
        };
        let (_, _, (), ()) = tokio::join!(self.companions(), self.fine(), ahead, self.make_layers_ready());
    }

    /// Fetches the configuration if some layer will probably be fetched whole: one that is too small for a zTOC, when no pack has
    /// what a start needs of it. Failures are met by whoever needs it.
    async fn config_ahead(&self) {
        let is_small = |layer: &Descriptor| layer.size < DEFAULT_MIN_LAYER_SIZE;
        if self.image_manifest().await.is_ok_and(|manifest| manifest.layers.iter().any(is_small))
            && matches!(self.pack().await, Ok(None))
        {
            let _ = self.manifest().await;
        }
    }

    pub(super) async fn start_pack(self: &Arc<Self>) {
        if let Ok(Some(pack)) = self.pack().await {
            self.begin(pack.clone(), None);
        }
    }

    async fn make_layers_ready(&self) {
        let index = match self.index().await {
            Ok(Some(index)) => index,
            Ok(None) => {
                self.account.remark("the image has no SOCI index that may be used");
                return tracing::info!(image = %self.request.reference, "image has no usable soci index");
            }
            Err(error) => {
                self.account.remark(format!("its SOCI index cannot be had: {}", chain(&error)));
                return tracing::warn!(image = %self.request.reference, error = %chain(&error), "soci index not found");
            }
        };
        let all = futures_util::stream::iter(&index.layers);
        let ready = all.for_each_concurrent(AT_ONCE, |(indexed, cell)| async move {
            if let Err(error) = self.ready(indexed, cell).await {
                tracing::warn!(image = %self.request.reference, layer = %indexed.layer, error = %chain(&error), "layer cannot be lazy");
            }
        });
        ready.await;
    }

    pub(crate) async fn ready(
        &self,
        indexed: &Indexed,
        cell: &OnceCell<Arc<Layer>>,
    ) -> Result<Arc<Layer>, LayerError> {
        let layer = cell.get_or_try_init(|| async {
            // Artifacts are small: they are asked for first, and waited for by nobody. A pack has all that they name.
            let artifacts = if self.pack().await?.is_some() { Vec::new() } else { self.artifacts(indexed) };
            let ztoc = if let Some(table) = self.fine_table(indexed).await? {
                table
            } else {
                let begun = Instant::now();
                let ztoc = self.source.ztoc(indexed).await;
                self.services.stats.table_fetches.observe(begun.elapsed());
                ztoc?
            };
            let name = format!("{}/{}", self.source.repository.host(), self.source.repository.name());
            let fetcher = self.source.repository.range_fetcher(indexed.layer, indexed.size);
            self.check_parts(indexed, &fetcher).await?;
            let windows = ztoc.windows().map(|windows| (windows.digest(), windows.size()));
            let layer = Arc::clone(&self.services).layer(indexed.layer, ztoc).await?;
            let tally = layer.spans().tally();
            self.account.serves(indexed.layer, tally);
            // Spans are counted for the layer, which other images may have, too.
            let metered = self.source.repository.metered(&tally.meter);
            let fetcher = metered.range_fetcher(indexed.layer, indexed.size);
            let windows = windows.map(|(digest, size)| metered.range_fetcher(digest, size));
            layer.spans().add_source(&name, fetcher, windows);
            self.queue(&layer, indexed.position, artifacts);
            self.services.engine.background(layer.spans());
            Ok::<_, LayerError>(layer)
        });
        layer.await.cloned()
    }

    /// Fails when the registry gives no parts of the layer. It has told so, as a rule, with the first blob that was fetched; only
    /// a yes or no counts, and what was lazy before stays so.
    async fn check_parts(&self, indexed: &Indexed, fetcher: &RangeFetcher) -> Result<(), LayerError> {
        if self.request.companions != Companions::Discover {
            return Ok(());
        }
        let found: BoxFuture<'_, _> = Box::pin(fetcher.find_out_parts());
        match found.await {
            Ok(false) => Err(LayerError::NoParts(indexed.layer)),
            Ok(true) => Ok(()),
            Err(error) => {
                tracing::debug!(layer = %indexed.layer, error = %chain(&error), "not known whether parts can be had");
                Ok(())
            }
        }
    }

    /// The layer's fine index, if there is one that can be used.
    async fn fine_table(&self, indexed: &Indexed) -> Result<Option<Ztoc>, LayerError> {
        let Some(fine) = self.fine().await?.clone() else { return Ok(None) };
        let Some(length) = fine.length(&indexed.layer) else { return Ok(None) };
        let (it, layer) = (Arc::clone(&fine), indexed.layer);
        let opened = self.source.tables.open(length, move || it.open(&layer)).await?;
        Ok(opened.and_then(|opened| fine.fitting(indexed, opened)))
    }
}
