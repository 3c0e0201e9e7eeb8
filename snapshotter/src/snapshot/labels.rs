//! The labels by which containerd tells what a snapshot is for, and by which the snapshotter answers.
//!
//! Label values come from whoever pulls: everything is parsed before it is used.

use soci_core::digest::Digest;
use soci_core::registry::Reference;

use super::record::Labels;
pub use crate::choice::WORKLOAD;
use crate::image::{Client, Companions, ImageRequest};

/// Name under which the layer is to be committed; its presence says that the snapshot is for an image layer.
pub const TARGET: &str = "containerd.io/snapshot.ref";
/// Image reference.
pub const IMAGE: &str = "containerd.io/snapshot/cri.image-ref";
/// Digest of the image manifest of the platform.
pub const MANIFEST: &str = "containerd.io/snapshot/cri.manifest-digest";
/// Digest of the layer blob.
pub const LAYER: &str = "containerd.io/snapshot/cri.layer-digest";
/// Digest of the uncompressed layer (containerd 2.3).
pub const DIFF_ID: &str = "containerd.io/snapshot/diff-id";
/// Chain id of the layers below; the lowest has none (containerd 2.3).
pub const PARENT_CHAIN: &str = "containerd.io/snapshot/parent-chain-id";
/// Size of the layer blob in bytes, decimal.
pub const LAYER_SIZE: &str = "containerd.io/snapshot/remote/soci.size";
/// Explicit SOCI index of the image.
pub const INDEX: &str = "containerd.io/snapshot/remote/soci.index.digest";

/// On a lazy layer: [`REMOTE_VALUE`]. containerd keeps such layers from being garbage collected with their blobs.
pub const REMOTE: &str = "containerd.io/snapshot/remote";
/// Value of [`REMOTE`].
pub const REMOTE_VALUE: &str = "remote snapshot";
/// `true` on layers that the snapshotter provided itself.
pub const HAS_INDEX: &str = "containerd.io/snapshot/remote/has.soci.index.digest";
/// On layers of an image that is served with fine indexes: the digest of their manifest.
pub const FINE_INDEX: &str = "containerd.io/snapshot/remote/soci.fine-index.digest";
/// On layers of an image that is served with a pack: the digest of its manifest.
pub const PACK: &str = "containerd.io/snapshot/remote/soci.pack.digest";
/// Users of a snapshot's user namespace, as [`crate::idmap::IdMap`] reads them.
pub const UIDS: &str = "containerd.io/snapshot/uidmapping";
/// Its groups.
pub const GIDS: &str = "containerd.io/snapshot/gidmapping";
/// Namespace of the request that made a layer.
pub const NAMESPACE: &str = "containerd.io/snapshot/remote/namespace";

/// An image layer that somebody wants as a snapshot.
#[derive(Debug, Clone)]
pub struct LayerRequest {
    /// Image reference: where the layer is.
    pub reference: Reference,
    /// Digest of the image manifest of the platform.
    pub manifest_digest: Digest,
    /// Digest of the layer blob.
    pub layer_digest: Digest,
    /// Size of the layer blob in bytes, when told.
    pub layer_size: Option<u64>,
    /// Digest of the uncompressed layer, when told.
    pub diff_id: Option<Digest>,
    /// Chain id of the layers below, when told.
    pub parent_chain: Option<Digest>,
    /// Explicit SOCI index, when told.
    pub index_digest: Option<Digest>,
    /// What to use beside the index: a layer that was served before says what.
    pub companions: Companions,
    /// The workload whose pack is to be preferred, when told.
    pub workload: Option<String>,
    /// Who asks.
    pub client: Client,
}

/// Labels that do not describe a layer.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    /// A needed label is not there: the client sends no layer labels (`disable_snapshot_annotations`).
    #[error("label {0} is missing")]
    Missing(&'static str),
    /// A label has a value that cannot be understood.
    #[error("label {label} has the bad value {value:?}")]
    Bad {
        /// The label.
        label: &'static str,
        /// Its value.
        value: String,
    },
    /// Labels and parent cannot all be of one layer.
    #[error("{DIFF_ID}, {PARENT_CHAIN}, {TARGET} and the snapshot's parent are not of one layer")]
    Different,
    /// The layers below are not below yet: containerd unpacks layers of the image at once, and says the parent at the commit.
    #[error("the parent is to be told at the commit: take the capability rebase from [proxy_plugins.soci]")]
    Rebased,
}

impl LayerRequest {
    /// Reads the labels of a layer's snapshot.
    pub fn from_labels(labels: &Labels) -> Result<Self, LabelError> {
        fn optional<T: std::str::FromStr>(
            labels: &Labels,
            label: &'static str,
        ) -> Result<Option<T>, LabelError> {
            let parsed = labels
                .get(label)
                .map(|value| value.parse().map_err(|_| LabelError::Bad { label, value: value.clone() }));
            parsed.transpose()
        }
        fn needed<T: std::str::FromStr>(labels: &Labels, label: &'static str) -> Result<T, LabelError> {
            optional(labels, label)?.ok_or(LabelError::Missing(label))
        }
        let (diff_id, parent_chain) = (optional(labels, DIFF_ID)?, optional(labels, PARENT_CHAIN)?);
        if let (Some(diff_id), Some(target)) = (diff_id, labels.get(TARGET)) {
            let chain =
                parent_chain.map_or(diff_id, |below| Digest::of(format!("{below} {diff_id}").as_bytes()));
            if chain.to_string() != *target {
                return Err(LabelError::Different);
            }
        }
        Ok(Self {
            diff_id,
            parent_chain,
            reference: needed(labels, IMAGE)?,
            manifest_digest: needed(labels, MANIFEST)?,
            layer_digest: needed(labels, LAYER)?,
            layer_size: optional(labels, LAYER_SIZE)?,
            index_digest: optional(labels, INDEX)?,
            companions: if labels.contains_key(REMOTE) {
                let (fine, pack) = (optional(labels, FINE_INDEX)?, optional(labels, PACK)?);
                Companions::Recorded { fine, pack }
            } else {
                Companions::Discover
            },
            workload: labels.get(WORKLOAD).cloned(),
            client: Client {
                namespace: labels.get(NAMESPACE).cloned().unwrap_or_default(),
                labels: labels
                    .iter()
                    .filter(|(label, _)| !is_of_layer(label))
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect(),
            },
        })
    }

    /// Whether this can be a layer on the snapshot `parent`, whose name ends with its chain id in containerd.
    pub fn must_be_on(&self, parent: Option<&str>) -> Result<(), LabelError> {
        let Some(told) = self.parent_chain else { return Ok(()) };
        let parent = parent.ok_or(LabelError::Rebased)?;
        let chain = parent.rsplit('/').next().and_then(|name| name.parse::<Digest>().ok());
        if chain.is_none_or(|chain| chain == told) { Ok(()) } else { Err(LabelError::Different) }
    }

    /// The image, as the data plane asks for it.
    pub fn image(&self) -> ImageRequest {
        ImageRequest {
            reference: self.reference.clone(),
            manifest_digest: self.manifest_digest,
            index_digest: self.index_digest,
            companions: self.companions,
            workload: self.workload.clone(),
            client: self.client.clone(),
        }
    }
}

/// Whether a label says which layer a snapshot is for: it is no reason for one pack or another.
fn is_of_layer(label: &str) -> bool {
    label == TARGET
        || label == LAYER_SIZE
        || label == DIFF_ID
        || label == PARENT_CHAIN
        || label.starts_with("containerd.io/snapshot/cri.")
}

/// The namespace of a request: what the client said, else the first part of the key, since containerd 1.x sends proxy plugins no
/// namespace for what its own clients ask, but starts each key with it (`default/12/sha256:…`).
pub fn namespace<'a>(told: Option<&'a str>, key: &'a str) -> Option<&'a str> {
    told.or_else(|| key.split_once('/').map(|(first, _)| first)).filter(|namespace| !namespace.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Labels {
        let digest = format!("sha256:{}", "ab".repeat(32));
        [
            (IMAGE, "localhost:5000/app:1".to_owned()),
            (MANIFEST, digest.clone()),
            (LAYER, digest.clone()),
            (LAYER_SIZE, "123".to_owned()),
            (INDEX, digest),
        ]
        .map(|(label, value)| (label.to_owned(), value))
        .into()
    }

    #[test]
    fn a_layer_is_described_by_its_labels() {
        let request = LayerRequest::from_labels(&labels()).unwrap();
        assert_eq!(request.reference.registry(), "localhost:5000");
        assert_eq!(request.layer_size, Some(123));
        assert_eq!(request.index_digest, Some(request.layer_digest));
        assert_eq!((request.companions, &request.workload), (Companions::Discover, &None));
    }

    #[test]
    fn a_layer_says_what_it_was_served_with_and_a_request_which_workload_it_is_for() {
        let mut labels = labels();
        labels.insert(WORKLOAD.to_owned(), "web".to_owned());
        assert_eq!(LayerRequest::from_labels(&labels).unwrap().image().workload.as_deref(), Some("web"));
        labels.insert(REMOTE.to_owned(), REMOTE_VALUE.to_owned());
        let none = Companions::Recorded { fine: None, pack: None };
        assert_eq!(LayerRequest::from_labels(&labels).unwrap().companions, none);
        let digest = Digest::of(b"pack");
        labels.insert(PACK.to_owned(), digest.to_string());
        let pack = Companions::Recorded { fine: None, pack: Some(digest) };
        assert_eq!(LayerRequest::from_labels(&labels).unwrap().image().companions, pack);
    }

    #[test]
    fn optional_labels_may_be_absent_and_needed_ones_may_not() {
        for optional in [LAYER_SIZE, INDEX] {
            let mut labels = labels();
            labels.remove(optional);
            assert!(LayerRequest::from_labels(&labels).is_ok(), "{optional}");
        }
        for needed in [IMAGE, MANIFEST, LAYER] {
            let mut labels = labels();
            labels.remove(needed);
            assert!(
                matches!(LayerRequest::from_labels(&labels), Err(LabelError::Missing(label)) if label == needed)
            );
        }
    }

    #[test]
    fn values_that_are_not_understood_are_errors() {
        for (label, value) in [(LAYER, "sha256:zz"), (LAYER_SIZE, "-1"), (IMAGE, "UPPER CASE"), (INDEX, "")] {
            let mut labels = labels();
            labels.insert(label.to_owned(), value.to_owned());
            assert!(matches!(LayerRequest::from_labels(&labels), Err(LabelError::Bad { .. })), "{label}");
        }
    }

    #[test]
    fn a_layer_is_where_its_labels_say_or_is_not_known() {
        let (diff, below) = (Digest::of(b"diff"), Digest::of(b"below"));
        let chain = Digest::of(format!("{below} {diff}").as_bytes());
        let request = |target: Digest, parent_chain: Option<Digest>| {
            let mut labels = labels();
            let said = [(TARGET, target.to_string()), (DIFF_ID, diff.to_string())];
            labels.extend(said.map(|(label, value)| (label.to_owned(), value)));
            labels.extend(parent_chain.map(|chain| (PARENT_CHAIN.to_owned(), chain.to_string())));
            LayerRequest::from_labels(&labels)
        };
        assert!(request(diff, None).unwrap().must_be_on(None).is_ok());
        assert!(matches!(request(diff, Some(below)), Err(LabelError::Different)));
        assert!(matches!(request(chain, None), Err(LabelError::Different)));
        let upper = request(chain, Some(below)).unwrap();
        let named = |chain: Digest| format!("k8s.io/3/{chain}");
        assert!(upper.must_be_on(Some(&named(below))).is_ok());
        assert!(upper.must_be_on(Some("k8s.io/3/another-name")).is_ok(), "other names say nothing");
        assert!(matches!(upper.must_be_on(Some(&named(chain))), Err(LabelError::Different)));
        assert!(matches!(upper.must_be_on(None), Err(LabelError::Rebased)));
    }

    #[test]
    fn the_namespace_is_told_or_is_the_first_part_of_the_key() {
        assert_eq!(namespace(Some("k8s.io"), "default/1/a"), Some("k8s.io"));
        assert_eq!(namespace(None, "default/1/a"), Some("default"));
        assert_eq!(namespace(None, "a"), None);
        assert_eq!(namespace(None, "/tmp/a"), None);
    }
}
