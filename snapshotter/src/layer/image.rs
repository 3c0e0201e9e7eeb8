//! One image on its way to being served: found once, shared by all who prepare its layers.
//!
//! State: results that succeeded, each in its own cell (single flight). A failure leaves the cell empty, so that a later caller
//! tries again; what all layers need fails once for all of them ([`Found`]). The context keeps its layers alive until the [`super::Node`] drops it for being idle; mounts keep
//! them longer.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use soci_core::digest::Digest;
use soci_core::image::{Descriptor, Manifest};
use soci_core::index::DEFAULT_MIN_LAYER_SIZE;
use soci_core::media_type;
use soci_core::registry::{RangeFetcher, Reference};
use soci_core::ztoc::Ztoc;
use tokio::sync::OnceCell;

use super::companions::{Companions, FineIndexes, PackSource};
use super::found::Found;

use super::resolver::{Indexed, ManifestAndConfig, Source};
use super::services::Services;
use super::{Layer, LayerError};
use crate::span::chain;

/// zTOCs of one image that are fetched at once.
pub(super) const AT_ONCE: usize = 8;
/// How long an image that could not be found out about is left to the runtime: long enough for its other layers.
const NOT_AGAIN: Duration = Duration::from_mins(1);
/// How long an image's zTOCs and artifacts go before all prefetch of the node. A registry that hangs must not stop other images.
pub(super) const SMALL_THINGS_FIRST: Duration = Duration::from_secs(10);

/// Which image is asked for.
#[derive(Clone, Debug)]
pub struct ImageRequest {
    /// Its name, as containerd says it: the registry and repository to ask.
    pub reference: Reference,
    /// Digest of its platform's manifest.
    pub manifest_digest: Digest,
    /// Digest of the index to use, if the request names one.
    pub index_digest: Option<Digest>,
    /// What to use beside the index.
    pub companions: Companions,
    /// Name of the workload whose pack is to be preferred, in place of the node's.
    pub workload: Option<String>,
}

/// What can be done with a layer.
#[derive(Clone, Debug)]
pub enum LayerState {
    /// It can be mounted now.
    Lazy(Arc<Layer>),
    /// The image has an index, but nothing in it, nor in what is used beside it, is for the layer.
    NoZtoc,
    /// The image has no index that may be used.
    NoIndex,
}

/// One image.
#[derive(Debug)]
pub struct ImageContext {
    pub(super) request: ImageRequest,
    pub(super) number: u64,
    pub(super) services: Arc<Services>,
    pub(super) source: Source,
    manifest: Found<Manifest>,
    config: Found<Arc<ManifestAndConfig>>,
    index: Found<Option<Index>>,
    referrers: Found<Vec<Descriptor>>,
    companions: OnceCell<Vec<Descriptor>>,
    fine: OnceCell<Option<Arc<FineIndexes>>>,
    pack: OnceCell<Option<PackSource>>,
    used: Mutex<Instant>,
    /// When it was last given up to find out about it.
    given_up: Mutex<Option<Instant>>,
}

#[derive(Debug)]
pub(super) struct Index {
    digest: Digest,
    pub(super) layers: Vec<(Indexed, OnceCell<Arc<Layer>>)>,
}

impl ImageContext {
    pub(super) fn new(request: ImageRequest, number: u64, services: Arc<Services>, source: Source) -> Self {
        Self {
            request,
            number,
            services,
            source,
            manifest: Found::new(),
            config: Found::new(),
            index: Found::new(),
            referrers: Found::new(),
            companions: OnceCell::new(),
            fine: OnceCell::new(),
            pack: OnceCell::new(),
            used: Mutex::new(Instant::now()),
            given_up: Mutex::default(),
        }
    }

    /// What was asked for.
    pub const fn request(&self) -> &ImageRequest {
        &self.request
    }

    /// Says that not even its manifest can be had: for a while nobody else needs to try. `silent`: its registry has not
    /// answered in time, so no other image of it needs to, either.
    pub fn give_up(&self, silent: bool) {
        *self.given_up.lock() = Some(Instant::now());
        if silent {
            let host = self.request.reference.registry().to_owned();
            self.services.silent.lock().insert(host, Instant::now());
        }
    }

    /// Whether that was said lately.
    pub fn is_given_up(&self) -> bool {
        let lately = |at: &Instant| at.elapsed() < NOT_AGAIN;
        let mut silent = self.services.silent.lock();
        silent.retain(|_, at| lately(at));
        silent.contains_key(self.request.reference.registry())
            || self.given_up.lock().as_ref().is_some_and(lately)
    }

    /// Waits until all that was found of the image is in the store.
    pub async fn settle(&self) {
        self.source.settle().await;
    }

    /// Remembers that somebody uses the image.
    pub(super) fn touch(&self) {
        *self.used.lock() = Instant::now();
    }

    /// How long nobody has used it.
    pub(super) fn idle(&self) -> Duration {
        self.used.lock().elapsed()
    }

    /// The documents that it is served with, as far as they are known.
    pub(super) fn documents(&self) -> impl Iterator<Item = Digest> {
        let index = self.index.get().and_then(|index| index.as_ref()).map(|index| index.digest);
        let fine = self.fine.get().and_then(|fine| fine.as_ref()).map(|fine| fine.digest);
        let pack = self.pack.get().and_then(|pack| pack.as_ref()).map(|pack| pack.digest);
        [Some(self.request.manifest_digest), self.request.index_digest, index, fine, pack]
            .into_iter()
            .flatten()
    }

    /// The layers that can be lazy, as far as they are known.
    pub(super) fn known_layers(&self) -> impl Iterator<Item = Digest> {
        let index = self.index.get().and_then(|index| index.as_ref());
        index.into_iter().flat_map(|index| index.layers.iter().map(|(indexed, _)| indexed.layer))
    }

    /// Whether it was found that the image has no index.
    pub(super) fn without_index(&self) -> bool {
        matches!(self.index.get(), Some(None))
    }

    /// The image's manifest and configuration, fetched at most once.
    pub async fn manifest(&self) -> Result<Arc<ManifestAndConfig>, LayerError> {
        self.touch();
        let config = self.config.or_find(async {
            let manifest = self.image_manifest().await?.clone();
            let config = self.source.config(&manifest).await?;
            Ok::<_, LayerError>(Arc::new(ManifestAndConfig { manifest, config }))
        });
        config.await.cloned()
    }

    /// Digest of the image's index, if it has one.
    pub async fn index_digest(&self) -> Result<Option<Digest>, LayerError> {
        Ok(self.index().await?.map(|index| index.digest))
    }

    /// Digest of the manifest of the fine indexes that the image is served with, if it has some.
    pub async fn fine_digest(&self) -> Option<Digest> {
        self.fine().await.ok()?.as_ref().map(|fine| fine.digest)
    }

    /// Digest of the manifest of the pack that the image is served with, if it has one.
    pub async fn pack_digest(&self) -> Option<Digest> {
        self.pack().await.ok()?.as_ref().map(|pack| pack.digest)
    }

    /// Says that a container starts from the image, whose layers an earlier process has served: what its pack has and is not
    /// here comes now, and the kernel gets it ahead of the container. Of an image whose companions are not
    /// [`Companions::Recorded`] that is known.
    pub async fn wanted(self: &Arc<Self>) {
        if self.request.companions != Companions::Discover {
            self.start_pack().await;
        }
    }

    /// The image's layers, from the bottom up.
    pub async fn layers(&self) -> Result<Vec<Descriptor>, LayerError> {
        self.image_manifest().await.map(|manifest| manifest.layers.clone())
    }

    /// The layers that can be lazy, without waiting for their zTOCs. `None`: the image has no index.
    pub async fn indexed_layers(&self) -> Result<Option<Vec<Digest>>, LayerError> {
        let index = self.index().await?;
        Ok(index.map(|index| index.layers.iter().map(|(indexed, _)| indexed.layer).collect()))
    }

    /// A layer of the image, as soon as its own zTOC is here.
    pub async fn layer(&self, layer: &Digest) -> Result<LayerState, LayerError> {
        self.touch();
        let Some(index) = self.index().await? else { return Ok(LayerState::NoIndex) };
        match index.layers.iter().find(|(indexed, _)| indexed.layer == *layer) {
            Some((indexed, cell)) => {
                let ready: BoxFuture<'_, _> = Box::pin(self.ready(indexed, cell));
                Ok(LayerState::Lazy(ready.await?))
            }
            None => Ok(LayerState::NoZtoc),
        }
    }

    /// Finds everything and makes all layers ready. Failures are logged here and met again by whoever asks for the layer.
    pub(super) async fn start(self: &Arc<Self>) {
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

    async fn start_pack(self: &Arc<Self>) {
        if let Ok(Some(pack)) = self.pack().await {
            self.spawn_pack(pack.clone(), self.services.engine.stream(self.source.repository.host()));
        }
    }

    async fn make_layers_ready(&self) {
        let index = match self.index().await {
            Ok(Some(index)) => index,
            Ok(None) => {
                return tracing::info!(image = %self.request.reference, "image has no usable soci index");
            }
            Err(error) => {
                return tracing::warn!(image = %self.request.reference, error = %chain(&error), "soci index not found");
            }
        };
        let all = futures_util::stream::iter(&index.layers);
        let ready = all.for_each_concurrent(AT_ONCE, |(indexed, cell)| async move {
            if let Err(error) = self.ready(indexed, cell).await {
                tracing::warn!(layer = %indexed.layer, error = %chain(&error), "layer cannot be lazy");
            }
        });
        ready.await;
    }

    /// Everything that refers to the image. Asked once, also for the index where that is found so.
    async fn referrers(&self) -> Result<&[Descriptor], LayerError> {
        let found = self.referrers.or_find(async {
            // Without companions, only indexes are asked for.
            let wanted = (!self.services.pack.asks_for_referrers()).then_some(media_type::SOCI_INDEX_V1);
            self.source.referrers(&self.request.manifest_digest, wanted).await
        });
        found.await.map(Vec::as_slice)
    }

    /// What the image has beside its index and may be used. This and the next two fail only when the image manifest cannot be
    /// had, and wait for a registry only for a time: the image starts without.
    async fn companions(&self) -> Result<&[Descriptor], LayerError> {
        let found = self.companions.get_or_try_init(|| Box::pin(async {
            let options = &self.services.pack;
            if let Some(recorded) = self.request.companions.recorded(options) {
                return Ok(recorded);
            }
            if !options.any() {
                return Ok(Vec::new());
            }
            // What refers to the image is asked for by its digest: that need not wait for the manifest.
            let early = async { if options.asks_for_referrers() { self.referrers().await } else { Ok(&[][..]) } };
            let (manifest, listed) = tokio::join!(self.image_manifest(), early);
            let manifest = manifest?;
            let listed = listed.unwrap_or_else(|error| {
                tracing::warn!(image = %self.request.reference, error = %chain(&error), "referrers cannot be listed");
                &[]
            });
            Ok::<_, LayerError>(self.source.companions(manifest, listed, &self.request.reference, options).await)
        }));
        found.await.map(Vec::as_slice)
    }

    async fn fine(&self) -> Result<&Option<Arc<FineIndexes>>, LayerError> {
        let found = self.fine.get_or_try_init(|| {
            Box::pin(async {
                // What an image was served with, its layers are served with again.
                if self.request.companions == Companions::Discover && !self.services.pack.fine {
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

    async fn pack(&self) -> Result<&Option<PackSource>, LayerError> {
        let found = self.pack.get_or_try_init(|| {
            Box::pin(async {
                let options = &self.services.pack;
                if !options.enable {
                    return Ok(None);
                }
                let manifest = self.image_manifest().await?;
                let workload = self.request.workload.as_ref().unwrap_or(&options.workload);
                let find = async {
                    Ok(self.source.pack(manifest, self.companions().await?, workload, options).await)
                };
                self.in_time("pack", find).await
            })
        });
        found.await
    }

    /// What was found within [`SMALL_THINGS_FIRST`].
    async fn in_time<T>(
        &self,
        what: &'static str,
        find: impl Future<Output = Result<Option<T>, LayerError>>,
    ) -> Result<Option<T>, LayerError> {
        tokio::time::timeout(SMALL_THINGS_FIRST, find).await.unwrap_or_else(|_| {
            tracing::warn!(image = %self.request.reference, "{what} not found in time");
            Ok(None)
        })
    }

    async fn image_manifest(&self) -> Result<&Manifest, LayerError> {
        self.manifest.or_find(self.source.manifest(self.request.manifest_digest)).await
    }

    pub(super) async fn index(&self) -> Result<Option<&Index>, LayerError> {
        let found = self.index.or_find(async {
            let manifest = self.image_manifest().await?;
            let allowed = self.services.discovery;
            let named = Source::named_index(manifest, self.request.index_digest, allowed)?;
            let digest = match named {
                Some(named) => Some(named),
                None if allowed.v1 => Source::referring_index(self.referrers().await?),
                None => None,
            };
            let Some(digest) = digest else { return Ok(None) };
            let (layers, fine) =
                tokio::join!(self.source.index(manifest, digest), self.fine_for_small_layers());
            let Some(mut layers) = layers? else { return Ok(None) };
            if let Some(fine) = fine? {
                layers.extend(fine.alone(manifest, &layers));
            }
            let layers = layers.into_iter().map(|indexed| (indexed, OnceCell::new())).collect();
            Ok::<_, LayerError>(Some(Index { digest, layers }))
        });
        Ok(found.await?.as_ref())
    }

    /// The fine indexes, if layers are to be lazy that have no zTOC, because they are too small. What a start needs of them is in
    /// its pack, and neither their other bytes nor their unpacking keep it waiting. Without a pack they come sooner as a whole.
    /// What was lazy before stays so.
    async fn fine_for_small_layers(&self) -> Result<Option<&Arc<FineIndexes>>, LayerError> {
        let is_new = self.request.companions == Companions::Discover;
        if is_new && self.pack().await?.is_none() {
            return Ok(None);
        }
        Ok(self.fine().await?.as_ref())
    }

    pub(super) async fn ready(
        &self,
        indexed: &Indexed,
        cell: &OnceCell<Arc<Layer>>,
    ) -> Result<Arc<Layer>, LayerError> {
        let layer = cell.get_or_try_init(|| async {
            // Artifacts are small: they are asked for first, and waited for by nobody. A pack has all that they name.
            let artifacts = if self.pack().await?.is_some() { Vec::new() } else { self.artifacts(indexed) };
            let ztoc = match self.fine_table(indexed).await? {
                Some(table) => table,
                None => self.source.ztoc(indexed).await?,
            };
            let name = format!("{}/{}", self.source.repository.host(), self.source.repository.name());
            let fetcher = self.source.repository.range_fetcher(indexed.layer, indexed.size);
            self.check_parts(indexed, &fetcher).await?;
            let windows = ztoc.windows().map(|windows| (windows.digest(), windows.size()));
            let windows = windows.map(|(digest, size)| self.source.repository.range_fetcher(digest, size));
            let layer = Arc::clone(&self.services).layer(indexed.layer, ztoc).await?;
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
