//! An index or a pack that advises a full pull: the layers come whole, unless the node, or what is served already, says otherwise.

use std::sync::Arc;

use harness::companions::{PackParts, REPOSITORY};
use harness::node::TestNode;
use harness::pack_lab::{Lab, two_layers};
use serde_json::Value;
use snapshotter::image::{Client, Companions, ImageContext, ImageRequest, LayerState};
use snapshotter::node::NodeOptions;
use soci_core::digest::Digest;
use soci_core::media_type;

const NEEDS: &[(usize, u64, u64)] = &[(1, 4096, 12_288), (0, 700_416, 704_512)];

/// Puts a copy of the image's index that advises something into the registry.
fn advising_index(lab: &Lab, advice: &str) -> Digest {
    let (_, raw) = lab.registry.manifest(REPOSITORY, &lab.image.index.to_string()).unwrap();
    let mut index: Value = serde_json::from_slice(&raw).unwrap();
    index["annotations"] = serde_json::json!({ media_type::START_ADVICE: advice });
    lab.registry.put_manifest(REPOSITORY, None, media_type::OCI_MANIFEST, index.to_string())
}

fn image(lab: &Lab, node: &TestNode, index: Option<Digest>, companions: Companions) -> Arc<ImageContext> {
    node.node.image(&ImageRequest {
        reference: lab.image.reference.parse().unwrap(),
        manifest_digest: lab.image.manifest,
        index_digest: index,
        companions,
        workload: None,
        client: Client::default(),
    })
}

/// Whether each layer is lazy, and whether that is by advice.
fn lazy(lab: &Lab, index: Option<Digest>, change: impl FnOnce(&mut NodeOptions)) -> (Vec<bool>, bool) {
    let root = tempfile::tempdir().unwrap();
    let node = TestNode::new(root.path(), |options| {
        options.pack.referrers = true;
        change(options);
    });
    let image = image(lab, &node, index, Companions::Discover);
    (states(lab, &node, &image), image.is_advised_whole())
}

fn states(lab: &Lab, node: &TestNode, image: &Arc<ImageContext>) -> Vec<bool> {
    let state = |layer| node.runtime.block_on(image.layer(layer)).unwrap();
    lab.image.layers.iter().map(|layer| matches!(state(layer), LayerState::Lazy(_))).collect()
}

#[test]
fn what_an_index_advises_is_obeyed_unless_the_node_does_not_want_it() {
    let lab = Lab::new(two_layers());
    let whole = advising_index(&lab, "whole");
    assert_eq!(lazy(&lab, Some(whole), |_| {}), (vec![false; 2], true));
    assert!(lab.ztocs_asked().iter().all(|asked| !asked), "nothing of it is needed");
    assert_eq!(lazy(&lab, Some(whole), |options| options.pack.advice = false), (vec![true; 2], false));
    // Words that are not known say nothing.
    for advice in ["", "WHOLE", &"whole".repeat(10_000)] {
        assert_eq!(lazy(&lab, Some(advising_index(&lab, advice)), |_| {}), (vec![true; 2], false));
    }
    assert_eq!(lazy(&lab, None, |_| {}), (vec![true; 2], false));
}

#[test]
fn the_pack_of_the_start_has_the_last_word() {
    let lab = Lab::new(two_layers());
    let whole = advising_index(&lab, "whole");
    // A pack that advises nothing is for another workload than the index was made for.
    let plain = lab.pack(NEEDS).put(&lab.registry);
    assert_eq!(lazy(&lab, Some(whole), |_| {}), (vec![true; 2], false));
    assert!(!lab.requests(&plain.blob).is_empty());

    let lab = Lab::new(two_layers());
    let advising = PackParts { advice: Some("whole".to_owned()), ..lab.pack(NEEDS) }.put(&lab.registry);
    assert_eq!(lazy(&lab, None, |_| {}), (vec![false; 2], true));
    assert!(lab.requests(&advising.blob).is_empty(), "the pack itself is of no use then");
    assert_eq!(lazy(&lab, None, |options| options.pack.advice = false), (vec![true; 2], false));
    assert_eq!(lazy(&lab, None, |options| options.pack.enable = false), (vec![true; 2], false));
}

#[test]
fn what_was_served_lazily_stays_so() {
    let lab = Lab::new(two_layers());
    let whole = advising_index(&lab, "whole");
    let node = lab.node(|_| {});
    let image = image(&lab, &node, Some(whole), Companions::Recorded { fine: None, pack: None });
    assert_eq!((states(&lab, &node, &image), image.is_advised_whole()), (vec![true; 2], false));
}
