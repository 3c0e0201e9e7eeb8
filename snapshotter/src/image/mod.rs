//! One image, from its name to its layers. All who prepare its layers share one [`ImageContext`], and each fact is looked for once.
//!
//! State: results that succeeded, each in its own cell (single flight). A failure leaves the cell empty, so that a later caller
//! tries again; what all layers need fails once for all of them ([`Found`]). The context keeps its layers alive until the [`crate::node::Node`] drops it for being idle; mounts keep
//! them longer.

mod ahead;
mod companions;
mod found;
mod launch;
mod plan;
mod ready;
mod source;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use soci_core::digest::Digest;
use soci_core::image::{Descriptor, Manifest};
use soci_core::registry::{Reference, Repository};
use tokio::sync::OnceCell;

pub use companions::Companions;
pub(crate) use source::Source;
pub use source::{Discovery, ManifestAndConfig};

use crate::choice::{Launch, WORKLOAD};
use crate::layer::services::Services;
use crate::layer::{Layer, LayerError};
use crate::pack::PackOptions;
use crate::starts::Account;
use companions::FineIndexes;
use found::Found;
use launch::ChosenPack;
use source::Indexed;

/// zTOCs of one image that are fetched at once.
pub(crate) const AT_ONCE: usize = 8;
/// How long an image that could not be found out about is left to the runtime: long enough for its other layers.
const NOT_AGAIN: Duration = Duration::from_mins(1);
/// How long an image's zTOCs and artifacts go before all prefetch of the node. A registry that hangs must not stop other images.
pub(crate) const SMALL_THINGS_FIRST: Duration = Duration::from_secs(10);

/// How images are served.
#[derive(Clone, Debug)]
pub(crate) struct ImageOptions {
    /// Which ways of finding an index are allowed.
    pub(crate) discovery: Discovery,
    /// Whether prefetch artifacts are used.
    pub(crate) prefetch: bool,
    /// Which companions of an image are used.
    pub(crate) pack: PackOptions,
}

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
    /// Who asks.
    pub client: Client,
}

/// Who asks for an image: what the rules for packs look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// containerd's namespace; empty when it was not told.
    pub namespace: String,
    /// Labels of the snapshot that was asked for.
    pub labels: BTreeMap<String, String>,
}

impl ImageRequest {
    /// The request, as whoever chooses a pack sees it.
    pub fn launch(&self) -> Launch {
        let mut labels = self.client.labels.clone();
        if let Some(workload) = &self.workload {
            labels.insert(WORKLOAD.to_owned(), workload.clone());
        }
        let (image, namespace) = (self.reference.whole(), self.client.namespace.clone());
        Launch { image, digest: self.manifest_digest, namespace, labels }
    }
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
    pub(crate) request: ImageRequest,
    pub(crate) number: u64,
    pub(crate) services: Arc<Services>,
    options: Arc<ImageOptions>,
    pub(crate) source: Source,
    manifest: Found<Manifest>,
    config: Found<Arc<ManifestAndConfig>>,
    index: Found<Option<Index>>,
    referrers: Found<Vec<Descriptor>>,
    companions: OnceCell<Vec<Descriptor>>,
    fine: OnceCell<Option<Arc<FineIndexes>>>,
    pack: OnceCell<Option<ChosenPack>>,
    /// All packs that there are for the image, whatever it was served with before.
    listed: Found<Vec<Descriptor>>,
    /// Manifests of packs that were begun.
    begun: Mutex<HashSet<Digest>>,
    account: Arc<Account>,
    used: Mutex<Instant>,
    /// When it was last given up to find out about it.
    given_up: Mutex<Option<Instant>>,
}

#[derive(Debug)]
pub(crate) struct Index {
    digest: Digest,
    /// It, or the pack of the start, advises a full pull of the image: no layer is lazy then.
    advised_whole: bool,
    pub(crate) layers: Vec<(Indexed, OnceCell<Arc<Layer>>)>,
}

impl ImageContext {
    pub(crate) fn new(
        request: ImageRequest,
        number: u64,
        services: Arc<Services>,
        options: Arc<ImageOptions>,
        source: Source,
        account: Arc<Account>,
    ) -> Self {
        Self {
            request,
            number,
            services,
            options,
            source,
            manifest: Found::new(),
            config: Found::new(),
            index: Found::new(),
            referrers: Found::new(),
            companions: OnceCell::new(),
            fine: OnceCell::new(),
            pack: OnceCell::new(),
            listed: Found::new(),
            begun: Mutex::default(),
            account,
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
    pub(crate) fn touch(&self) {
        *self.used.lock() = Instant::now();
    }

    /// How long nobody has used it.
    pub(crate) fn idle(&self) -> Duration {
        self.used.lock().elapsed()
    }

    /// The documents that it is served with, as far as they are known.
    pub(crate) fn documents(&self) -> impl Iterator<Item = Digest> {
        let index = self.index.get().and_then(|index| index.as_ref()).map(|index| index.digest);
        let fine = self.fine.get().and_then(|fine| fine.as_ref()).map(|fine| fine.digest);
        let pack = self.pack.get().and_then(|pack| pack.as_ref()).map(|pack| pack.source.digest);
        [Some(self.request.manifest_digest), self.request.index_digest, index, fine, pack]
            .into_iter()
            .flatten()
    }

    /// The layers that can be lazy, as far as they are known.
    pub(crate) fn known_layers(&self) -> impl Iterator<Item = Digest> {
        let index = self.index.get().and_then(|index| index.as_ref());
        index.into_iter().flat_map(|index| index.layers.iter().map(|(indexed, _)| indexed.layer))
    }

    /// Whether it was found that a full pull of the image is advised, and that this counts here.
    pub fn is_advised_whole(&self) -> bool {
        matches!(self.index.get(), Some(Some(index)) if index.advised_whole)
    }

    /// Whether it was found that the image has no index.
    pub(crate) fn without_index(&self) -> bool {
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
        self.pack().await.ok()?.as_ref().map(|pack| pack.source.digest)
    }

    /// The workload whose pack was chosen when the image was pulled; `None`: no pack was.
    pub async fn workload(&self) -> Option<&str> {
        self.pack().await.ok()?.as_ref().map(|pack| &*pack.choice.workload)
    }

    /// The image's account.
    pub const fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Where the image is, for layers that are pulled whole.
    pub fn whole_repository(&self) -> Repository {
        self.source.repository.metered(&self.account.whole)
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
}
