//! Pulls by clients that do not say which layer they want: nothing of them can be lazy, and nobody would know why.
//!
//! Owns what was said. A reason is said once for each namespace, with the line of configuration that mends it; every layer is
//! counted.

use std::collections::HashSet;

use parking_lot::Mutex;
use tracing::warn;

use super::labels;
use crate::telemetry::stats::Counter;

/// Namespaces and reasons that are remembered: a client names the former.
const MAX_SAID: usize = 256;

/// Who has pulled without layer labels, as far as the request shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unlabelled {
    /// containerd's CRI plugin: the kubelet, crictl.
    Cri,
    /// Another client of containerd 2.x, such as its `ctr`.
    Ctr2,
    /// A client of containerd 1.x that pulls by itself, such as its `ctr`.
    Ctr1,
}

impl Unlabelled {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cri, Self::Ctr2, Self::Ctr1];

    /// containerd 2.x passes the namespace of each request on, 1.x that of its own CRI plugin only.
    pub(super) fn of(told_namespace: Option<&str>) -> Self {
        match told_namespace {
            Some("k8s.io") => Self::Cri,
            Some(_) => Self::Ctr2,
            None => Self::Ctr1,
        }
    }

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cri => "cri",
            Self::Ctr2 => "ctr_2",
            Self::Ctr1 => "ctr_1",
        }
    }

    /// What to change, so that the next pull is lazy.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Cri => {
                "change containerd's configuration. containerd 1.x: set disable_snapshot_annotations = false in \
                 [plugins.\"io.containerd.grpc.v1.cri\".containerd]. containerd 2.x: set enable_remote_snapshot_annotations = \"true\" \
                 in [proxy_plugins.soci.exports]; with use_local_image_pull = true, also disable_snapshot_annotations = false in \
                 [plugins.'io.containerd.cri.v1.images']. `soci doctor` says which is missing"
            }
            Self::Ctr2 => {
                "set enable_remote_snapshot_annotations = \"true\" in [proxy_plugins.soci.exports] of containerd's configuration, and \
                 use ctr images pull without --local; or pull with `soci pull IMAGE`"
            }
            Self::Ctr1 => {
                "pull with `soci pull IMAGE`, nerdctl or a CRI client: ctr images pull of containerd 1.x cannot pull lazily"
            }
        }
    }
}

/// Layers that were asked for without their labels.
#[derive(Debug, Default)]
pub struct UnlabelledStats {
    layers: [Counter; Unlabelled::ALL.len()],
    said: Mutex<HashSet<(String, Unlabelled)>>,
}

impl UnlabelledStats {
    /// How many layers, for each reason, since the process started.
    pub fn by_reason(&self) -> [(Unlabelled, u64); Unlabelled::ALL.len()] {
        Unlabelled::ALL.map(|reason| (reason, self.layers[reason as usize].get()))
    }

    /// Counts a layer, and says why it is not lazy if that is new.
    pub(super) fn add(&self, told_namespace: Option<&str>, key: &str) {
        let reason = Unlabelled::of(told_namespace);
        self.layers[reason as usize].inc();
        let namespace = labels::namespace(told_namespace, key).unwrap_or_default();
        let is_new = {
            let mut said = self.said.lock();
            said.len() < MAX_SAID && said.insert((namespace.to_owned(), reason))
        };
        if is_new {
            let (client, advice) = (reason.name(), reason.advice());
            warn!(
                namespace,
                client,
                advice,
                "image is pulled whole: the client does not say which layers it wants (layer labels are missing)"
            );
        }
    }
}

/// Whether a snapshot is for unpacking an image layer, by its key: `extract-TIME-RANDOM CHAIN-ID`, behind containerd's own prefix.
pub(super) fn is_for_a_layer(key: &str) -> bool {
    let name = key.rsplit_once(' ').map(|(before, _)| before).and_then(|before| before.rsplit('/').next());
    name.is_some_and(|name| name.starts_with("extract-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_layers_are_known() {
        for key in [
            "default/12/extract-123456-abCd sha256:ab",
            "k8s.io/3/extract-1-a_b= sha256:ab",
            "extract-1-x sha256:ab",
        ] {
            assert!(is_for_a_layer(key), "{key}");
        }
        for key in
            ["default/12/container", "k8s.io/1/sha256:ab", "extract", "a/extract-1", "my extract-1", ""]
        {
            assert!(!is_for_a_layer(key), "{key}");
        }
    }

    #[test]
    fn a_reason_is_said_once_for_each_namespace_and_always_counted() {
        let stats = UnlabelledStats::default();
        for (told, key) in
            [(None, "a/1/extract-1 x"), (None, "a/2/extract-2 x"), (Some("k8s.io"), "k8s.io/3/extract-3 x")]
        {
            stats.add(told, key);
        }
        assert_eq!(
            stats.by_reason().map(|(reason, layers)| (reason.name(), layers)),
            [("cri", 1), ("ctr_2", 0), ("ctr_1", 2)]
        );
        let said = |namespace: &str, reason| stats.said.lock().contains(&(namespace.to_owned(), reason));
        assert!(said("a", Unlabelled::Ctr1) && said("k8s.io", Unlabelled::Cri));
        for number in 0..2 * MAX_SAID {
            stats.add(None, &format!("{number}/1/extract-1 x"));
        }
        assert_eq!(stats.said.lock().len(), MAX_SAID);
    }
}
