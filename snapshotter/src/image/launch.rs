//! Which pack of an image a start gets: that of the pull, and those of containers that are started later for other workloads.
//!
//! Each pack is begun once for an image that is in use. What must always hold: a container's Prepare waits here for a short time only,
//! until readers know what the pack will bring; whatever goes wrong, it starts without.

use std::sync::Arc;

use soci_core::digest::Digest;
use soci_core::image::{Descriptor, Manifest};
use soci_core::index::CompanionKind;
use soci_core::pack::Purpose;
use tokio::sync::oneshot;

use super::ImageContext;
use super::companions::{Companions, of_kind};
use crate::choice::{By, Choice, Launch};
use crate::layer::LayerError;
use crate::pack::PackSource;
use crate::span::chain;

/// A pack, and why it was chosen.
#[derive(Debug, Clone)]
pub(crate) struct ChosenPack {
    pub(crate) source: PackSource,
    /// The workload that the start is for; its pack, if there is one.
    pub(crate) choice: Choice,
    /// For those who look.
    pub(crate) by: String,
    /// The workload that the pack is for.
    pub(crate) workload: String,
    /// It advises a full pull of the image.
    pub(crate) advised_whole: bool,
}

impl ImageContext {
    /// The pack for the request of the image, among its companions.
    pub(super) async fn choose_pack(
        &self,
        manifest: &Manifest,
        companions: &[Descriptor],
    ) -> Result<Option<ChosenPack>, LayerError> {
        if self.request.companions != Companions::Discover {
            // There is one at most.
            let choice = Choice { workload: String::new(), by: By::Nobody };
            let chosen = self.open_chosen(manifest, companions, choice).await;
            return Ok(chosen.map(|chosen| ChosenPack { by: "recorded".to_owned(), ..chosen }));
        }
        let choice = self.options.pack.chooser.choose(&self.request.launch(), workloads(companions)).await;
        Ok(self.open_chosen(manifest, companions, choice).await)
    }

    async fn open_chosen(
        &self,
        manifest: &Manifest,
        companions: &[Descriptor],
        choice: Choice,
    ) -> Option<ChosenPack> {
        let options = &self.options.pack;
        let (source, purpose, advised_whole) =
            self.source.pack(manifest, companions, &choice.workload, options).await?;
        let workload = purpose.workload.unwrap_or_default();
        // What was asked for may not be there.
        let by = if workload == choice.workload { choice.by } else { By::Nobody };
        Some(ChosenPack { source, choice, by: by.to_string(), workload, advised_whole })
    }

    /// Says that a container starts from the image, whose pull may be long ago. If it is for a workload with a pack of its own, that
    /// pack begins to come. Ends when readers wait for what it brings, or when there is nothing to wait for.
    pub async fn container_starts(self: &Arc<Self>, launch: &Launch) -> Option<(String, String)> {
        self.touch();
        let options = &self.options.pack;
        if !options.enable {
            return None;
        }
        let find = async {
            let manifest = self.image_manifest().await?;
            let listed = self.all_companions().await?;
            let choice = options.chooser.choose(launch, workloads(listed)).await;
            Ok(self.open_chosen(manifest, listed, choice).await)
        };
        let chosen = match self.in_time("pack", find).await {
            Ok(chosen) => chosen?,
            Err(error) => {
                let image = &self.request.reference;
                tracing::warn!(%image, error = %chain(&error), "packs of a container's image cannot be listed");
                return None;
            }
        };
        let told = (chosen.workload.clone(), chosen.by.clone());
        let (promised, ready) = oneshot::channel();
        self.begin(chosen, Some(promised));
        // Sent, or dropped when the pack has failed or was begun before.
        let _ = ready.await;
        Some(told)
    }

    /// All companions that there are, whatever the image was served with before.
    async fn all_companions(&self) -> Result<&[Descriptor], LayerError> {
        if self.request.companions == Companions::Discover {
            return self.companions().await;
        }
        self.listed.or_find(self.find_companions()).await.map(Vec::as_slice)
    }

    /// Begins to bring a pack, once.
    pub(super) fn begin(self: &Arc<Self>, chosen: ChosenPack, promised: Option<oneshot::Sender<()>>) {
        let is_new = self.request.companions == Companions::Discover;
        if chosen.advised_whole && self.options.pack.advice && is_new {
            // The layers come whole.
            return;
        }
        if self.is_first(chosen.source.digest) {
            let stream = self.services.engine.stream(self.source.repository.host());
            self.spawn_pack(chosen, stream, promised);
        }
    }

    fn is_first(&self, pack: Digest) -> bool {
        self.begun.lock().insert(pack)
    }
}

/// The workloads of the packs among `companions`; empty: of one for none in particular.
fn workloads(companions: &[Descriptor]) -> Vec<String> {
    let packs = of_kind(companions, CompanionKind::Pack);
    packs.map(|entry| Purpose::of(&entry.annotations).workload.unwrap_or_default()).collect()
}
