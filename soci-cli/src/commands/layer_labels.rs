//! The labels by which a snapshotter is told which layer of which image a snapshot is for. Pure.

use std::collections::BTreeMap;

use soci_core::digest::Digest;
use soci_core::image::Image;

/// containerd's limit for a label's key and value together.
const MAX_LABEL: usize = 4096;

/// The name under which the layer is to be committed.
pub(super) const TARGET: &str = "containerd.io/snapshot.ref";
const IMAGE_REF: &str = "containerd.io/snapshot/cri.image-ref";
const MANIFEST: &str = "containerd.io/snapshot/cri.manifest-digest";
const LAYER: &str = "containerd.io/snapshot/cri.layer-digest";
const LAYERS: &str = "containerd.io/snapshot/cri.image-layers";
const SIZE: &str = "containerd.io/snapshot/remote/soci.size";
const INDEX: &str = "containerd.io/snapshot/remote/soci.index.digest";

/// The labels of layer number `at`, whose chain id is `chain`. `index`: the SOCI index to use.
pub(super) fn of_layer(
    image: &Image,
    at: usize,
    chain: &Digest,
    index: Option<&Digest>,
) -> BTreeMap<String, String> {
    let layer = &image.layers()[at];
    let labels = [
        (TARGET, chain.to_string()),
        (IMAGE_REF, image.reference.clone()),
        (MANIFEST, image.manifest.digest.to_string()),
        (LAYER, layer.digest.to_string()),
        (LAYERS, following(image.layers()[at..].iter().map(|layer| layer.digest))),
        (SIZE, layer.size.to_string()),
    ];
    let index = index.map(|index| (INDEX, index.to_string()));
    labels.into_iter().chain(index).map(|(label, value)| (label.to_owned(), value)).collect()
}

/// The comma list of layers, as many as fit into a label.
fn following(layers: impl Iterator<Item = Digest>) -> String {
    let mut list = String::new();
    for digest in layers {
        let digest = digest.to_string();
        if LAYERS.len() + list.len() + 1 + digest.len() > MAX_LABEL {
            break;
        }
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(&digest);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_layers_stays_within_a_label() {
        let digests: Vec<Digest> = (0..100u8).map(|n| Digest::of(&[n])).collect();
        let list = following(digests.iter().copied());
        assert!(LAYERS.len() + list.len() <= MAX_LABEL);
        let expected: Vec<String> = digests.iter().map(Digest::to_string).collect();
        let got: Vec<&str> = list.split(',').collect();
        assert_eq!(got, expected[..got.len()]);
        assert!(got.len() > 50);
    }
}
