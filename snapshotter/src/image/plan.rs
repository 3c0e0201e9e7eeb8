//! Finding out what an image is served with: its index, its companions, which layers can be lazy, and its pack.
//!
//! Each result is a value in its own cell of the [`ImageContext`], found once and shared by all who wait for it; a failure is shared
//! by who asks soon after. What must always hold: what can only help is waited for only for a time, and the image starts
//! without.

use std::sync::Arc;
use std::time::Instant;

use soci_core::image::{Descriptor, Manifest};
use soci_core::media_type;
use tokio::sync::OnceCell;

use super::companions::{Companions, FineIndexes};
use super::launch::ChosenPack;
use super::source::{OfIndex, Source};
use super::{ImageContext, Index, SMALL_THINGS_FIRST};
use crate::layer::LayerError;
use crate::span::chain;

impl ImageContext {
    /// Everything that refers to the image. Asked once, also for the index where that is found so.
    pub(super) async fn referrers(&self) -> Result<&[Descriptor], LayerError> {
        let found = self.referrers.or_find(async {
            // Without companions, only indexes are asked for.
            let wanted = (!self.options.pack.asks_for_referrers()).then_some(media_type::SOCI_INDEX_V1);
            self.source.referrers(&self.request.manifest_digest, wanted).await
        });
        found.await.map(Vec::as_slice)
    }

    /// What the image has beside its index and may be used. This and the next two fail only when the image manifest cannot be
    /// had, and wait for a registry only for a time: the image starts without.
    pub(super) async fn companions(&self) -> Result<&[Descriptor], LayerError> {
        let found = self.companions.get_or_try_init(|| {
            Box::pin(async {
                let options = &self.options.pack;
                if let Some(recorded) = self.request.companions.recorded(options) {
                    return Ok(recorded);
                }
                if !options.any() {
                    return Ok(Vec::new());
                }
                self.find_companions().await
            })
        });
        found.await.map(Vec::as_slice)
    }

    /// Looks for what the image has beside its index and may be used.
    pub(super) async fn find_companions(&self) -> Result<Vec<Descriptor>, LayerError> {
        let options = &self.options.pack;
        // What refers to the image is asked for by its digest: that need not wait for the manifest.
        let early = async { if options.asks_for_referrers() { self.referrers().await } else { Ok(&[][..]) } };
        let (manifest, listed) = tokio::join!(self.image_manifest(), early);
        let manifest = manifest?;
        let listed = listed.unwrap_or_else(|error| {
            tracing::warn!(image = %self.request.reference, error = %chain(&error), "referrers cannot be listed");
            &[]
        });
        Ok(self.source.companions(manifest, listed, &self.request.reference, options).await)
    }

    pub(super) async fn fine(&self) -> Result<&Option<Arc<FineIndexes>>, LayerError> {
        let found = self.fine.get_or_try_init(|| {
            Box::pin(async {
                // What an image was served with, its layers are served with again.
                if self.request.companions == Companions::Discover && !self.options.pack.fine {
                    return Ok(None);
                }
                let manifest = self.image_manifest().await?;
                let find = async {
                    let fine = self.source.fine_indexes(manifest, self.companions().await?).await;
                    Ok(fine.map(Arc::new))
                };
                self.in_time("fine indexes", find).await
            })
        });
        found.await
    }

    pub(super) async fn pack(&self) -> Result<&Option<ChosenPack>, LayerError> {
        let found = self.pack.get_or_try_init(|| {
            Box::pin(async {
                let options = &self.options.pack;
                if !options.enable {
                    return Ok(None);
                }
                let manifest = self.image_manifest().await?;
                let find = async { self.choose_pack(manifest, self.companions().await?).await };
                self.in_time("pack", find).await
            })
        });
        found.await
    }

    /// What was found within [`SMALL_THINGS_FIRST`].
    pub(super) async fn in_time<T>(
        &self,
        what: &'static str,
        find: impl Future<Output = Result<Option<T>, LayerError>>,
    ) -> Result<Option<T>, LayerError> {
        tokio::time::timeout(SMALL_THINGS_FIRST, find).await.unwrap_or_else(|_| {
            tracing::warn!(image = %self.request.reference, "{what} not found in time");
            Ok(None)
        })
    }

    pub(super) async fn image_manifest(&self) -> Result<&Manifest, LayerError> {
        self.manifest.or_find(self.source.manifest(self.request.manifest_digest)).await
    }

    pub(crate) async fn index(&self) -> Result<Option<&Index>, LayerError> {
        let found = self.index.or_find(async {
            let manifest = self.image_manifest().await?;
            let allowed = self.options.discovery;
            let named = Source::named_index(manifest, self.request.index_digest, allowed)?;
            let digest = match named {
                Some(named) => Some(named),
                None if allowed.v1 => Source::referring_index(self.referrers().await?),
                None => None,
            };
            let Some(digest) = digest else { return Ok(None) };
            let begun = Instant::now();
            let index = async {
                let index = self.source.index(manifest, digest).await;
                self.services.stats.index_fetches.observe(begun.elapsed());
                index
            };
            let (layers, fine) = tokio::join!(index, self.fine_for_small_layers());
            let Some(OfIndex { mut layers, advised_whole }) = layers? else { return Ok(None) };
            if let Some(fine) = fine? {
                layers.extend(fine.alone(manifest, &layers));
            }
            let advised_whole = self.counts_as_advice(advised_whole).await?;
            if advised_whole {
                tracing::info!(image = %self.request.reference, "a full pull of the image is advised");
                layers.clear();
            }
            let layers = layers.into_iter().map(|indexed| (indexed, OnceCell::new())).collect();
            Ok::<_, LayerError>(Some(Index { digest, advised_whole, layers }))
        });
        Ok(found.await?.as_ref())
    }

    /// Whether the image comes whole, because the pack that the start gets, or without one its index, advises that. What was lazy before
    /// stays so.
    async fn counts_as_advice(&self, of_index: bool) -> Result<bool, LayerError> {
        if !self.options.pack.advice || self.request.companions != Companions::Discover {
            return Ok(false);
        }
        Ok(self.pack().await?.as_ref().map_or(of_index, |pack| pack.advised_whole))
    }

    /// The fine indexes, if layers are to be lazy that have no zTOC, because they are too small. What a start needs of them is in
    /// its pack, and neither their other bytes nor their unpacking keep it waiting. Without a pack they come sooner as a whole.
    /// What was lazy before stays so.
    pub(super) async fn fine_for_small_layers(&self) -> Result<Option<&Arc<FineIndexes>>, LayerError> {
        let is_new = self.request.companions == Companions::Discover;
        if is_new && self.pack().await?.is_none() {
            return Ok(None);
        }
        Ok(self.fine().await?.as_ref())
    }
}
