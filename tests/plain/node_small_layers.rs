//! Layers that are too small for a zTOC: with a pack they are served by their fine index, like all others; without, as a whole.

use std::sync::Arc;

use harness::faults::{Fault, When};
use harness::image::LayerSource;
use harness::node::TestNode;
use harness::pack_lab::{Lab, tar, two_layers};
use snapshotter::image::{Companions, ImageContext, LayerState};
use snapshotter::node::NodeOptions;
use soci_core::units::ByteRange;

const NEEDS: &[(usize, u64, u64)] = &[(1, 4096, 12_288), (0, 700_416, 704_512)];

/// Two layers, of which only the lower one has a zTOC.
fn lab() -> Lab {
    let mut layers = two_layers();
    layers[1].0.unindexed = true;
    Lab::new(layers)
}

fn upper(lab: &Lab, node: &TestNode, image: &Arc<ImageContext>) -> Result<LayerState, String> {
    let state = node.runtime.block_on(image.layer(&lab.image.layers[1]));
    state.map_err(|error| error.to_string())
}

#[test]
fn with_a_pack_a_layer_without_a_ztoc_is_lazy_and_nothing_of_it_is_fetched() {
    let lab = lab();
    lab.put_fine();
    lab.pack(NEEDS).put(&lab.registry);
    let here = lab.start(|_| {});
    here.packed();
    for &(layer, start, end) in NEEDS {
        here.check(layer, start, end);
    }
    assert_eq!((here.fine(), lab.layer_ranges()), (vec![true; 2], 0));
    // The manifest, its referrers, the index; fine indexes and pack, each with its manifest. No layer, and no configuration.
    let requests = lab.registry.requests();
    assert_eq!(requests.len(), 7, "{requests:#?}");
    assert_eq!(here.node.runtime.block_on(here.image.indexed_layers()).unwrap().unwrap(), lab.image.layers);
    // What the pack does not have comes by spans.
    here.check_all();
    assert_eq!(here.node.stats.pack_mismatches.get(), 0);
}

#[test]
fn without_a_pack_or_without_fine_indexes_it_comes_as_a_whole() {
    let lab = lab();
    let state = |change: fn(&mut NodeOptions)| {
        let root = tempfile::tempdir().unwrap();
        let node = TestNode::new(root.path(), |options| {
            options.pack.referrers = true;
            change(options);
        });
        let image = node.image(&lab.image);
        upper(&lab, &node, &image).unwrap()
    };
    assert!(matches!(state(|_| {}), LayerState::NoZtoc), "nothing is beside the index");
    lab.put_fine();
    assert!(matches!(state(|_| {}), LayerState::NoZtoc), "there is no pack");
    lab.pack(NEEDS).put(&lab.registry);
    assert!(matches!(state(|_| {}), LayerState::Lazy(_)));
    assert!(matches!(state(|options| options.pack.enable = false), LayerState::NoZtoc));
    assert!(matches!(state(|options| options.pack.fine = false), LayerState::NoZtoc));
}

#[test]
fn after_a_restart_it_is_lazy_again_without_a_registry_and_without_packs() {
    let lab = lab();
    let fine = lab.put_fine();
    lab.pack(NEEDS).put(&lab.registry);
    let here = lab.start(|_| {});
    here.packed();
    let digest = here.node.runtime.block_on(here.image.fine_digest());
    assert_eq!(digest, Some(fine.descriptor.digest));
    drop(here);
    lab.registry.faults().add(When::always(), Fault::Status(503, None));
    let node = lab.node(|options| options.pack.enable = false);
    let again = lab.run_with(node, Companions::Recorded { fine: digest, pack: None });
    assert_eq!(again.fine(), [true; 2]);
    let mut bytes = vec![0; 8192];
    assert!(again.layers[1].spans().read_cached(ByteRange::new(4096, 12_288), &mut bytes).unwrap());
    assert!(bytes == lab.tars[1][4096..12_288]);
}

#[test]
fn a_table_that_cannot_be_used_leaves_the_layer_to_be_fetched_whole() {
    let lab = lab();
    let mut fine = lab.fine();
    let other = LayerSource::of_tar(&tar(3));
    let wrong = Lab::new(vec![(LayerSource::of_tar(&tar(4)), tar(4)), (other, tar(3))]).fine();
    fine.tables[1].1 = wrong.tables[1].1.clone();
    fine.put(&lab.registry);
    lab.pack(&NEEDS[1..]).put(&lab.registry);
    let node = lab.node(|_| {});
    let image = node.image(&lab.image);
    let refused = upper(&lab, &node, &image).unwrap_err();
    assert_eq!(refused, "the layer has no zTOC, and its fine index cannot be used");
    let lower = node.runtime.block_on(image.layer(&lab.image.layers[0])).unwrap();
    assert!(matches!(lower, LayerState::Lazy(_)), "the other one does not mind");
}
