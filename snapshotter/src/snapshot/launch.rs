//! A container starts: its image is told, which may bring a pack for it, and the start gets a record.
//!
//! Owns nothing. What must always hold: the container's Prepare waits for the pack's table of contents only when the start may get
//! another pack than its image was pulled with, and no longer than [`PATIENCE`]; nothing here fails it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Snapshotter;
use super::labels::{self, LayerRequest};
use super::record::{Chain, Labels};
use crate::blocking::blocking;
use crate::choice::Launch;
use crate::telemetry::tally::micros;

/// How long a container's mounts are kept back until its readers know what its pack will bring.
const PATIENCE: Duration = Duration::from_millis(500);

/// A container that starts.
#[derive(Debug)]
pub(super) struct Beginning {
    /// Key of its snapshot.
    pub(super) key: String,
    /// The snapshot below.
    pub(super) parent: Option<String>,
    /// Labels of its snapshot.
    pub(super) labels: Labels,
    /// Namespace of the client, if it said so.
    pub(super) namespace: Option<String>,
}

/// What is done for a container while its mounts are made.
#[derive(Debug)]
pub(super) struct Launching {
    mounted: oneshot::Sender<u64>,
    /// Told, or dropped, when readers know what the pack will bring.
    ready: Option<oneshot::Receiver<()>>,
}

impl Launching {
    /// The container has its mounts. Waits until it may read.
    pub(super) async fn mounted(self) {
        if let Some(ready) = self.ready {
            let _ = tokio::time::timeout(PATIENCE, ready).await;
        }
        // The record may be gone.
        let _ = self.mounted.send(micros());
    }
}

impl Snapshotter {
    /// Tells the image of a container that it starts.
    pub(super) fn announce(self: &Arc<Self>, chain: &Chain, beginning: Beginning) -> Launching {
        let (mounted, is_mounted) = oneshot::channel();
        let (told, ready) = oneshot::channel();
        let may_differ = self.node.chooser().has_a_say(&beginning.labels);
        let (first, asked_at) = (self.serving.begin_use(&chain.parents).is_some(), micros());
        let this = Arc::clone(self);
        tokio::spawn(async move { this.launch(beginning, first, asked_at, told, is_mounted).await });
        Launching { mounted, ready: may_differ.then_some(ready) }
    }

    async fn launch(
        self: Arc<Self>,
        beginning: Beginning,
        first: bool,
        asked_at: u64,
        told: oneshot::Sender<()>,
        mounted: oneshot::Receiver<u64>,
    ) {
        let Beginning { key, parent, labels, namespace } = beginning;
        let Some((layer, known)) = self.image_below(parent).await else { return };
        let (starts, chooser, request) = (self.node.starts(), self.node.chooser(), layer.image());
        let namespace = labels::namespace(namespace.as_deref(), &key).unwrap_or_default().to_owned();
        let account = starts.account(&request.reference.whole(), request.manifest_digest);
        let start = starts.container(&account, &key, &namespace, asked_at);
        if known.contains_key(labels::REMOTE) {
            let image = request.reference.whole();
            let launch = Launch { image, digest: request.manifest_digest, namespace, labels };
            let choice = chooser.told(&launch);
            let pulled_for = known.get(labels::WORKLOAD);
            let other =
                choice.as_ref().map_or(chooser.has_program(), |choice| Some(&choice.workload) != pulled_for);
            if let Some(choice) = choice {
                starts.chosen(start, &choice.workload, &choice.by.to_string());
            }
            if other {
                let image = self.node.image_in_use(&request);
                if let Some((workload, by)) = image.container_starts(&launch).await {
                    starts.chosen(start, &workload, &by);
                }
                drop(told);
            } else {
                drop(told);
                if first && known.contains_key(labels::PACK) {
                    self.node.image_in_use(&request).wanted().await;
                }
            }
        } else {
            drop(told);
        }
        if let Ok(at) = mounted.await {
            starts.mounted(start, at);
        }
    }

    /// What the labels of the nearest layer of an image below say, a lazy one if there is one.
    async fn image_below(self: &Arc<Self>, parent: Option<String>) -> Option<(LayerRequest, Labels)> {
        let this = Arc::clone(self);
        blocking(move || {
            let (mut next, mut whole) = (parent, None);
            while let Some(info) = next.and_then(|name| this.stat(&name).ok()) {
                if let Ok(layer) = LayerRequest::from_labels(&info.labels) {
                    if info.labels.contains_key(labels::REMOTE) {
                        return Some((layer, info.labels));
                    }
                    whole.get_or_insert((layer, info.labels));
                }
                next = info.parent;
            }
            whole
        })
        .await
    }
}
