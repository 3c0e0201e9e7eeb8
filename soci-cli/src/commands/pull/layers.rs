//! The layers of one image as snapshots in containerd: Stat of the chain id, else Prepare with the labels of the layer, from the
//! lowest layer up. What the snapshotter leaves to the runtime is downloaded, and unpacked by containerd.
//!
//! What must always hold: a layer is committed under its chain id only if the snapshotter says that it has it, or its bytes have the
//! digests of manifest and configuration.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use recorder::rootfs::chain_ids;
use serde::Serialize;
use soci_core::containerd::types::Mount;
use soci_core::containerd::{Containerd, SnapshotLabels, Unpacking};
use soci_core::digest::Digest;
use soci_core::image::{Descriptor, Image};

use crate::commands::layer_labels::{TARGET, of_layer};
use crate::output::progress::Progress;

/// On a lazy layer.
const REMOTE: &str = "containerd.io/snapshot/remote";
/// On a layer's blob: its digest without compression.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// Attempts to have containerd know what its snapshotter has: another client may remove it at the same time.
const ATTEMPTS: usize = 3;

/// Who has brought a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum By {
    /// The snapshotter, now.
    Snapshotter,
    /// containerd has unpacked it, now.
    Containerd,
    /// It was there.
    Earlier,
}

/// What became of a layer. The keys of its JSON are an interface.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Layer {
    pub(super) digest: Digest,
    /// Compressed bytes.
    pub(super) size: u64,
    /// Its bytes come when somebody reads them.
    lazy: bool,
    by: By,
}

impl Layer {
    pub(super) const fn is_lazy(&self) -> bool {
        self.lazy
    }

    pub(super) const fn words(&self) -> &'static str {
        match (self.lazy, self.by) {
            (true, By::Earlier) => "lazy, was there",
            (true, _) => "lazy",
            (false, By::Earlier) => "whole, was there",
            (false, By::Snapshotter) => "whole, by the snapshotter",
            (false, By::Containerd) => "whole, by containerd",
        }
    }
}

/// The layers of one image.
pub(super) struct Layers<'a> {
    image: &'a Image,
    containerd: &'a Containerd,
    unpacking: Unpacking,
    index: Option<&'a Digest>,
    chain: Vec<Digest>,
}

impl<'a> Layers<'a> {
    pub(super) fn new(
        image: &'a Image,
        containerd: &'a Containerd,
        unpacking: Unpacking,
        index: Option<&'a Digest>,
    ) -> Result<Self> {
        let (layers, diff_ids) = (image.layers().len(), image.config.diff_ids.len());
        if layers != diff_ids {
            bail!("the image has {layers} layers, its configuration names {diff_ids}");
        }
        Ok(Self { image, containerd, unpacking, index, chain: chain_ids(&image.config.diff_ids) })
    }

    /// Brings all layers. Gives what became of them, and the name of the topmost snapshot; empty for an image without layers.
    pub(super) async fn pull(&self, progress: &Progress) -> Result<(Vec<Layer>, String)> {
        let bar = progress.steps("pull layers", self.chain.len() as u64);
        let mut layers = Vec::new();
        for at in 0..self.chain.len() {
            let digest = self.image.layers()[at].digest;
            let layer = self.layer(at).await.with_context(|| format!("cannot pull layer {digest}"));
            layers.push(layer.inspect_err(|_| bar.finish_and_clear())?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok((layers, self.chain.last().map(Digest::to_string).unwrap_or_default()))
    }

    async fn layer(&self, at: usize) -> Result<Layer> {
        let chain = self.chain[at].to_string();
        let parent = at.checked_sub(1).map_or(String::new(), |below| self.chain[below].to_string());
        let Descriptor { digest, size, .. } = self.image.layers()[at];
        let outcome =
            |labels: &SnapshotLabels, by| Layer { digest, size, lazy: labels.contains_key(REMOTE), by };
        if let Some(labels) = self.unpacking.stat(&chain).await? {
            return Ok(outcome(&labels, By::Earlier));
        }
        for _ in 0..ATTEMPTS {
            let key = format!("extract-{} {chain}", unique());
            let labels = of_layer(self.image, at, &self.chain[at], self.index);
            match self.unpacking.prepare(&key, &parent, labels).await? {
                Some(mounts) => {
                    let unpacked = self.unpack(at, &key, mounts).await;
                    if unpacked.is_err() {
                        // The first failure is the one to tell.
                        let _ = self.unpacking.remove(&key).await;
                    }
                    unpacked?;
                    return Ok(outcome(&BTreeMap::new(), By::Containerd));
                }
                None => {
                    if let Some(labels) = self.unpacking.stat(&chain).await? {
                        return Ok(outcome(&labels, By::Snapshotter));
                    }
                }
            }
        }
        bail!("the snapshotter says that it has snapshot {chain}, and containerd does not find it there")
    }

    /// Downloads a layer and has it unpacked into its snapshot.
    async fn unpack(&self, at: usize, key: &str, mounts: Vec<Mount>) -> Result<()> {
        let (layer, diff_id) = (&self.image.layers()[at], self.image.config.diff_ids[at]);
        if self.containerd.blob_size(&layer.digest).await?.is_none() {
            let repository = self.image.source.repository().context("the image is not in a registry")?;
            let body = repository.blob_stream(&layer.digest).await?;
            let labels = BTreeMap::from([(UNCOMPRESSED.to_owned(), diff_id.to_string())]);
            self.containerd.put_body(layer.digest, layer.size, body, labels).await?;
        }
        let applied = self.unpacking.apply(layer, mounts).await?;
        if applied != diff_id {
            bail!("it has digest {applied} without compression, the image's configuration says {diff_id}");
        }
        let chain = self.chain[at].to_string();
        let labels = BTreeMap::from([(TARGET.to_owned(), chain.clone())]);
        Ok(self.unpacking.commit(&chain, key, labels).await?)
    }
}

/// What no other key of ours or of containerd's begins with.
fn unique() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-soci{}", now.as_nanos(), std::process::id())
}
